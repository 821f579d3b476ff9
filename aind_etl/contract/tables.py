"""Every table: what a row is, its columns in order, its key and how it is partitioned.

The columns themselves are in :mod:`aind_etl.contract.columns`, views and marts in ``sql/``.
"""

from dataclasses import dataclass
from enum import Enum

from aind_etl.contract import columns
from aind_etl.contract.types import Column


class Partitioning(Enum):
    """How a table's files are arranged in the lake."""

    COLLECTION_AND_MONTH = ("collection", "session_month")
    """``<table>/collection=<name>/session_month=<YYYY-MM or unknown>/``"""
    COLLECTION = ("collection",)
    """``<table>/collection=<name>/``"""
    WHOLE = ()
    """``<table>/``"""
    WAREHOUSE_ONLY = None
    """Not in the lake: computed when the warehouse is built."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the lake and the warehouse.

    Attributes
    ----------
    description
        What a row is, in one sentence.
    key
        Names of the columns that together identify a row; rows are sorted by them.
    partitioning
        How the files are arranged in the lake.
    has_further_columns
        Whether its file may have columns that the contract does not list.
    """

    name: str
    description: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partitioning: Partitioning = Partitioning.COLLECTION_AND_MONTH
    has_further_columns: bool = False

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns in order."""
        return tuple(column.name for column in self.columns)


RECORD_KEY = tuple(column.name for column in columns.KEY)
"""The key of an analysis, which its child tables repeat."""

DOCUMENTS = Table(
    "documents",
    "One row per version of a document: the change log, from which everything else is derived.",
    columns.DOCUMENTS,
    ("source_collection", "record_id", "batch_id"),
    Partitioning.COLLECTION,
)
ANALYSES = Table(
    "analyses",
    "One row per analysis process: a document of the prototype format, or one entry of a framework "
    "document's data processes.",
    columns.ANALYSES,
    RECORD_KEY,
)
FIT_PARAMETERS = Table(
    "fit_parameters",
    "One row per parameter of a fitted agent.",
    columns.FIT_PARAMETERS,
    (*RECORD_KEY, "parameter"),
)
CROSS_VALIDATION = Table(
    "cross_validation",
    "One row per fold of a fit's cross-validation.",
    columns.CROSS_VALIDATION,
    (*RECORD_KEY, "fold"),
)
INPUT_ASSETS = Table(
    "input_assets",
    "One row per data asset named as an input of an analysis.",
    columns.INPUT_ASSETS,
    (*RECORD_KEY, "position"),
)
ATTRIBUTES = Table(
    "attributes",
    "One row per scalar value of a document that no other column holds.",
    columns.ATTRIBUTES,
    (*RECORD_KEY, "section", "path"),
)
RESULT_FOLDERS = Table(
    "result_folders",
    "One row per analysis with a result folder: whether the folder is there.",
    columns.RESULT_FOLDERS,
    RECORD_KEY,
)
UNCLAIMED_FOLDERS = Table(
    "unclaimed_folders",
    "One row per result folder that no record names: as of the last complete listing of the "
    "folders of a collection, and the current records of all collections.",
    columns.UNCLAIMED_FOLDERS,
    ("source_collection", "location"),
    Partitioning.COLLECTION,
)
RESULT_FILES = Table(
    "result_files",
    "One row per file in the result folder of an analysis.",
    columns.RESULT_FILES,
    (*RECORD_KEY, "file_name"),
)
TRIALS = Table(
    "trials",
    "One row per valid trial of a fitted session, and one for the state after the last trial.",
    columns.TRIALS,
    (*RECORD_KEY, "trial"),
)
ANALYSES_LATENTS = Table(
    "analyses_latents",
    "One row per analysis whose trial-by-trial variables were read.",
    columns.ANALYSES_LATENTS,
    RECORD_KEY,
)
OTHER_LATENTS = Table(
    "other_latents",
    "One row per value of a trial-by-trial variable that has no column in `trials`.",
    columns.OTHER_LATENTS,
    (*RECORD_KEY, "name", "position", "trial"),
)
REJECTED_RESULTS = Table(
    "rejected_results",
    "One row per analysis whose result file could not be loaded, with the reason.",
    columns.REJECTED_RESULTS,
    RECORD_KEY,
    Partitioning.COLLECTION,
)
REJECTED_VALUES = Table(
    "rejected_values",
    "One row per value that does not fit its column, with the reason: the column is NULL, and the "
    "rest of the record is loaded.",
    columns.REJECTED_VALUES,
    (*RECORD_KEY, "path"),
    Partitioning.COLLECTION,
)
REJECTED_DOCUMENTS = Table(
    "rejected_documents",
    "One row per document of the source without a row of `analyses`, with the reason: it is not a "
    "JSON object with an `_id`, is of neither format, or has no process.",
    columns.REJECTED_DOCUMENTS,
    ("source_collection", "record_id"),
    Partitioning.COLLECTION,
)
SESSIONS = Table(
    "sessions",
    "One row per behaviour session of the session table. It also has every column of that table, "
    "in snake case, and `principal_investigator` and `other_rows` (the further rows of the session "
    "in the session table, as JSON).",
    columns.SESSIONS,
    ("session_key",),
    Partitioning.WHOLE,
    has_further_columns=True,
)
COLLECTIONS = Table(
    "collections",
    "One row per collection of the source.",
    columns.COLLECTIONS,
    ("source_collection",),
    Partitioning.WAREHOUSE_ONLY,
)

ANALYSIS_TABLES = (ANALYSES, FIT_PARAMETERS, CROSS_VALIDATION, INPUT_ASSETS, ATTRIBUTES)
"""The tables that documents are flattened to."""

TABLES = (
    *ANALYSIS_TABLES,
    *(RESULT_FOLDERS, RESULT_FILES, TRIALS, ANALYSES_LATENTS, OTHER_LATENTS, REJECTED_RESULTS),
    *(UNCLAIMED_FOLDERS, DOCUMENTS, REJECTED_VALUES, REJECTED_DOCUMENTS, SESSIONS, COLLECTIONS),
)
"""Every table, in the order in which people are likely to need them."""

FLATTENED_TABLES = (*ANALYSIS_TABLES, REJECTED_VALUES, REJECTED_DOCUMENTS)
"""The tables that documents are flattened to, and those of what does not fit."""


def table_named(name: str) -> Table:
    """Return the table called ``name``; KeyError if there is none."""
    for table in TABLES:
        if table.name == name:
            return table
    raise KeyError(f"{name!r} is not a table; the tables are {', '.join(t.name for t in TABLES)}")
