"""The world that is measured on: a sample world in a real mongod, at any size.

A sample world takes a while to simulate, so it is made once, and its documents are inserted again
under other ids until there are enough: contents, kinds and sizes are those of the sample.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import orjson
from pymongo import MongoClient

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from mongod import find_mongod, running_mongod

COLLECTION = "dynamic-foraging-model-fitting"
# Enough for 20,000 different documents: the world makes more than 20 a session.
SESSIONS = 1_100
_INSERTED = 5_000


def make_dump(folder: Path) -> Path:
    """Simulate a sample world, and return the collection's file."""
    command = [Path(sys.executable).with_name("aind-etl"), "sample", folder, "--no-results"]
    command += ["--sessions", str(SESSIONS), "--seed", "0"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / f"{COLLECTION}.jsonl"


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run a mongod, and give its address."""
    folder.mkdir(parents=True, exist_ok=True)
    with running_mongod(find_mongod(), folder) as port:
        yield f"mongodb://127.0.0.1:{port}/"


def fill(address: str, dump: Path, count: int, *, more: int = 0) -> None:
    """Insert the first ``count`` documents, and ``more`` new ones after them, into a database."""
    with MongoClient[dict[str, Any]](address) as client:
        collection = client.get_default_database()[COLLECTION]
        collection.drop()
        documents = _numbered(dump)
        while batch := list(islice(documents, min(count, _INSERTED))):
            collection.insert_many(batch, ordered=False)
            count -= len(batch)
        if more:
            collection.insert_many(list(islice(_numbered(dump, "more"), more)))


def _numbered(dump: Path, label: str = "") -> Iterator[dict[str, Any]]:
    """Yield the dump's documents again and again, from the second time on under other ids."""
    lines = dump.read_bytes().splitlines()
    for number, line in enumerate(cycle(lines)):
        document = orjson.loads(line) if b"NaN" not in line else None
        if document is None:
            continue
        turn = number // len(lines)
        if turn or label:
            name = f"{document['_id']}{turn}{label}"
            document["_id"] = sha256(name.encode()).hexdigest()
        yield document
