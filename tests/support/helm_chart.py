"""A schema for the values of Dagster's Helm chart that this repository sets.

Names, types and optional keys come from the chart's own schema, its templates and its models in
several versions of Dagster. Unlike theirs it is closed: before a key is used that is missing here,
look it up in the chart. Only ``make test-chart``, which needs a network, asks the chart itself.
"""

TEXT = {"type": "string"}
NUMBER = {"type": "integer"}
YES_OR_NO = {"type": "boolean"}
ANYTHING = {"type": "object"}
PULL_POLICY = {"enum": ["Always", "IfNotPresent", "Never"]}


def the(**properties):
    """Return the schema of an object with these keys and no others."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


def all_of(**properties):
    """Return the schema of an object with these keys, of which none may be missing."""
    return the(**properties) | {"required": list(properties)}


def many(schema):
    """Return the schema of a list."""
    return {"type": "array", "items": schema}


def kubernetes(model):
    """Return the schema of a type of Kubernetes, named for :func:`kubernetes_types`."""
    return {"type": "object", "title": model}


IMAGE = all_of(repository=TEXT, tag={"type": ["string", "integer", "null"]}, pullPolicy=PULL_POLICY)
OF_A_POD = {
    "podSecurityContext": kubernetes("V1PodSecurityContext"),
    "securityContext": kubernetes("V1SecurityContext"),
    "resources": kubernetes("V1ResourceRequirements"),
}
ENVIRONMENT = many(kubernetes("V1EnvVar"))
VOLUMES = many(kubernetes("V1Volume"))
MOUNTS = many(kubernetes("V1VolumeMount"))
THREADS = the(useThreads=YES_OR_NO, numWorkers=NUMBER) | {"required": ["useThreads"]}
TICKS = all_of(
    purgeAfterDays={
        "anyOf": [NUMBER, all_of(skipped=NUMBER, success=NUMBER, failure=NUMBER, started=NUMBER)]
    }
)

CODE_LOCATION = the(
    name=TEXT,
    image=IMAGE,
    port=NUMBER,
    codeServerArgs=many(TEXT),
    includeConfigInLaunchedRuns=all_of(enabled=YES_OR_NO),
    env=ENVIRONMENT,
    volumes=VOLUMES,
    volumeMounts=MOUNTS,
    **OF_A_POD,
) | {"required": ["name", "image", "port"]}

RUN_LAUNCHER = the(
    imagePullPolicy=PULL_POLICY,
    loadInclusterConfig=YES_OR_NO,
    envConfigMaps=many(ANYTHING),
    envSecrets=many(ANYTHING),
    envVars=many(TEXT),
    volumes=VOLUMES,
    volumeMounts=MOUNTS,
    runK8sConfig=the(
        podSpecConfig=kubernetes("V1PodSpec"),
        containerConfig=kubernetes("V1Container"),
        jobSpecConfig=kubernetes("V1JobSpec"),
    ),
)
RUN_LAUNCHER["required"] = [name for name in RUN_LAUNCHER["properties"] if name != "runK8sConfig"]

_VALUES = {
    "global": the(postgresqlSecretName=TEXT, dagsterHome=TEXT),
    "generatePostgresqlPasswordSecret": YES_OR_NO,
    "postgresql": the(
        enabled=YES_OR_NO,
        postgresqlHost=TEXT,
        postgresqlUsername=TEXT,
        postgresqlDatabase=TEXT,
        postgresqlScheme=TEXT,
        service=all_of(port=NUMBER),
    ),
    "dagster-user-deployments": the(
        enabled=YES_OR_NO, enableSubchart=YES_OR_NO, deployments=many(CODE_LOCATION)
    ),
    "runLauncher": all_of(
        type={"const": "K8sRunLauncher"}, config=all_of(k8sRunLauncher=RUN_LAUNCHER)
    ),
    "dagsterWebserver": the(image=IMAGE, service=all_of(type=TEXT, port=NUMBER), **OF_A_POD),
    "dagsterDaemon": the(
        image=IMAGE,
        runCoordinator=the(enabled={"const": False}),
        # The chart's schema does not check these names: its template of dagster.yaml reads them.
        runMonitoring=the(
            enabled=YES_OR_NO,
            startTimeoutSeconds=NUMBER,
            cancelTimeoutSeconds=NUMBER,
            pollIntervalSeconds=NUMBER,
            maxRuntimeSeconds=NUMBER,
            freeSlotsAfterRunEndSeconds=NUMBER,
        ),
        runRetries=the(enabled=YES_OR_NO, maxRetries=NUMBER, retryOnAssetOrOpFailure=YES_OR_NO),
        sensors=THREADS,
        schedules=THREADS,
        **OF_A_POD,
    ),
    "retention": all_of(enabled=YES_OR_NO, schedule=TICKS, sensor=TICKS),
    "telemetry": all_of(enabled=YES_OR_NO),
    "additionalInstanceConfig": ANYTHING,
}

SCHEMA = the(**_VALUES)
"""The schema of the whole file."""


def kubernetes_types(schema, value):
    """Yield each value that is of a type of Kubernetes, with the type's name."""
    if str(schema.get("title")).startswith("V1"):
        yield schema["title"], value
    elif isinstance(value, list):
        for one in value:
            yield from kubernetes_types(schema.get("items", {}), one)
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from kubernetes_types(schema.get("properties", {}).get(name, {}), one)
