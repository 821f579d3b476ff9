"""Rows of the trial tables, from parsed result files."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from aind_etl.contract import tables
from aind_etl.contract.schemas import polars_schema
from aind_etl.results.records import KEY
from aind_etl.results.result_json import ResultError, Trials

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """A record whose trials are read, and the file that holds them."""

    record_id: str
    process_index: int
    session_month: str
    n_trials: int | None
    source_file: str
    etag: str | None


RECORD_SCHEMA = {
    "record_id": pl.String(),
    "process_index": pl.Int16(),
    "session_month": pl.String(),
    "n_trials": pl.Int32(),
    "source_file": pl.String(),
    "etag": pl.String(),
}
_IDENTITY = ("record_id", "process_index", "session_month")


@dataclass
class ParsedResults:
    """The contents of a batch of result files.

    Attributes
    ----------
    loaded
        Records with their trials.
    rejected
        Records with reason, path and message.
    """

    loaded: list[tuple[ResultRecord, Trials]] = field(default_factory=list)
    rejected: list[tuple[ResultRecord, str, str | None, str]] = field(default_factory=list)


def parse_result(
    results: ParsedResults, records: list[ResultRecord], read: Callable[[], Trials | None]
) -> None:
    """Read a result file, and add it to ``results`` for each of its records.

    Nothing is added if ``read`` returns None.
    """
    try:
        trials = read()
    except ResultError as error:
        results.rejected += [
            (record, error.reason, error.path or None, str(error)) for record in records
        ]
        return
    except Exception as error:  # noqa: BLE001 - one bad file must not stop the others
        _log.exception("A result file cannot be read")
        message = (
            f"Reading the file failed ({type(error).__name__}). Report this with the file; it is "
            "read again when the file or the code changes."
        )
        results.rejected += [(record, "unexpected_error", None, message) for record in records]
        return
    if trials is None:
        return
    for record in records:
        if record.n_trials is None or record.n_trials == trials.n_trials:
            results.loaded.append((record, trials))
        else:
            message = (
                f"The file has {trials.n_trials:,} trials; expected {record.n_trials:,}, as in the "
                "document: they come from different fits. It is read again when either changes."
            )
            results.rejected.append((record, "wrong_length", "n_trials", message))


def trial_rows(records: list[ResultRecord], trials: list[Trials]) -> pl.DataFrame:
    """Return the rows of `trials`: n + 1 for n trials, the last one after the last trial."""
    lengths = [one.n_trials + 1 for one in trials]
    missing = {length: np.full(length, np.nan) for length in set(lengths)}
    columns: dict[str, NDArray[Any]] = {"trial": _ordinals(lengths)}
    for name in polars_schema(tables.TRIALS).names()[len(KEY) + 1 :]:
        values = [
            one.columns.get(name, missing[length])
            for one, length in zip(trials, lengths, strict=True)
        ]
        columns[name] = np.concatenate(values) if values else np.empty(0)
    rows = pl.DataFrame(columns).with_columns(pl.exclude("trial").fill_nan(None))
    identities = _record_rows(records).select(_IDENTITY)
    return pl.concat([_repeated(identities, lengths), rows], how="horizontal")


def other_rows(records: list[ResultRecord], trials: list[Trials]) -> pl.DataFrame:
    """Return the rows of `other_latents`, one per value."""
    parts = [
        (record, name, position, row)
        for record, one in zip(records, trials, strict=True)
        for name, values in one.others.items()
        for position, row in enumerate(values)
    ]
    lengths = [len(row) for *_, row in parts]
    identities = (
        _record_rows([record for record, *_ in parts])
        .select(_IDENTITY)
        .with_columns(
            pl.Series("name", [name for _, name, _, _ in parts], pl.String),
            pl.Series("position", [position for _, _, position, _ in parts], pl.Int16),
        )
    )
    values = pl.DataFrame(
        {
            "trial": _ordinals(lengths),
            "value": np.concatenate([row for *_, row in parts] or [np.empty(0)]),
        }
    ).with_columns(pl.col("value").fill_nan(None))
    return pl.concat([_repeated(identities, lengths), values], how="horizontal")


def latent_rows(
    records: list[ResultRecord], trials: list[Trials], extracted_at: datetime
) -> pl.DataFrame:
    """Return the rows of `analyses_latents`, one per record."""
    return _record_rows(records).with_columns(
        pl.Series("n_trials", [one.n_trials for one in trials], pl.Int32),
        pl.Series("q_value_spread", [one.q_value_spread for one in trials], pl.Float64),
        extracted_at=pl.lit(extracted_at),
    )


def rejected_rows(results: ParsedResults, checked_at: datetime) -> pl.DataFrame:
    """Return the rows of `rejected_results`, one per record."""
    schema = {"reason": pl.String, "path": pl.String, "message": pl.String}
    reasons = pl.DataFrame([why for _, *why in results.rejected], schema=schema, orient="row")
    records = _record_rows([record for record, *_ in results.rejected])
    return pl.concat([records, reasons], how="horizontal").with_columns(
        checked_at=pl.lit(checked_at)
    )


def _record_rows(records: list[ResultRecord]) -> pl.DataFrame:
    return pl.DataFrame(records, schema=RECORD_SCHEMA)


def _repeated(rows: pl.DataFrame, times: list[int]) -> pl.DataFrame:
    """Return each row as many times as ``times`` says."""
    return rows[np.repeat(np.arange(len(rows)), times)]


def _ordinals(lengths: list[int]) -> NDArray[np.int64]:
    """Return 0, 1, … up to each of ``lengths``, one after the other."""
    return np.concatenate([np.empty(0, dtype=np.int64), *(np.arange(one) for one in lengths)])
