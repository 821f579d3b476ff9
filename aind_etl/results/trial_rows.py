"""Rows of the trial tables, from parsed result files."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from aind_etl.contract import Table, tables
from aind_etl.contract.schemas import polars_schema
from aind_etl.results.records import KEY
from aind_etl.results.result_json import ResultError, Trials

_log = logging.getLogger(__name__)


Record = dict[str, Any]
"""A record whose trials are read: its key, ``session_month``, ``n_trials``, and the ``source_file``
that holds them, with its ``etag``."""


@dataclass(frozen=True, slots=True)
class ParsedResults:
    """The contents of a batch of result files: records with their trials, and rejected ones."""

    loaded: list[tuple[Record, Trials]] = field(default_factory=list)
    rejected: list[Record] = field(default_factory=list)

    def parse(self, record: Record, read: Callable[[], Trials | None]) -> None:
        """Read the trials of a record, if it has any, and add them or the reason against them."""
        try:
            trials = read()
        except ResultError as error:
            self.reject(record, error.reason, error.path or None, str(error))
        except Exception as error:  # noqa: BLE001 - one bad file must not stop the others
            _log.exception("A result file cannot be read")
            message = (
                f"Reading the file failed ({type(error).__name__}). Report this with the file; it "
                "is read again when the file or the code changes."
            )
            self.reject(record, "unexpected_error", None, message)
        else:
            if trials is not None:
                self._add(record, trials)

    def _add(self, record: Record, trials: Trials) -> None:
        """Add the trials of a record, if they are as many as in its document."""
        expected = record["n_trials"]
        if expected is None or expected == trials.n_trials:
            self.loaded.append((record, trials))
        else:
            message = (
                f"The file has {trials.n_trials:,} trials; expected {expected:,}, as in the "
                "document: they come from different fits. It is read again when either changes."
            )
            self.reject(record, "wrong_length", "n_trials", message)

    def reject(self, record: Record, reason: str, path: str | None, message: str) -> None:
        """Add a record whose result file could not be loaded."""
        self.rejected.append(record | {"reason": reason, "path": path, "message": message})


def trial_rows(results: ParsedResults) -> pl.DataFrame:
    """Return the rows of `trials`: n + 1 for n trials, the last one after the last trial."""
    variables = polars_schema(tables.TRIALS).names()[len(KEY) + 1 :]
    records = []
    for record, one in results.loaded:
        missing = dict.fromkeys(variables, np.full(one.n_trials + 1, np.nan))
        records.append(record | missing | one.columns)
    return _rows(tables.TRIALS, records, variables)


def other_rows(results: ParsedResults) -> pl.DataFrame:
    """Return the rows of `other_latents`, one per value."""
    records = [
        record | {"name": name, "position": position, "value": values}
        for record, one in results.loaded
        for name, rows in one.others.items()
        for position, values in enumerate(rows)
    ]
    return _rows(tables.OTHER_LATENTS, records, ["value"])


def latent_rows(results: ParsedResults, extracted_at: datetime) -> pl.DataFrame:
    """Return the rows of `analyses_latents`, one per record."""
    records = [
        record | {"n_trials": one.n_trials, "q_value_spread": one.q_value_spread}
        for record, one in results.loaded
    ]
    return _rows(tables.ANALYSES_LATENTS, records).with_columns(extracted_at=pl.lit(extracted_at))


def rejected_rows(results: ParsedResults, checked_at: datetime) -> pl.DataFrame:
    """Return the rows of `rejected_results`, one per record."""
    rows = _rows(tables.REJECTED_RESULTS, results.rejected)
    return rows.with_columns(checked_at=pl.lit(checked_at))


def _rows(table: Table, records: list[Record], variables: Sequence[str] = ()) -> pl.DataFrame:
    """Return rows of a table with ``session_month``: one per record, or per record and trial.

    Each record has an array of each of the variables, all of one length.
    """
    schema = pl.Schema({"session_month": pl.String(), **polars_schema(table)})
    by_trial = {"trial", *variables} if variables else set()
    given = {name: dtype for name, dtype in schema.items() if name not in by_trial}
    values = {name: [record.get(name) for record in records] for name in given}
    rows = pl.DataFrame(values, schema=given)
    if not variables:
        return rows
    lengths = pl.Series([len(record[variables[0]]) for record in records], dtype=pl.Int64)
    nothing = np.empty(0)
    # Whole columns at once: lists of arrays take twice as long.
    columns = [
        pl.Series(name, np.concatenate([nothing, *(record[name] for record in records)]))
        for name in variables
    ]
    return (
        rows.with_columns(trial=pl.int_ranges(lengths))
        .explode("trial", empty_as_null=False)
        .with_columns(column.fill_nan(None) for column in columns)
        .cast(schema)
    )
