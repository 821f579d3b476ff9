"""What the containers run, run without containers: separate processes on a real PostgreSQL."""

import json
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from containers import (
    CLONE,
    DOCKER,
    Containers,
    end_group,
    image_environment,
    read_compose,
    read_dockerfile,
    read_environment_file,
    wait_until,
)
from mongod import NoMongodError, find_mongod, running_mongod
from postgresql import NoPostgresqlError, find_postgresql, running_postgresql
from pymongo import MongoClient

from aind_etl import Warehouse

# What an address or a shell would take for something else must come through whole.
PASSWORD = "p@ss/w:rd %41'\"$x"
ENTRYPOINT = DOCKER / "entrypoint.sh"
OWN = ("code", "webserver", "daemon")
JOB = "everything"


class Deployment:
    """The services that belong together, running."""

    def __init__(self, containers: Containers) -> None:
        self.containers = containers
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, service):
        self.processes[service] = self.containers.start(service)

    def end(self, service, signal_number=signal.SIGTERM):
        end_group(self.processes.pop(service), signal_number)

    def wait_for_health(self, service, seconds=90):
        def healthy():
            assert self.processes[service].poll() is None, self.containers.said(service)
            return self.containers.check_health(service).returncode == 0

        wait_until(healthy, seconds, lambda: self.containers.said(service))

    def ask(self, query, **variables):
        """Ask the page's GraphQL, and return the data."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.containers.ports['3000']}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]

    def launch(self, job):
        query = """mutation ($parameters: ExecutionParams!) {
          launchRun(executionParams: $parameters) {
            __typename
            ... on LaunchRunSuccess { run { runId } }
            ... on PythonError { message }
          }
        }"""
        parameters = {
            "selector": {
                "repositoryLocationName": "aind_etl",
                "repositoryName": "__repository__",
                "jobName": job,
            },
            "runConfigData": {},
        }
        launched = self.ask(query, parameters=parameters)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def run_status(self, run_id):
        query = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        return self.ask(query, id=run_id)["runOrError"]["status"]

    def wait_for_run(self, run_id, seconds=120):
        def over():
            status = self.run_status(run_id)
            return status if status in {"SUCCESS", "FAILURE", "CANCELED"} else None

        return wait_until(over, seconds, lambda: self.containers.said("code"))


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    """Give code location, page and daemon on PostgreSQL, started in the order of the file."""
    folder = tmp_path_factory.mktemp("containers")
    containers = Containers(folder, {"AIND_ETL_SOURCE": "sample:?sessions=3"})
    secret = folder / "secrets" / "postgres_password"
    secret.write_text(PASSWORD + "\n")
    server = containers.services["postgres"]["environment"]
    try:
        programs = find_postgresql()
        postgresql = running_postgresql(
            programs,
            user=server["POSTGRES_USER"],
            password_file=Path(containers.translate(server["POSTGRES_PASSWORD_FILE"])),
            database=server["POSTGRES_DB"],
        )
        port = postgresql.__enter__()
    except NoPostgresqlError as error:
        pytest.skip(str(error))
    made = Deployment(containers)
    try:
        containers.hosts["postgres"] = "127.0.0.1"
        containers.ports["5432"] = port
        for service in OWN:
            made.start(service)
            made.wait_for_health(service)
        yield made
    finally:
        for service in reversed(list(made.processes)):
            made.end(service)
        postgresql.__exit__(None, None, None)


def test_every_service_passes_its_health_check(deployment):
    for service in OWN:
        checked = deployment.containers.check_health(service)
        assert checked.returncode == 0, checked.stderr


def test_the_page_finds_the_code_location(deployment):
    locations = deployment.ask(
        "{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus "
        "locationOrLoadError { __typename ... on PythonError { message } } } } } }"
    )["workspaceOrError"]["locationEntries"]
    assert [(one["name"], one["locationOrLoadError"]["__typename"]) for one in locations] == [
        ("aind_etl", "RepositoryLocation")
    ]


def test_a_run_started_on_the_page_publishes_the_warehouse(deployment):
    assert deployment.wait_for_run(deployment.launch(JOB)) == "SUCCESS"
    warehouse = Warehouse(deployment.containers.folder / "lake" / "warehouse.duckdb")
    assert warehouse.table("analyses").height > 0


def test_a_run_asked_for_while_the_daemon_is_dead_is_done_when_it_is_back(deployment):
    deployment.end("daemon", signal.SIGKILL)
    waiting = deployment.launch(JOB)
    assert deployment.run_status(waiting) == "QUEUED"
    deployment.start("daemon")
    assert deployment.wait_for_run(waiting) == "SUCCESS"
    deployment.wait_for_health("daemon")
