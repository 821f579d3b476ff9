"""Names of the lake's files and folders.

Names of collections are percent-encoded in paths, so that no name can lead out of the lake.
"""

import re
from hashlib import sha256
from urllib.parse import quote, unquote

from aind_etl.contract import Table, tables
from aind_etl.contract.id_ranges import UNSHARDED, Shard

UNKNOWN_MONTH = "unknown"
"""The month of rows without a session date."""

STATE_FOLDER = "_state"
# With what is put before and after it, no file system has a longer one.
_LONGEST_NAME = 180
_KEPT_OF_NAME = 100
CUT_NAME = re.compile(r".{100}~[0-9a-f]{64}")
PART_FILE = "part.parquet"
SOURCE_HEALTH = f"{STATE_FOLDER}/source.health"
# Files of tables, and of the change log: others may lie beside them.
OWN_NAME = re.compile(r"(part(-\d+-of-\d+)?|(\d+-of-\d+-)?\d{10,}(-\d{10,})?)\.parquet")
RAW_HASHES = ".raw-hashes"
_LABEL_PIECES = 3


def shard_of(name: str) -> Shard:
    """Return which shard a file of a table or of a change log is of."""
    label, _ = label_and_rest(name.rsplit("/", 1)[-1].removesuffix(".parquet"))
    return Shard.from_label(label) or UNSHARDED


def label_and_rest(stem: str) -> tuple[str, str]:
    """Take ``3-of-8`` from ``part-3-of-8``, or from ``3-of-8-0000000012-0000000014``."""
    pieces = stem.removeprefix("part-").split("-")
    if len(pieces) >= _LABEL_PIECES and pieces[1] == "of":
        return "-".join(pieces[:_LABEL_PIECES]), "-".join(pieces[_LABEL_PIECES:])
    return "", stem


def collection_of(name: str) -> str:
    """Return the encoded collection of a file's name; empty for a table in one file."""
    folder = name.split("/")[1]
    return folder.removeprefix("collection=") if folder.startswith("collection=") else ""


def encode_name(name: str) -> str:
    """Return a name that every file system takes; one that is too long is cut, with a hash."""
    encoded = quote(name, safe="")
    if len(encoded) <= _LONGEST_NAME:
        return encoded
    return f"{encoded[:_KEPT_OF_NAME]}~{sha256(name.encode()).hexdigest()}"


def table_folder(table: Table, collection: str) -> str:
    """Return the folder of a collection's files of a table."""
    return f"{table.name}/collection={encode_name(collection)}"


def log_folder(collection: str) -> str:
    """Return the folder of a collection's change log."""
    return table_folder(tables.DOCUMENTS, collection)


def single_file(table: Table) -> str:
    """Return the file of a table that lies in one file."""
    return f"{table.name}/{PART_FILE}"


def month_of(name: str) -> str:
    """Return the session month of a partition, by the name of its file."""
    return unquote(name.rsplit("/session_month=", 1)[1].split("/", 1)[0])


def layout_name(collection: str) -> str:
    """Return the name of a collection's layout file."""
    return f"{STATE_FOLDER}/layout-of={encode_name(collection)}.json"
