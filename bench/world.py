"""The worlds that are measured on: documents of a sample world in a real mongod, at any size.

A sample world takes a minute to simulate, so it is simulated once. Where more documents are wanted,
its documents come again as those of other subjects, under other ids: contents, kinds and sizes are
those of the sample. They are made by replacing texts of the same length in BSON, which takes less
than the server needs to store them.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import bson
import orjson
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))

from mongod import find_mongod, running_mongod

COLLECTION = "dynamic-foraging-model-fitting"
DOCUMENTS_A_SESSION = 20
"""The sample world makes at least so many."""

_INSERTED = 2_000
_CACHE_GIGABYTES = 3


@dataclass(frozen=True)
class Sizes:
    """How much is measured on.

    Attributes
    ----------
    documents
        Of the world for what is compared with other tools.
    large
        Of the world of the real size.
    largest
        Of the world that memory must not grow with.
    added
        New documents of a *new* pass.
    rehearsal
        Of the world on which answers are compared before anything is timed.
    result_files
        Result files of half a megabyte.
    """

    documents: int = 20_000
    large: int = 145_000
    largest: int = 500_000
    added: int = 100
    rehearsal: int = 500
    result_files: int = 2_000

    @classmethod
    def of_share(cls, share: float) -> "Sizes":
        """Return the sizes for a share of the usual ones, to see that everything runs."""
        whole = cls()
        return cls(
            *(
                max(200, round(count * share))
                for count in (whole.documents, whole.large, whole.largest)
            ),
            added=max(10, round(whole.added * share)),
            result_files=max(40, round(whole.result_files * share)),
        )


@dataclass(frozen=True)
class Original:
    """A document of the sample world.

    Attributes
    ----------
    content
        The document as BSON.
    record_id, subject_id
        The texts in it that other documents have otherwise.
    """

    content: bytes
    record_id: bytes
    subject_id: bytes


def simulate(folder: Path, documents: int) -> list[dict[str, Any]]:
    """Simulate a sample world of at least so many documents of the collection; return them."""
    command = [Path(sys.executable).with_name("aind-etl"), "sample", folder, "--no-results"]
    command += ["--sessions", str(max(40, documents // DOCUMENTS_A_SESSION)), "--seed", "0"]
    subprocess.run([*map(str, command)], check=True, stdout=subprocess.DEVNULL)
    return read_dump(folder / f"{COLLECTION}.jsonl")


def read_dump(dump: Path) -> list[dict[str, Any]]:
    """Return the documents of a collection's file, without those that orjson does not read."""
    return [orjson.loads(line) for line in dump.read_bytes().splitlines() if b"NaN" not in line]


def originals(
    documents: Sequence[dict[str, Any]], *, with_histories: bool = False
) -> list[Original]:
    """Return documents as they are copied, perhaps with the histories they were fitted to."""
    made = []
    for document in documents:
        content = bson.encode(_with_histories(document) if with_histories else document)
        made.append(Original(content, document["_id"].encode(), _subject_of(document).encode()))
    return made


def _with_histories(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document of the prototype with choices and rewards, any other as it is."""
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
    """Return the subject of a document of either format; nothing where it names none."""
    if "processing" not in document:
        return str(document.get("subject_id") or "")
    for process in document["processing"]["data_processes"]:
        outputs = process.get("output_parameters")
        if isinstance(outputs, dict) and outputs.get("subject_id"):
            return str(outputs["subject_id"])
    return ""


def copies(base: Sequence[Original], first: int, last: int) -> Iterator[RawBSONDocument]:
    """Yield the documents of numbers ``first`` to ``last``, the last left out.

    The first ones are the originals; from the second time on each has another id, and the subjects
    are others.
    """
    for number in range(first, last):
        turn, place = divmod(number, len(base))
        one = base[place]
        content = one.content
        if turn:
            digits = sha256(one.record_id + turn.to_bytes(4)).hexdigest().encode()
            content = content.replace(one.record_id, digits[: len(one.record_id)])
            if one.subject_id.isdigit():
                # A subject of its own, of as many digits.
                subject = (int(one.subject_id) + 1_009 * turn) % 10 ** len(one.subject_id)
                text = f"{subject:0{len(one.subject_id)}}".encode()
                content = content.replace(one.subject_id, text)
        yield RawBSONDocument(content)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run a mongod, and give its address."""
    folder.mkdir(parents=True, exist_ok=True)
    with running_mongod(find_mongod(), folder) as port:
        address = f"mongodb://127.0.0.1:{port}/"
        with MongoClient[dict[str, Any]](address) as client:
            # The tests' servers are small; one that is measured has its documents in memory.
            size = f"cache_size={_CACHE_GIGABYTES}G"
            client.admin.command("setParameter", 1, wiredTigerEngineRuntimeConfig=size)
        yield address


def insert(address: str, base: Sequence[Original], first: int, last: int) -> None:
    """Insert the documents of numbers ``first`` to ``last`` into a database."""
    with MongoClient[RawBSONDocument](address, document_class=RawBSONDocument) as client:
        collection = client.get_default_database()[COLLECTION]
        documents = copies(base, first, last)
        while batch := list(islice(documents, _INSERTED)):
            collection.insert_many(batch, ordered=False)
