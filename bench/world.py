"""The data of the measurements: documents of a sample world in a real mongod, at any size.

A sample world takes a minute to simulate, so it is simulated once. Larger collections repeat its
documents with other ids and subjects, so contents and sizes are those of the sample. The ids and
subjects are replaced in the BSON by texts of the same length, which is faster than the server
stores documents.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bson
import orjson
from bson.raw_bson import RawBSONDocument
from measuring import HERE
from pymongo import MongoClient
from timing import COLLECTION

sys.path.append(str(HERE.parent / "tests" / "support"))

from mongod import find_mongod, running_mongod

DOCUMENTS_PER_SESSION = 20
"""A lower bound of what the sample world has."""

_BATCH = 2_000
_CACHE_GIGABYTES = 3


@dataclass(frozen=True)
class Sizes:
    """Numbers of documents in each world, of new documents and of result files."""

    documents: int = 20_000
    large: int = 145_000
    largest: int = 500_000
    added: int = 100
    rehearsal: int = 500
    result_files: int = 2_000

    @classmethod
    def of_share(cls, share: float) -> "Sizes":
        """Return a share of the usual sizes, for a trial run."""

        def part(count: int, least: int) -> int:
            return max(least, round(count * share))

        return cls(
            documents=part(cls.documents, 200),
            large=part(cls.large, 200),
            largest=part(cls.largest, 200),
            added=part(cls.added, 10),
            result_files=part(cls.result_files, 40),
        )


@dataclass(frozen=True)
class Original:
    """A document of the sample world as BSON, with the two texts that its copies replace."""

    content: bytes
    record_id: bytes
    subject_id: bytes


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser of the options that the benchmarks have in common."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--dump", type=Path, help="a collection's .jsonl, instead of a simulation")
    parser.add_argument("--results", type=Path, default=HERE, help="folder for the results")
    return parser


@contextmanager
def server_and_documents(
    count: int, dump: Path | None
) -> Iterator[tuple[Path, str, list[dict[str, Any]]]]:
    """Give a temporary folder, the address of a mongod, and documents to copy.

    The documents are those of ``dump`` or, without one, of a sample world with at least ``count``;
    those with a NaN, which orjson does not read, are left out.
    """
    with TemporaryDirectory(prefix="aind-etl-bench-") as scratch:
        folder = Path(scratch)
        if dump is None:
            sessions = max(40, count // DOCUMENTS_PER_SESSION)
            command = [Path(sys.executable).with_name("aind-etl"), "sample", folder / "world"]
            command += ["--no-results", "--sessions", str(sessions), "--seed", "0"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            dump = folder / "world" / f"{COLLECTION}.jsonl"
        lines = dump.read_bytes().splitlines()
        documents = [orjson.loads(line) for line in lines if b"NaN" not in line]
        with running_mongod(find_mongod(), folder / "mongod") as port:
            address = f"mongodb://127.0.0.1:{port}/"
            with MongoClient[dict[str, Any]](address) as client:
                # The servers of the tests have small caches; here the documents fit into memory.
                size = f"cache_size={_CACHE_GIGABYTES}G"
                client.admin.command("setParameter", 1, wiredTigerEngineRuntimeConfig=size)
            yield folder, address, documents


def originals(
    documents: Sequence[dict[str, Any]], *, with_histories: bool = False
) -> list[Original]:
    """Return documents to copy, optionally with the choices and rewards they were fitted to."""
    return [
        Original(
            bson.encode(_with_histories(document) if with_histories else document),
            document["_id"].encode(),
            _subject_of(document).encode(),
        )
        for document in documents
    ]


def _with_histories(document: dict[str, Any]) -> dict[str, Any]:
    """Add choices and rewards to a document of the prototype; return any other unchanged."""
    fit = document.get("analysis_results")
    if not isinstance(fit, dict) or not isinstance(fit.get("n_trials"), int):
        return document
    trials = range(fit["n_trials"])
    histories = {
        "fit_choice_history": [float(number * 7 % 11 < 5) for number in trials],
        "fit_reward_history": [number * 5 % 13 < 6 for number in trials],
    }
    settings = {**fit.get("fit_settings", {}), **histories}
    return document | {"analysis_results": {**fit, "fit_settings": settings}}


def _subject_of(document: dict[str, Any]) -> str:
    """Return the subject of a document of either format, or an empty text."""
    if "processing" not in document:
        return str(document.get("subject_id") or "")
    for process in document["processing"]["data_processes"]:
        outputs = process.get("output_parameters")
        if isinstance(outputs, dict) and outputs.get("subject_id"):
            return str(outputs["subject_id"])
    return ""


def copies(base: Sequence[Original], first: int, last: int) -> Iterator[RawBSONDocument]:
    """Yield the documents with the numbers from ``first`` to ``last - 1``.

    The first ``len(base)`` are the originals; copies have other ids and subjects.
    """
    for number in range(first, last):
        turn, place = divmod(number, len(base))
        one = base[place]
        content = one.content
        if turn:
            digits = sha256(one.record_id + turn.to_bytes(4)).hexdigest().encode()
            content = content.replace(one.record_id, digits[: len(one.record_id)])
            if one.subject_id.isdigit():
                subject = (int(one.subject_id) + 1_009 * turn) % 10 ** len(one.subject_id)
                text = f"{subject:0{len(one.subject_id)}}".encode()
                content = content.replace(one.subject_id, text)
        yield RawBSONDocument(content)


def insert(address: str, base: Sequence[Original], first: int, last: int) -> None:
    """Insert the documents with the numbers from ``first`` to ``last - 1`` into a database."""
    with MongoClient[RawBSONDocument](address, document_class=RawBSONDocument) as client:
        collection = client.get_default_database()[COLLECTION]
        documents = copies(base, first, last)
        while batch := list(islice(documents, _BATCH)):
            collection.insert_many(batch, ordered=False)
