"""The Celery form of `docker/` on real parts, as plain processes of this host.

A MongoDB with the sample's documents, PostgreSQL, Redis, and a lake on an S3 endpoint behind a
proxy that fails on request; workers, code location and daemon as the compose file has them.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import s3fs
from bson import decode_file_iter
from containers import Containers, wait_until
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.launcher import LaunchRunContext
from mongod import find_mongod, running_mongod
from object_store import BUCKET, ENVIRONMENT, object_store
from pymongo import MongoClient
from redis_server import RedisServer, find_redis, running_redis
from result_endpoint import Endpoint

from aind_etl.lake import Lake
from aind_etl.sample import write_world

WORKERS = ("worker-1", "worker-2", "worker-3")
PARTITION = "dagster/partition"
PASSWORD = "of no value"


class Cluster:
    """The servers, and the processes started so far; ``store`` is the proxy before the endpoint."""

    def __init__(
        self,
        containers: Containers,
        client: MongoClient[dict[str, Any]],
        broker: RedisServer,
        store: Endpoint,
    ) -> None:
        self.containers = containers
        self.client = client
        self.broker = broker
        self.store = store
        self.lake = Lake(containers.environment("code")["AIND_ETL_LAKE"])
        self.start, self.end = containers.start, containers.end

    def worker_of(self, instance: dg.DagsterInstance, run_id: str) -> str | None:
        """Return the worker that executes a run."""
        for event in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
            if found := re.search(r"Started process for run \(pid: (\d+)\)", event.message):
                with suppress(ProcessLookupError):
                    group = os.getpgid(int(found[1]))
                    processes = self.containers.processes
                    return {one.pid: name for name, one in processes.items()}.get(group)
        return None

    def restart_ended_workers(self) -> None:
        """Restart workers, as `restart: unless-stopped` does: they may end with their broker."""
        for name in WORKERS:
            process = self.containers.processes.get(name)
            if process is not None and process.poll() is not None:
                self.start(name)

    def wait_for_workers(self, names: Sequence[str] = WORKERS) -> None:
        """Wait until workers take runs."""
        wait_until(
            lambda: all(" ready." in self.containers.said(name) for name in names), 240, self.said
        )

    def launch(
        self, instance: dg.DagsterInstance, job_name: str, partition: str | None = None
    ) -> str:
        """Start a run as the daemon does, and return its id."""
        pointer = ModuleCodePointer("aind_etl.orchestration.location", "defs")
        job = ReconstructableRepository(pointer).get_reconstructable_job(job_name)
        run = instance.create_run_for_job(
            job.get_definition(),
            job_code_origin=job.get_python_origin(),
            tags={PARTITION: partition} if partition else None,
        )
        instance.run_launcher.launch_run(LaunchRunContext(run, workspace=None))
        return run.run_id

    def wait_for_run(self, instance: dg.DagsterInstance, run_id: str, seconds: float = 240) -> str:
        """Return the status of a run once it is over."""

        def over() -> str | None:
            self.restart_ended_workers()
            run = instance.get_run_by_id(run_id)
            assert run
            return run.status.value if run.is_finished else None

        return str(wait_until(over, seconds, self.said))

    def said(self) -> str:
        """Return the last of what every process printed."""
        return "\n".join(self.containers.said(name)[-800:] for name in self.containers.processes)

    def makers(self) -> set[str]:
        """Return the workers that have taken a run so far.

        A worker that ends with its broker does not report the end of its run.
        """
        return {name for name in WORKERS if "] received" in self.containers.said(name)}

    def environment(self) -> dict[str, str]:
        """Return the environment of a process outside the containers."""
        found = self.containers.environment("code")
        del found["PATH"]
        return found | {"POSTGRES_PASSWORD": PASSWORD}


@contextmanager
def running_cluster(folder: Path, *, sessions: int, **variables: str) -> Iterator[Cluster]:
    """Run the servers, with the sample's documents in the MongoDB and without workers.

    ``variables`` are further variables of the ``.env``. A server that does not exist is an error.
    """
    with ExitStack() as stack:
        redis = find_redis()
        port = stack.enter_context(running_mongod(find_mongod(), folder / "mongod"))
        client: MongoClient[dict[str, Any]] = stack.enter_context(MongoClient("127.0.0.1", port))
        _fill(client, folder / "world", sessions)
        store = Endpoint(stack.enter_context(object_store()))
        store.start()
        stack.callback(store.stop)
        (folder / "containers").mkdir()
        containers = Containers(
            folder / "containers",
            {
                "RUNS_BY": "celery",
                "AIND_ETL_SOURCE": f"mongodb://127.0.0.1:{port}/analysis",
                "AIND_ETL_LAKE": f"s3://{BUCKET}/lake",
                "AIND_ETL_RESULTS_ROOT": "/tmp/no-results",
                "AWS_ENDPOINT_URL": store.url,
                "AWS_DEFAULT_REGION": ENVIRONMENT["AWS_DEFAULT_REGION"],
                "AWS_CREDENTIALS_FILE": "secrets/aws_credentials",
                **variables,
            },
        )
        secrets = containers.folder / "secrets"
        (secrets / "aws_credentials").write_text(
            f"[default]\naws_access_key_id = {ENVIRONMENT['AWS_ACCESS_KEY_ID']}\n"
            f"aws_secret_access_key = {ENVIRONMENT['AWS_SECRET_ACCESS_KEY']}\n"
        )
        arguments = containers.services["broker"]["command"]
        broker = stack.enter_context(running_redis(redis, *arguments[1:]))
        containers.hosts["broker:6379"] = f"127.0.0.1:{broker.port}"
        store_as_it_is = s3fs.S3FileSystem(
            key=ENVIRONMENT["AWS_ACCESS_KEY_ID"],
            secret=ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
            client_kwargs={"endpoint_url": store.url},
            skip_instance_cache=True,
        )
        store_as_it_is.mkdir(BUCKET)
        # Last, because leaving it ends the processes.
        stack.enter_context(containers.running_postgresql(PASSWORD))
        yield Cluster(containers, client, broker, store)


def _fill(client: MongoClient[dict[str, Any]], folder: Path, sessions: int) -> None:
    write_world(folder, sessions=sessions, seed=0, formats=("bson",), results=False)
    for path in sorted(folder.glob("*.bson")):
        with path.open("rb") as file:
            documents = decode_file_iter(file)
            while batch := [one for one, _ in zip(documents, range(5000), strict=False)]:
                client["analysis"][path.stem].insert_many(batch, ordered=False)
