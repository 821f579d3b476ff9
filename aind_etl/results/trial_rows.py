"""Rows of the trial tables, from parsed result files."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from aind_etl.contract import Table, tables
from aind_etl.contract.schemas import polars_schema
from aind_etl.results.records import KEY
from aind_etl.results.result_json import FloatArray, ResultError, Trials

_log = logging.getLogger(__name__)


Record = dict[str, Any]
"""A record whose trials are read: its key, ``session_month``, ``n_trials``, and the ``source_file``
that holds them, with its ``etag``."""


@dataclass(frozen=True, slots=True)
class ParsedResults:
    """The contents of a batch of result files.

    Attributes
    ----------
    loaded
        Records with their trials.
    rejected
        Records with ``reason``, ``path`` and ``message``.
    """

    loaded: list[tuple[Record, Trials]] = field(default_factory=list)
    rejected: list[Record] = field(default_factory=list)

    def reject(self, record: Record, reason: str, path: str | None, message: str) -> None:
        """Add a record whose result file could not be loaded."""
        self.rejected.append(record | {"reason": reason, "path": path, "message": message})


def parse_result(
    results: ParsedResults, records: list[Record], read: Callable[[], Trials | None]
) -> None:
    """Read a result file, and add it to ``results`` for each of its records.

    Nothing is added if ``read`` returns None.
    """
    try:
        trials = read()
    except ResultError as error:
        why = (error.reason, error.path or None, str(error))
    except Exception as error:  # noqa: BLE001 - one bad file must not stop the others
        _log.exception("A result file cannot be read")
        message = (
            f"Reading the file failed ({type(error).__name__}). Report this with the file; it is "
            "read again when the file or the code changes."
        )
        why = ("unexpected_error", None, message)
    else:
        if trials is not None:
            for record in records:
                _add_trials(results, record, trials)
        return
    for record in records:
        results.reject(record, *why)


def _add_trials(results: ParsedResults, record: Record, trials: Trials) -> None:
    """Add the trials of a record, if they are as many as in its document."""
    expected = record["n_trials"]
    if expected is None or expected == trials.n_trials:
        results.loaded.append((record, trials))
    else:
        message = (
            f"The file has {trials.n_trials:,} trials; expected {expected:,}, as in the document: "
            "they come from different fits. It is read again when either changes."
        )
        results.reject(record, "wrong_length", "n_trials", message)


def trial_rows(results: ParsedResults) -> pl.DataFrame:
    """Return the rows of `trials`: n + 1 for n trials, the last one after the last trial."""
    variables = polars_schema(tables.TRIALS).names()[len(KEY) + 1 :]
    trials = [one for _, one in results.loaded]
    missing = {one.n_trials: np.full(one.n_trials + 1, np.nan) for one in trials}
    values = {
        name: [one.columns.get(name, missing[one.n_trials]) for one in trials] for name in variables
    }
    return _rows(tables.TRIALS, [record for record, _ in results.loaded], values)


def other_rows(results: ParsedResults) -> pl.DataFrame:
    """Return the rows of `other_latents`, one per value."""
    parts = [
        (record | {"name": name, "position": position}, values)
        for record, one in results.loaded
        for name, rows in one.others.items()
        for position, values in enumerate(rows)
    ]
    values = {"value": [values for _, values in parts]}
    return _rows(tables.OTHER_LATENTS, [record for record, _ in parts], values)


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


def _rows(
    table: Table, records: list[Record], values: Mapping[str, list[FloatArray]] | None = None
) -> pl.DataFrame:
    """Return rows of a table with ``session_month``, one per record, or one per value and trial."""
    schema = {"session_month": pl.String(), **dict(polars_schema(table))}
    by_trial = {"trial", *values} if values else set()
    names = [name for name in schema if name not in by_trial]
    given = {name: [record.get(name) for record in records] for name in names}
    rows = pl.DataFrame(given, schema={name: schema[name] for name in names})
    if not values:
        return rows
    lengths = pl.Series([len(array) for array in next(iter(values.values()))], dtype=pl.Int64)
    nothing = np.empty(0)
    columns = [
        pl.Series(name, np.concatenate([nothing, *arrays])) for name, arrays in values.items()
    ]
    return (
        rows.with_columns(trial=pl.int_ranges(lengths))
        .explode("trial")
        .with_columns(column.fill_nan(None) for column in columns)
        .cast(pl.Schema(schema))
    )
