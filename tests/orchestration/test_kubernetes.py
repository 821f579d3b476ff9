"""The pods of runs in Kubernetes, and the values of Dagster's chart."""

import copy
import json
import os
import re
from pathlib import Path

import dagster as dg
import helm_chart
import jsonschema
import kubernetes
import pytest
import yaml
from containers import DOCKER
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import construct_dagster_k8s_job, get_user_defined_k8s_config
from dagster_k8s.models import k8s_snake_case_dict

from aind_etl.orchestration.jobs import PUBLISH, REFRESH_COLLECTION, SESSIONS

NOWHERE = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "nowhere",
    "clusters": [{"name": "nowhere", "cluster": {"server": "http://127.0.0.1:9"}}],
    "contexts": [{"name": "nowhere", "context": {"cluster": "nowhere", "user": "nobody"}}],
    "users": [{"name": "nobody", "user": {}}],
}
POINTER = ModuleCodePointer("aind_etl.orchestration.location", "defs")
JOBS = (REFRESH_COLLECTION, SESSIONS, PUBLISH, "verify_everything")


@pytest.fixture(scope="module")
def values():
    """Return the values of the chart."""
    return yaml.safe_load((DOCKER / "helm-values.yaml").read_text())


def snake(name):
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def container_context(values):
    """Return the context that the chart derives from the values, for the pods of runs."""
    [deployment] = values["dagster-user-deployments"]["deployments"]
    assert deployment["includeConfigInLaunchedRuns"]["enabled"]
    return {
        "k8s": {
            "image_pull_policy": deployment["image"]["pullPolicy"],
            "env_config_maps": ["dagster-aind-etl-user-env"],
            "volumes": deployment["volumes"],
            "volume_mounts": deployment["volumeMounts"],
            # These replace the resources of the launcher.
            "resources": deployment["resources"],
            "namespace": "etl",
            "service_account_name": "dagster-user-deployments",
            "env": deployment["env"],
            "run_k8s_config": {"pod_spec_config": {"automount_service_account_token": True}},
        }
    }


@pytest.fixture(scope="module")
def instance(values, tmp_path_factory):
    """Return an instance with the launcher that the chart configures."""
    folder = tmp_path_factory.mktemp("kubernetes")
    nowhere = folder / "kubeconfig"
    nowhere.write_text(json.dumps(NOWHERE))
    given = values["runLauncher"]["config"]["k8sRunLauncher"]
    config = {
        snake(name): value
        for name, value in given.items()
        if name not in {"loadInclusterConfig", "runK8sConfig"}
    }
    config |= {
        "load_incluster_config": False,
        "kubeconfig_file": str(nowhere),
        "service_account_name": "dagster",
        "instance_config_map": "dagster-instance",
        "postgres_password_secret": values["global"]["postgresqlSecretName"],
        "dagster_home": values["global"]["dagsterHome"],
        "run_k8s_config": {snake(name): value for name, value in given["runK8sConfig"].items()},
    }
    launcher = {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": config}
    overrides = {"run_launcher": launcher, **values["additionalInstanceConfig"]}
    (folder / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(folder / "dagster"), overrides) as instance:
        yield instance


@pytest.fixture(scope="module", params=JOBS)
def pod(request, instance, values):
    """Return the specification of a run's pod."""
    job_name = request.param
    repository = ReconstructableRepository(POINTER, container_context=container_context(values))
    job = repository.get_reconstructable_job(job_name)
    definition = job.get_definition()
    run = instance.create_run_for_job(definition, job_code_origin=job.get_python_origin())
    launcher = instance.run_launcher
    context = K8sContainerContext.create_for_run(run, launcher, include_run_tags=True)
    config = get_user_defined_k8s_config(definition.tags)
    context = context.merge(K8sContainerContext(run_k8s_config=config))
    job_made = construct_dagster_k8s_job(
        job_config=context.get_k8s_job_config("aind-etl:0.1.0", launcher),
        args=["dagster", "api", "execute_run"],
        job_name="dagster-run-1",
        user_defined_k8s_config=context.run_k8s_config,
    )
    plain = kubernetes.client.ApiClient().sanitize_for_serialization(job_made)
    return plain["spec"]["template"]["spec"]


def test_the_memory_of_every_run_is_limited(pod):
    [container] = pod["containers"]
    memory = container["resources"]["limits"]["memory"]
    # A pod that uses more than it requests may be killed when its neighbours grow.
    assert container["resources"]["requests"]["memory"] == memory
    assert mebibytes(memory) >= 2048


def test_the_pods_of_runs_are_those_of_the_code_location(pod, values):
    [deployment] = values["dagster-user-deployments"]["deployments"]
    [container] = pod["containers"]
    assert pod["securityContext"] == deployment["podSecurityContext"]
    assert container["securityContext"] == deployment["securityContext"]
    assert {one["name"] for one in container["env"]} >= {one["name"] for one in deployment["env"]}
    mounted = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert mounted["lake"] == "/lake"
    assert mounted["scratch"] == "/scratch"


def mebibytes(text):
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", text).groups()
    return int(number) * {"Mi": 1, "Gi": 1024}[unit]


def require_known_values(values):
    """Raise an error for values that the chart or Kubernetes does not know."""
    jsonschema.validate(values, helm_chart.SCHEMA)
    for name, value in helm_chart.kubernetes_types(helm_chart.SCHEMA, values):
        k8s_snake_case_dict(getattr(kubernetes.client, name), value)


def test_the_chart_knows_all_values(values):
    require_known_values(values)
    types = {name for name, _ in helm_chart.kubernetes_types(helm_chart.SCHEMA, values)}
    assert types >= {"V1PodSecurityContext", "V1EnvVar", "V1Volume", "V1JobSpec"}


@pytest.mark.parametrize(
    "path",
    [
        ("dagsterDaemon", "runMonitoring", "maxRuntimeSeconds"),
        ("runLauncher", "config", "k8sRunLauncher", "runK8sConfig"),
        ("dagsterWebserver", "securityContext", "allowPrivilegeEscalation"),
        ("dagster-user-deployments", "enableSubchart"),
        ("postgresql",),
    ],
    ids=".".join,
)
def test_a_misspelt_value_is_detected(values, path):
    wrong = copy.deepcopy(values)
    place = wrong
    for name in path[:-1]:
        place = place[name]
    place[path[-1] + "s"] = place.pop(path[-1])
    with pytest.raises(Exception, match=f"{path[-1]}s"):
        require_known_values(wrong)


@pytest.mark.skipif(
    not os.environ.get("AIND_ETL_TEST_HELM_CHART"),
    reason="AIND_ETL_TEST_HELM_CHART names no folder with Dagster's chart (make test-chart)",
)
def test_the_values_match_the_schema_of_the_chart(values):
    chart = Path(os.environ["AIND_ETL_TEST_HELM_CHART"])
    part = "dagster-user-deployments"
    for folder, ours in ((chart, values), (chart / "charts" / part, values[part])):
        theirs = yaml.safe_load((folder / "values.yaml").read_text())
        schema = json.loads((folder / "values.schema.json").read_text())
        jsonschema.validate(merged(theirs, ours), without_remote(schema))


def merged(theirs, ours):
    """Return two sets of values merged as by Helm."""
    if not (isinstance(theirs, dict) and isinstance(ours, dict)):
        return ours
    return theirs | {name: merged(theirs.get(name), value) for name, value in ours.items()}


def without_remote(schema):
    """Return a schema without references to other hosts."""
    if isinstance(schema, list):
        return [without_remote(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: without_remote(value)
        for name, value in schema.items()
        if not (name == "$ref" and str(value).startswith("http"))
    }
