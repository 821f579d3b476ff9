"""The services of the containers, run as processes with a PostgreSQL server."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psycopg2
import pytest
import yaml
from commands import ask_page, execute
from containers import (
    CLONE,
    DOCKER,
    Containers,
    end_group,
    read_compose,
    read_dockerfile,
    read_environment_file,
    servers_or_skip,
    wait_until,
)
from mongod import mongod_or_skip
from ports import free_port
from pymongo import MongoClient
from worlds import MAIN, read_dump

from aind_etl import Warehouse
from aind_etl.sample import write_world

# Characters that have a meaning in URLs or shells.
PASSWORD = "p@ss/w:rd %41'\"$x"
ENTRYPOINT = DOCKER / "entrypoint.sh"
OWN = ("code", "webserver", "daemon")
# In one process of pytest-xdist, because they share the services.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("containers")]
REPOSITORY = {"repositoryLocationName": "aind_etl", "repositoryName": "__repository__"}


class Deployment(Containers):
    """The services of a deployment, with its page."""

    def ask(self, query, **variables):
        """Return the answer of the page's GraphQL."""
        return ask_page(f"http://127.0.0.1:{self.ports['3000']}", query, **variables)

    def launch(self, job, partition=None):
        """Launch a run on the page, and return its id."""
        query = """mutation ($parameters: ExecutionParams!) {
          launchRun(executionParams: $parameters) {
            __typename
            ... on LaunchRunSuccess { run { runId } }
            ... on PythonError { message }
          }
        }"""
        tags = [{"key": "dagster/partition", "value": partition}] if partition else []
        parameters = {
            "selector": REPOSITORY | {"jobName": job},
            "runConfigData": {},
            "executionMetadata": {"tags": tags},
        }
        launched = self.ask(query, parameters=parameters)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def run_status(self, run_id):
        """Return the status of a run."""
        query = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        return self.ask(query, id=run_id)["runOrError"]["status"]

    def wait_for_run(self, run_id, seconds=300):
        """Return the status of a run once it has ended."""

        def ended():
            status = self.run_status(run_id)
            return status if status in {"SUCCESS", "FAILURE", "CANCELED"} else None

        return wait_until(ended, seconds, lambda: self.said("code"))


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Yield a collection of a MongoDB server with the documents of a small world."""
    folder = tmp_path_factory.mktemp("source")
    write_world(folder, sessions=2, seed=0, formats=("jsonl",), results=False)
    with mongod_or_skip(folder / "mongod") as port, MongoClient("127.0.0.1", port) as client:
        client["analysis"][MAIN].insert_many(read_dump(folder))
        yield client["analysis"][MAIN]


@pytest.fixture(scope="module")
def deployment(collection, tmp_path_factory):
    """Yield code location, page and daemon with PostgreSQL, started as by compose."""
    folder = tmp_path_factory.mktemp("containers")
    host, port = collection.database.client.address
    deployment = Deployment(
        folder,
        {
            "AIND_ETL_SOURCE": f"mongodb://{host}:{port}/analysis",
            "AIND_ETL_RESULTS_ROOT": "/tmp/no-results",
            "AIND_ETL_SENSOR_INTERVAL_SECONDS": "5",
        },
    )
    with servers_or_skip(), deployment.running_postgresql(PASSWORD):
        deployment.start("code")
        deployment.wait_for_health("code")
        deployment.start("webserver")
        deployment.start("daemon")
        deployment.wait_for_health("webserver")
        deployment.wait_for_health("daemon")
        yield deployment


def test_the_page_finds_the_code_location(deployment):
    locations = deployment.ask(
        "{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus "
        "locationOrLoadError { __typename ... on PythonError { message } } } } } }"
    )["workspaceOrError"]["locationEntries"]
    assert [(one["name"], one["locationOrLoadError"]["__typename"]) for one in locations] == [
        ("aind_etl", "RepositoryLocation")
    ]


def wait_for_record(deployment, record_id):
    """Wait until the warehouse has a record."""
    path = deployment.folder / "lake" / "warehouse.duckdb"

    def published():
        return path.exists() and record_id in set(Warehouse(path).table("analyses")["record_id"])

    wait_until(published, 480, lambda: deployment.said("daemon"))


def test_the_warehouse_is_published(deployment, collection):
    wait_for_record(deployment, str(collection.find_one()["_id"]))


def test_a_document_inserted_into_the_source_appears_in_the_warehouse(deployment, collection):
    collection.insert_one(collection.find_one() | {"_id": "inserted"})
    wait_for_record(deployment, "inserted")


def test_a_run_launched_while_the_daemon_is_dead_is_executed_later(deployment):
    deployment.end("daemon", signal.SIGKILL)
    waiting = deployment.launch("publish_warehouse")
    assert deployment.run_status(waiting) == "QUEUED"
    deployment.start("daemon")
    assert deployment.wait_for_run(waiting) == "SUCCESS"


@pytest.mark.long
def test_a_run_that_is_killed_with_its_code_location_is_repeated(deployment, collection):
    collection.insert_one(collection.find_one() | {"_id": "meanwhile"})
    killed = deployment.launch("refresh_collection", MAIN)
    wait_until(
        lambda: deployment.run_status(killed) == "STARTED", 120, lambda: deployment.said("daemon")
    )
    deployment.end("code", signal.SIGKILL)
    deployment.start("code")
    assert deployment.wait_for_run(killed) == "FAILURE"
    wait_for_record(deployment, "meanwhile")
    verified = deployment.run("code", ["aind-etl", "verify"])
    assert verified.returncode == 0, verified.stdout


@pytest.mark.long
def test_after_the_loss_of_the_database_new_documents_are_published(deployment, collection):
    wait_for_record(deployment, str(collection.find_one()["_id"]))
    for service in OWN:
        deployment.end(service, signal.SIGKILL)
    collection.insert_one(collection.find_one() | {"_id": "after the loss"})
    connection = psycopg2.connect(
        host="127.0.0.1",
        port=deployment.ports["5432"],
        user="dagster",
        password=PASSWORD,
        dbname="postgres",
    )
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("DROP DATABASE dagster WITH (FORCE)")
        cursor.execute("CREATE DATABASE dagster")
    connection.close()
    for service in OWN:
        deployment.start(service)
    for service in OWN:
        deployment.wait_for_health(service)
    wait_for_record(deployment, "after the loss")
    verified = deployment.run("code", ["aind-etl", "verify"])
    assert verified.returncode == 0, verified.stdout


def test_the_database_can_be_migrated_as_documented(deployment):
    words = ["/opt/aind-etl/entrypoint.sh", "dagster", "instance", "migrate"]
    assert " ".join(words[1:]) in (DOCKER / "README.md").read_text()
    migrated = deployment.run("code", words)
    assert migrated.returncode == 0, migrated.stderr


def test_the_services_write_no_files_outside_their_volumes(deployment):
    # Dagster tries to create folders for telemetry, and ignores failures.
    home = deployment.home
    files = [path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()]
    assert sorted(files) == ["dagster.yaml", "workspace.yaml"]


def test_the_output_of_the_services_contains_no_secret(deployment):
    for service in OWN:
        assert PASSWORD not in deployment.said(service)


def run_entrypoint(command, **environment):
    return execute(ENTRYPOINT, *command, env={"PATH": os.environ["PATH"], **environment})


def test_a_secret_in_a_file_reaches_the_command(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD + "\n")
    ran = run_entrypoint(["printenv", "POSTGRES_PASSWORD"], POSTGRES_PASSWORD_FILE=str(secret))
    assert ran.stdout == PASSWORD + "\n"
    assert ran.stderr == ""


def test_a_command_without_secrets_is_run_unchanged():
    ran = run_entrypoint(["sh", "-c", "exit 7"], AIND_ETL_ALERT_WEBHOOK_URL_FILE="")
    assert (ran.returncode, ran.stdout, ran.stderr) == (7, "", "")


@pytest.mark.parametrize(
    ("content", "environment", "said"),
    [
        (None, {}, "cannot be read by user"),
        ("", {}, "is empty"),
        ("\n", {}, "is empty"),
        ("first", {"POSTGRES_PASSWORD": "second"}, "Both POSTGRES_PASSWORD and"),
    ],
)
def test_a_secret_that_cannot_be_read_ends_the_container_with_an_explanation(
    tmp_path, content, environment, said
):
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_text(content)
    ran = run_entrypoint(["true"], POSTGRES_PASSWORD_FILE=str(secret), **environment)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert "POSTGRES_PASSWORD_FILE" in ran.stderr
    assert "first" not in ran.stderr
    assert "second" not in ran.stderr


def test_the_demonstration_loads_a_mongodb_and_keeps_later_changes(tmp_path):
    containers = Containers(tmp_path, read_environment_file(DOCKER / "demo.env"))
    command = containers.command("demo-world")
    # Fewer sessions than the demonstration has.
    assert command[-1] == "24"
    command[-1] = "2"
    with mongod_or_skip(tmp_path / "mongod") as port:
        containers.hosts["demo-mongodb:27017"] = f"127.0.0.1:{port}"
        filled = containers.run("demo-world", command)
        assert filled.returncode == 0, filled.stderr
        with MongoClient(containers.environment("code")["AIND_ETL_SOURCE"]) as client:
            collection = client.get_default_database()[MAIN]
            count = collection.count_documents({})
            assert count > 10
            collection.delete_one({})
            assert containers.run("demo-world", command).returncode == 0
            assert collection.count_documents({}) == count - 1


def test_the_demonstration_serves_the_result_folders_as_an_object_store(tmp_path):
    import s3fs

    containers = Containers(tmp_path, read_environment_file(DOCKER / "demo.env"))
    folder = tmp_path / "demo" / "world" / "results" / "bucket" / "folder"
    folder.mkdir(parents=True)
    (folder / "fit.json").write_text("{}")
    rclone = shutil.which("rclone", path=str(Path(sys.executable).parent))
    address = f"127.0.0.1:{free_port()}"
    command = [
        address if word == ":8080" else containers.translate(word)
        for word in containers.services["demo-s3"]["command"]
    ]
    process = subprocess.Popen(
        [rclone, *command, "--config", "/dev/null"], stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        store = s3fs.S3FileSystem(
            anon=True,
            client_kwargs={"endpoint_url": f"http://{address}"},
            config_kwargs={"s3": {"addressing_style": "path"}},
            skip_instance_cache=True,
        )

        def served():
            try:
                return store.ls("bucket/folder", refresh=True)
            except OSError:
                return None

        assert wait_until(served, 20, str) == ["bucket/folder/fit.json"]
    finally:
        end_group(process, signal.SIGTERM)


def test_image_and_code_location_have_the_same_command_and_health_check():
    final = dict(read_dockerfile()[-1])
    code = read_compose({})["services"]["code"]
    assert json.loads(final["CMD"]) == code["command"]
    health = final["HEALTHCHECK"].partition("CMD ")[2]
    assert ["CMD", *json.loads(health)] == code["healthcheck"]["test"]


def test_the_image_runs_without_privileges_and_contains_no_compiler():
    build, final = read_dockerfile()
    instructions = dict(final)
    assert instructions["USER"] == "10001:10001"
    assert "slim" in (DOCKER / "Dockerfile").read_text().splitlines()[3]
    assert not any(
        "apt-get" in rest for instruction, rest in [*build, *final] if instruction == "RUN"
    )


def test_no_container_has_access_to_the_engine_and_each_has_limits():
    services = read_compose({})["services"]
    assert "docker.sock" not in (DOCKER / "compose.yaml").read_text()
    for name, service in services.items():
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, name
        assert service["logging"]["options"]["max-size"], name
        assert service["restart"] in {"unless-stopped", "no"}, name


def test_there_are_as_many_workers_as_concurrent_runs():
    instance = yaml.safe_load((DOCKER / "dagster.yaml").read_text())
    worker = read_compose({})["services"]["worker"]
    assert (
        int(worker["deploy"]["replicas"]) == instance["concurrency"]["runs"]["max_concurrent_runs"]
    )
    command = worker["command"]
    assert command[command.index("--concurrency") + 1] == "1"
    assert "--disable-prefetch" in command


def test_workers_and_launcher_of_celery_are_configured_alike():
    worker = yaml.safe_load((DOCKER / "celery-worker.yaml").read_text())
    launcher = yaml.safe_load((DOCKER / "celery-launcher.yaml").read_text())["run_launcher"]
    assert {**worker, "default_queue": "dagster"} == launcher["config"]


def test_workers_are_configured_like_the_code_location():
    services = read_compose({})["services"]
    for part in ("environment", "secrets", "volumes", "image"):
        assert services["worker"][part] == services["code"][part]


def test_all_files_of_the_image_are_sent_to_the_builder():
    copied = [
        source
        for instruction, rest in [*read_dockerfile()[0], *read_dockerfile()[1]]
        if instruction == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
        if not source.startswith("--") and source != "."
    ]
    sent = [
        line[1:] for line in (CLONE / ".dockerignore").read_text().splitlines() if line[0] == "!"
    ]
    for path in copied:
        assert any(path == one or path.startswith(f"{one}/") for one in sent), path
        assert (CLONE / path).exists()
    # Further files of the wheel.
    assert {"aind_etl", "sql", "dagster_home/dagster.yaml", "README.md", "LICENSE"} <= set(sent)


def test_containers_differ_from_a_clone_only_in_their_storage():
    clone = yaml.safe_load((CLONE / "dagster_home" / "dagster.yaml").read_text())
    containers = yaml.safe_load((DOCKER / "dagster.yaml").read_text())
    places = {"storage", "compute_logs", "local_artifact_storage"}
    assert {k: v for k, v in containers.items() if k not in places} == {
        k: v for k, v in clone.items() if k not in places
    }


def test_kubernetes_is_configured_like_containers():
    values = yaml.safe_load((DOCKER / "helm-values.yaml").read_text())
    instance = yaml.safe_load((DOCKER / "dagster.yaml").read_text())
    assert values["additionalInstanceConfig"] == {
        name: instance[name] for name in ("nux", "concurrency")
    }
    for name in ("run_monitoring", "run_retries", "sensors", "schedules", "telemetry"):
        theirs = (values if name == "telemetry" else values["dagsterDaemon"])[camel(name)]
        assert {camel(key): value for key, value in instance[name].items()} == theirs
    ours, theirs = instance["retention"], values["retention"]
    assert theirs["schedule"]["purgeAfterDays"] == ours["schedule"]["purge_after_days"]
    # The chart also requires a number for started ticks.
    ticks = ours["sensor"]["purge_after_days"]
    assert ticks.items() <= theirs["sensor"]["purgeAfterDays"].items()
    [deployment] = values["dagster-user-deployments"]["deployments"]
    command = read_compose({})["services"]["code"]["command"]
    assert command[-len(deployment["codeServerArgs"]) :] == deployment["codeServerArgs"]
    assert deployment["podSecurityContext"]["runAsUser"] == 10001
    database = instance["storage"]["postgres"]["postgres_db"]
    assert values["postgresql"]["postgresqlScheme"] == database["scheme"]


def camel(name):
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


@pytest.mark.skipif(
    not os.environ.get("AIND_ETL_TEST_IMAGE"),
    reason="AIND_ETL_TEST_IMAGE is not set: installing everything anew takes minutes",
)
def test_the_build_steps_of_the_image_install_a_working_command(tmp_path):
    def here(text):
        return text.replace("/opt/aind-etl/venv", str(tmp_path / "venv"))

    build = tmp_path / "build"
    build.mkdir()
    # The host decides where packages come from.
    environment = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    environment |= {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    for instruction, rest in read_dockerfile()[0]:
        if instruction == "ENV":
            name, _, value = here(rest).partition("=")
            environment[name] = value.replace("$PATH", environment["PATH"])
        elif instruction == "COPY":
            *sources, target = rest.split()
            for source in sources:
                copy_as_sent(source, build / target)
        elif instruction == "RUN":
            command = re.sub(r"^--mount=\S+ ", "", here(rest))
            subprocess.run(["sh", "-ec", command], check=True, cwd=build, env=environment)
    ran = run_entrypoint(
        ["aind-etl", "run", "--source", "sample:?sessions=1", "--lake", str(tmp_path / "lake")],
        PATH=environment["PATH"],
        HOME=str(tmp_path),
    )
    assert ran.returncode == 0, ran.stderr
    assert not (tmp_path / "venv" / "bin" / "pip").exists()


def copy_as_sent(source, target):
    """Copy the files that `.dockerignore` allows, as the builder does."""
    lines = (CLONE / ".dockerignore").read_text().splitlines()
    sent = [line[1:] for line in lines if line.startswith("!")]
    for name in sent:
        if source not in {".", name}:
            continue
        place = target / (name if source == "." else Path(name).name)
        place.parent.mkdir(parents=True, exist_ok=True)
        if (CLONE / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(CLONE / name, place, ignore=ignore, dirs_exist_ok=True)
        else:
            shutil.copy(CLONE / name, place)
