"""Rows and columns of the table `sessions`, from the session table."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from unicodedata import normalize

import orjson
import polars as pl

from aind_etl.contract import Column, DataType, Table, tables
from aind_etl.contract.columns import ADDED_SESSION_COLUMNS
from aind_etl.contract.schemas import POLARS_TYPES, polars_schema
from aind_etl.contract.session_labels import describe
from aind_etl.errors import DataError
from aind_etl.flatten import derived

_KNOWN_COLUMNS = (*tables.SESSIONS.columns, *ADDED_SESSION_COLUMNS)
_KNOWN_NAMES = frozenset(column.name for column in _KNOWN_COLUMNS)
_TYPES: dict[pl.DataType, DataType] = {ours: name for name, ours in POLARS_TYPES.items()}


def session_rows(
    frame: pl.DataFrame,
    labels: Sequence[Sequence[str]],
    investigators: Mapping[str, str] | None = None,
) -> tuple[Table, pl.DataFrame]:
    """Return the table `sessions` with the further columns of a session table, and its rows.

    The rows are one per session key, and every row without one. A table without a column of
    subjects or of days raises a :class:`DataError`.

    Parameters
    ----------
    frame
        The columns of the session table.
    labels
        The labels of each column: several where the table has levels of columns, the last one its
        name.
    investigators
        Subject to principal investigator; None for those in the table's column ``PI``.
    """
    names = column_names(labels)
    frame = frame.rename(dict(zip(frame.columns, names, strict=True)))
    nested = {name for name in names if frame[name].dtype.is_nested()}
    frame = frame.select(_typed(frame[name]) for name in names)
    missing = [name for name in ("subject_id", "session_date") if name not in names]
    if missing:
        raise DataError(
            f"It has no column {' and no column '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, names))}."
        )
    further = [
        Column(name, describe(label, is_json=name in nested), type=_TYPES[frame[name].dtype])
        for name, label in zip(names, labels, strict=True)
        if name not in _KNOWN_NAMES
    ]
    subject = pl.col("subject_id").cast(pl.String)
    investigator = pl.lit(None, pl.String)
    if investigators is not None:
        investigator = subject.replace_strict(investigators, default=None, return_dtype=pl.String)
    elif "pi" in names:
        investigator = pl.col("pi").cast(pl.String)
    keyed = frame.with_columns(
        subject_id=subject.str.strip_suffix(".0"), session_date=_day(frame["session_date"])
    ).with_columns(session_key=_session_key(frame), principal_investigator=investigator)
    table = replace(tables.SESSIONS, columns=(*_KNOWN_COLUMNS, *further))
    return table, _one_row_per_session(keyed).select(polars_schema(table).names())


def column_names(labels: Sequence[Sequence[str]]) -> list[str]:
    """Return the names of columns in snake case, from their labels in the frame.

    A column is named after its last label, by which people know it. Where several columns would
    have the same name, each is named after all of its labels, with a number if these are the same
    too. Of the contract's names, only the first column with the label takes it.
    """
    last = [snake_case(label[-1] if label else "") for label in labels]
    often = Counter(last)
    taken: set[str] = set()
    names = []
    for label, short in zip(labels, last, strict=True):
        is_own = short in ("subject_id", "session_date") and short not in taken
        is_free = often[short] == 1 and short not in _KNOWN_NAMES
        name = short if is_own or is_free else snake_case("_".join(label))
        unique = next(
            one
            for one in chain([name], (f"{name}_{number}" for number in count(2)))
            if one not in taken
            and (is_own or one not in _KNOWN_NAMES)
            and (one == short or not often[one])
        )
        taken.add(unique)
        names.append(unique)
    return names


def snake_case(label: str) -> str:
    """Return a label in snake case: small letters, digits and ``_``, a letter first.

    Accents are dropped; all other characters separate words.
    """
    plain = normalize("NFKD", label).encode("ascii", "ignore").decode()
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", plain)
    name = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
    return name if name and name[0].isalpha() else f"column_{name}".rstrip("_")


def _typed(values: pl.Series) -> pl.Series:
    """Return values in the nearest type of the contract.

    Nested ones become JSON, durations seconds, and times with a zone those of UTC.
    """
    dtype = values.dtype
    if dtype.is_nested():
        texts = [None if one is None else json.dumps(one, default=str) for one in values.to_list()]
        return pl.Series(values.name, texts, pl.String)
    if dtype == pl.Duration:
        return values.dt.total_seconds(fractional=True)
    nearest: pl.DataType = dtype if dtype in (pl.Boolean, pl.Date, pl.Time) else pl.String()
    if dtype.is_float() or dtype.is_decimal():
        nearest = pl.Float64()
    elif dtype.is_integer() and not (dtype == pl.UInt64 and (values > 2**63 - 1).any()):
        nearest = pl.Int64()
    elif isinstance(dtype, pl.Datetime):
        nearest = pl.Datetime("us", dtype.time_zone and "UTC")
    return values.cast(nearest)


def _day(values: pl.Series) -> pl.Series:
    if values.dtype == pl.String:
        return values.to_frame().select(derived.day(pl.col(values.name))).to_series()
    if values.dtype == pl.Date or isinstance(values.dtype, pl.Datetime):
        return values.cast(pl.Date)
    return pl.Series(values.name, [None] * len(values), pl.Date)


def _session_key(frame: pl.DataFrame) -> pl.Expr:
    """Return the key of each session, by the rule of the analyses.

    The table has the parts of the NWB file's name: subject, day, and a suffix that is the time of
    day as a number, hhmmss. In the rigs' first years, the suffix is a number from 0 that counts
    the files of a day: those are sessions without a time.
    """
    day = pl.col("session_date").dt.to_string("%Y-%m-%d")
    name = pl.lit(None, pl.String)
    if "nwb_name" in frame.columns and frame["nwb_name"].dtype == pl.String:
        name = pl.col("nwb_name")
    elif "nwb_suffix" in frame.columns:
        digits = pl.col("nwb_suffix").cast(pl.Int64, strict=False)
        clock = digits.cast(pl.String).str.zfill(6).str.replace(r"^(..)(..)(..)$", "${1}-${2}-${3}")
        is_time = digits.is_between(1_000, 235_959)
        name = pl.when(is_time).then(pl.concat_str("subject_id", day, clock, separator="_"))
    return derived.session_key(name, pl.col("subject_id"), pl.col("session_date"))


def _one_row_per_session(keyed: pl.DataFrame) -> pl.DataFrame:
    """Return one row per key, with its other rows as JSON, and every row without a key.

    Two rows are one session if the file was saved twice on a day, or if the table has it twice.
    The row with the most finished trials is kept, then the one with the most values. Rows that are
    equal in everything are one.
    """
    has_key = pl.col("session_key").is_not_null()
    without_key = keyed.filter(~has_key).with_columns(other_rows=pl.lit(None, pl.String))
    distinct = keyed.filter(has_key).unique(maintain_order=True)
    order = [pl.sum_horizontal(pl.all().is_not_null())]
    if "finished_trials" in distinct.columns and distinct["finished_trials"].dtype.is_numeric():
        order.insert(0, pl.col("finished_trials").cast(pl.Float64).fill_nan(None))
    best_first = distinct.sort(order, descending=True, nulls_last=True, maintain_order=True)
    is_first = pl.col("session_key").is_first_distinct()
    first, others = best_first.filter(is_first), best_first.filter(~is_first)
    written = pl.DataFrame(
        [(key, _as_json(rows)) for (key,), rows in others.group_by("session_key")],
        schema={"session_key": pl.String, "other_rows": pl.String},
        orient="row",
    )
    return pl.concat([first.join(written, on="session_key", how="left"), without_key])


def _as_json(rows: pl.DataFrame) -> str:
    """Return the values of the session table's rows as JSON, without those that are missing."""
    values = rows.drop("session_key", "principal_investigator").iter_rows(named=True)
    given = ({name: one for name, one in row.items() if one is not None} for row in values)
    return orjson.dumps(list(given)).decode()
