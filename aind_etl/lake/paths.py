"""Names of the lake's files and folders.

Names of collections are percent-encoded in paths, so that no name can lead out of the lake.
"""

import re
from hashlib import sha256
from urllib.parse import quote, unquote

from aind_etl.contract import TABLES, Partitioning, Table, tables
from aind_etl.contract.id_ranges import UNSHARDED, Shard

UNKNOWN_MONTH = "unknown"
"""The month of rows without a session date."""

COLLECTION_TABLES = tuple(
    table
    for table in TABLES
    if table.partitioning in {Partitioning.COLLECTION, Partitioning.COLLECTION_AND_MONTH}
)
"""The tables, and the change log, that have a folder per collection."""

STATE_FOLDER = "_state"
PART_FILE = "part.parquet"
# With all prefixes and suffixes, a name is at most as long as every file system allows.
_LONGEST_NAME = 180
_KEPT_OF_NAME = 100
CUT_NAME = re.compile(r".{100}~[0-9a-f]{64}")
_LABEL = re.compile(r"\d+-of-\d+")
_OWN_NAME = re.compile(r"(part(-\d+-of-\d+)?|(\d+-of-\d+-)?\d{10,}(-\d{10,})?)\.parquet")


def is_own_file(name: str) -> bool:
    """Return whether a file belongs to a table or the change log, by its name."""
    return _OWN_NAME.fullmatch(name.rsplit("/", 1)[-1]) is not None


def shard_of(name: str) -> Shard:
    """Return the shard that a file of a table or of a change log belongs to, by its name."""
    label = _LABEL.match(name.rsplit("/", 1)[-1].removeprefix("part-"))
    return (label and Shard.from_label(label[0])) or UNSHARDED


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
    """Return the file of a table that is one file."""
    return f"{table.name}/{PART_FILE}"


def month_of(name: str) -> str:
    """Return the session month of a partition, by the name of its file."""
    return unquote(name.rsplit("/session_month=", 1)[1].split("/", 1)[0])


def layout_name(collection: str) -> str:
    """Return the name of a collection's layout file."""
    return f"{STATE_FOLDER}/layout-of={encode_name(collection)}.json"
