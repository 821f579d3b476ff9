"""Measures two Celery workers against one, on a source that is 20 ms away.

``python bench/workers.py`` loads the same sharded collection with one worker and with two: real
workers, Redis, PostgreSQL, a lake on an S3 endpoint, and a mongod behind a relay that delays every
request. ``tests/support/cluster.py`` starts them.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import dagster as dg
from measuring import HERE, conditions
from serving import relay
from timing import COLLECTION
from world import DOCUMENTS_PER_SESSION

sys.path.append(str(HERE.parent / "tests" / "support"))

from cluster import WORKERS, Cluster, running_cluster

from aind_etl.lake import Lake
from aind_etl.lake.resharding import plan_shards
from aind_etl.orchestration.jobs import REFRESH_COLLECTION
from aind_etl.orchestration.partitions import make_partitions, planned_partitions

SHARDS = 8
A_DAY = 86_400


def main() -> None:
    """Load with one worker and with two, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=16_000, help="approximate number")
    parser.add_argument(
        "--latency", type=float, default=0.02, help="seconds by which requests are delayed"
    )
    given = parser.parse_args()
    sessions = max(2, given.documents // DOCUMENTS_PER_SESSION)
    with (
        TemporaryDirectory(prefix="aind-etl-bench-") as scratch,
        running_cluster(Path(scratch), sessions=sessions) as cluster,
    ):
        documents = cluster.client["analysis"][COLLECTION].estimated_document_count()
        source = f"http://127.0.0.1:{cluster.client.address[1]}"
        with relay(source, given.latency) as url:
            taken = {
                number: load(cluster, number, documents, urlsplit(url).netloc) for number in (1, 2)
            }
    found = {
        "documents": documents,
        "latency_seconds": given.latency,
        "shards": SHARDS,
        "seconds": taken,
        "speed_up": taken[1] / taken[2],
        "conditions": conditions(),
    }
    print(json.dumps(found, indent=1))


def load(cluster: Cluster, number: int, documents: int, source: str) -> float:
    """Load the collection with this many workers into a lake of its own.

    Returns the seconds from the launch of the first run to the end of the last one. The workers
    are up by then.
    """
    lake = f"{cluster.lake}-{number}"
    for service in cluster.containers.services.values():
        # The hosts of a replica set, which a server names, are not behind the relay.
        service.setdefault("environment", {}).update(
            AIND_ETL_LAKE=lake,
            AIND_ETL_SOURCE=f"mongodb://{source}/analysis?directConnection=true",
        )
    os.environ.update(cluster.environment())
    workers = WORKERS[:number]
    for name in workers:
        cluster.start(name)
    cluster.wait_for_workers(workers)
    plan_shards(Lake(lake), COLLECTION, documents, -(-documents // SHARDS))
    planned = planned_partitions(Lake(lake), [COLLECTION])
    with dg.DagsterInstance.get() as instance:
        make_partitions(instance, planned)
        began = time.monotonic()
        runs = [cluster.launch(instance, REFRESH_COLLECTION, key) for key in planned[COLLECTION]]
        ended = [cluster.wait_for_run(instance, run, A_DAY) for run in runs]
        seconds = time.monotonic() - began
    for name in workers:
        cluster.end(name)
    if set(ended) != {"SUCCESS"}:
        raise SystemExit(f"Runs of {number} workers failed: {ended}.\n{cluster.said()}")
    return seconds


if __name__ == "__main__":
    main()
