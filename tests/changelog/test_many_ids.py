"""A new pass over many ids: what it reads and how much memory it needs.

``AIND_ETL_TEST_IDS`` is the number of ids.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from mongod import mongod_or_skip
from pymongo import MongoClient
from worlds import MAIN, NEEDS_PROC, data_files_of

pytestmark = pytest.mark.slow

IDS = int(os.environ.get("AIND_ETL_TEST_IDS", "30000"))
CHANGES = 100
# A pass takes about 100,000 without the mapped files of libraries, which do not count: how much of
# them the system maps depends on its cache.
MOST_KIBIBYTES = 200_000

PASS = dedent("""\
    import re, sys
    from pathlib import Path
    from aind_etl.changelog.passes import Pass, extract_collection
    from aind_etl.lake import Lake
    from aind_etl.sources.mongodb import MongoSource

    address, lake, collection, kind = sys.argv[1:]
    with MongoSource(address) as source:
        report = extract_collection(source, Lake(Path(lake)), collection, Pass(kind))
    status = Path("/proc/self/status").read_text()
    most, mapped = (
        int(re.search(rf"{name}:\\s+(\\d+)", status)[1]) for name in ("VmHWM", "RssFile")
    )
    print(report.new, report.changed, report.deleted, report.read, most - mapped)
""")


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[MongoClient[dict[str, Any]], str]]:
    """Yield a client of a server with many documents, and its address."""
    with (
        mongod_or_skip(tmp_path_factory.mktemp("many-mongod")) as port,
        MongoClient[dict[str, Any]]("127.0.0.1", port) as client,
    ):
        insert(client, 0, IDS)
        yield client, f"mongodb://127.0.0.1:{port}/analysis"


def insert(client: MongoClient[dict[str, Any]], first: int, number: int) -> None:
    for begin in range(first, first + number, 50_000):
        numbers = range(begin, min(first + number, begin + 50_000))
        client["analysis"][MAIN].insert_many(
            ({"_id": sha256(str(n).encode()).hexdigest(), "status": "success"} for n in numbers),
            ordered=False,
        )


def make_pass(address: str, lake: Path, kind: str) -> list[int]:
    """Make a pass in a new process; return what it found, and its peak memory in KiB."""
    command = [sys.executable, "-c", PASS, address, str(lake), MAIN, kind]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [int(number) for number in done.stdout.split()]


def documents_read(client: MongoClient[dict[str, Any]]) -> int:
    """Return how many whole documents the server returned to the program under test."""
    reads = {"appName": "aind-etl", "op": "query", "command.projection": {"$exists": False}}
    return sum(one["nreturned"] for one in client["analysis"]["system.profile"].find(reads))


@NEEDS_PROC
def test_a_new_pass_over_many_ids_reads_only_new_documents_in_little_memory(server, tmp_path):
    client, address = server
    *loaded, first_peak = make_pass(address, tmp_path, "new")
    assert loaded == [IDS, 0, 0, IDS]
    files = data_files_of(tmp_path)
    # The collection that questions are noted in is made too small for so many, unless it is there.
    client["analysis"].create_collection("system.profile", capped=True, size=256 << 20)
    client["analysis"].command("profile", 2)
    *nothing, idle_peak = make_pass(address, tmp_path, "new")
    assert nothing == [0, 0, 0, 0]
    assert data_files_of(tmp_path) == files
    insert(client, IDS, CHANGES)
    *found, peak = make_pass(address, tmp_path, "new")
    client["analysis"].command("profile", 0)
    assert found == [CHANGES, 0, 0, CHANGES]
    assert documents_read(client) == CHANGES
    *compared, full_peak = make_pass(address, tmp_path, "full")
    assert compared == [0, 0, 0, IDS + CHANGES]
    peaks = {"first": first_peak, "nothing new": idle_peak, "new": peak, "full": full_peak}
    assert max(peaks.values()) < MOST_KIBIBYTES, peaks
