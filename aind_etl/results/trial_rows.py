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
from aind_etl.results.inventory import KEY
from aind_etl.results.result_json import ResultError, Trials

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """A record whose trials are read, with the file they are read from."""

    record_id: str
    process_index: int
    session_month: str
    n_trials: int | None
    source_file: str
    etag: str | None


RECORD_SCHEMA = tuple(ResultRecord.__dataclass_fields__)


@dataclass
class ParsedResults:
    """The contents of a batch of result files."""

    loaded: list[tuple[ResultRecord, Trials]] = field(default_factory=list)
    rejected: list[tuple[ResultRecord, str, str | None, str]] = field(default_factory=list)

    def reject(self, record: ResultRecord, reason: str, path: str | None, message: str) -> None:
        """Take note that a record's result file cannot be taken."""
        self.rejected.append((record, reason, path or None, message))


def parse_result(
    found: ParsedResults, records: list[ResultRecord], read: Callable[[], Trials | None]
) -> None:
    """Take note of what a result file tells of the records it belongs to."""
    try:
        trials = read()
    except ResultError as error:
        for record in records:
            found.reject(record, error.reason, error.path, str(error))
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, it is logged
        # One file must not keep the others from being read.
        _log.exception("A result file cannot be read")
        for record in records:
            found.reject(
                record,
                "unexpected_error",
                None,
                f"Reading the file failed ({type(error).__name__}). Report this with the file; it "
                "is retried when the file or the code changes.",
            )
        return
    if trials is None:
        return
    for record in records:
        if record.n_trials is not None and record.n_trials != trials.n_trials:
            found.reject(
                record,
                "wrong_length",
                "n_trials",
                f"{record.n_trials:,} trials were expected, as the document says, and "
                f"{trials.n_trials:,} found: file and document are of different fits. It is tried "
                "again when either changes.",
            )
        else:
            found.loaded.append((record, trials))


def repeated(records: list[ResultRecord], lengths: list[int]) -> pl.DataFrame:
    """Return the key and month of each record, as often as it has rows."""
    keys = pl.DataFrame(
        {
            "record_id": [record.record_id for record in records],
            "process_index": [record.process_index for record in records],
            "session_month": [record.session_month for record in records],
        },
        schema={"record_id": pl.String, "process_index": pl.Int16, "session_month": pl.String},
    )
    return keys[np.repeat(np.arange(len(records)), lengths)]


def trial_rows(records: list[ResultRecord], trials: list[Trials]) -> pl.DataFrame:
    """Return the rows of `trials`: for n trials n + 1, the last one the state after the last."""
    lengths = [one.n_trials + 1 for one in trials]
    schema = polars_schema(tables.TRIALS)
    missing = {length: np.full(length, np.nan) for length in set(lengths)}
    columns: dict[str, NDArray[Any]] = {"trial": _ordinals(lengths)}
    for name in schema.names()[len(KEY) + 1 :]:
        values = [
            one.columns.get(name, missing[length])
            for one, length in zip(trials, lengths, strict=True)
        ]
        columns[name] = np.concatenate(values) if values else np.empty(0)
    rows = pl.DataFrame(columns).with_columns(pl.exclude("trial").fill_nan(None))
    return pl.concat([repeated(records, lengths), rows], how="horizontal")


def other_rows(records: list[ResultRecord], trials: list[Trials]) -> pl.DataFrame:
    """Return the rows of `other_latents`, one a value."""
    parts = [
        (record, name, position, row)
        for record, one in zip(records, trials, strict=True)
        for name, values in one.others.items()
        for position, row in enumerate(values)
    ]
    lengths = [len(row) for *_, row in parts]
    named = pl.DataFrame(
        {
            "name": [name for _, name, _, _ in parts],
            "position": [place for _, _, place, _ in parts],
        },
        schema={"name": pl.String, "position": pl.Int16},
    )
    values = pl.DataFrame(
        {
            "trial": _ordinals(lengths),
            "value": np.concatenate([row for *_, row in parts] or [np.empty(0)]),
        }
    ).with_columns(pl.col("value").fill_nan(None))
    return pl.concat(
        [
            repeated([record for record, *_ in parts], lengths),
            named[np.repeat(np.arange(len(parts)), lengths)],
            values,
        ],
        how="horizontal",
    )


def _ordinals(lengths: list[int]) -> NDArray[np.int64]:
    """Return 0, 1, … up to each of ``lengths``, one after the other."""
    return np.concatenate([np.empty(0, dtype=np.int64), *(np.arange(one) for one in lengths)])


def latent_rows(
    records: list[ResultRecord], trials: list[Trials], moment: datetime
) -> pl.DataFrame:
    """Return the rows of `analyses_latents`, one a record."""
    told = pl.DataFrame(
        {
            "n_trials": [one.n_trials for one in trials],
            "q_value_spread": [one.q_value_spread for one in trials],
            "source_file": [record.source_file for record in records],
            "etag": [record.etag for record in records],
        },
        schema={
            "n_trials": pl.Int32,
            "q_value_spread": pl.Float64,
            "source_file": pl.String,
            "etag": pl.String,
        },
    ).with_columns(extracted_at=pl.lit(moment))
    return pl.concat([repeated(records, [1] * len(records)), told], how="horizontal")
