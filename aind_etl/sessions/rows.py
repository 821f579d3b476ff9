"""Rows and columns of the table `sessions`, from the frame of the session table."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, count
from typing import cast
from unicodedata import normalize

import orjson
import polars as pl
import pyarrow as pa

from aind_etl.contract import Column, DataType, Table, tables
from aind_etl.contract.columns import SESSIONS_MADE
from aind_etl.contract.schemas import POLARS_TYPES, polars_schema
from aind_etl.errors import DataError
from aind_etl.flatten import derived as deriving
from aind_etl.sessions import pickled_frame

_SUFFIX_IS_A_TIME = 1000
_MOST_TRIALS = "finished_trials"


# --- the rows -------------------------------------------------------------------------------

UNKNOWN = "unknown_"
_KNOWN_COLUMNS = (*tables.SESSIONS.columns, *SESSIONS_MADE)
_OWN = frozenset(column.name for column in _KNOWN_COLUMNS)


def session_rows(columns: pa.Table, investigators: dict[str, str]) -> tuple[Table, pl.DataFrame]:
    """Return the table `sessions` and its rows.

    Parameters
    ----------
    columns
        The columns of the session table.
    investigators
        Subject to principal investigator.

    Returns
    -------
    table
        The contract's table with the further columns there are.
    rows
        One row per session key.

    Raises
    ------
    DataError
        There is no column of subjects, or none of days.
    """
    labels = [tuple(json.loads(field.metadata[pickled_frame.LABELS])) for field in columns.schema]
    names = column_names(labels)
    frame = cast("pl.DataFrame", pl.from_arrow(columns.rename_columns(names)))
    frame = frame.select(_typed(frame[name]) for name in names)
    missing = [name for name in ("subject_id", "session_date") if name not in names]
    if missing:
        raise DataError(
            f"It has no column {' and no column '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, names))}."
        )
    # The frame's own columns of these names come later, under other names.
    further = [
        Column(name, _type_of(frame[name]), _described(label))
        for name, label in zip(names, labels, strict=True)
        if name not in _OWN
    ]
    keyed = frame.with_columns(
        subject_id=pl.col("subject_id").cast(pl.String).str.strip_suffix(".0"),
        session_date=_day(frame["session_date"]),
    ).with_columns(
        session_key=_session_key(frame),
        principal_investigator=pl.col("subject_id")
        .cast(pl.String)
        .replace_strict(investigators, default=None, return_dtype=pl.String),
    )
    table = replace(tables.SESSIONS, columns=(*_KNOWN_COLUMNS, *further))
    return table, _one_row_per_session(keyed).select(polars_schema(table).names())


def column_names(labels: Sequence[Sequence[str]]) -> list[str]:
    """Return the names of columns in snake case, from their labels in the frame.

    The last label names a column, as that is what people know it by; where several columns would
    have the same name, all of a column's labels, and a number where even these are the same. The
    first column of a name of the contract's own keeps it.
    """
    last = [snake_case(label[-1] if label else "") for label in labels]
    often = Counter(last)
    taken: set[str] = set()
    names = []
    for label, short in zip(labels, last, strict=True):
        is_own = short in ("subject_id", "session_date") and short not in taken
        is_free = often[short] == 1 and short not in _OWN
        name = short if is_own or is_free else snake_case("_".join(label))
        candidates = chain([name], (f"{name}_{number}" for number in count(2)))
        unique = next(
            one
            for one in candidates
            if one not in taken and (is_own or one not in _OWN) and (one == short or not often[one])
        )
        taken.add(unique)
        names.append(unique)
    return names


def snake_case(label: str) -> str:
    """Return a label in snake case: small letters, digits and ``_``, a letter first.

    Letters with marks lose these, signs that are none of them separate words.
    """
    plain = normalize("NFKD", label).encode("ascii", "ignore").decode()
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", plain)
    name = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
    return name if name and name[0].isalpha() else f"column_{name}".rstrip("_")


def _typed(values: pl.Series) -> pl.Series:
    """Return values in the nearest type of the contract."""
    dtype = values.dtype
    if dtype in (pl.Float32, pl.Float16):
        return values.cast(pl.Float64)
    if dtype == pl.UInt64 and (values > 2**63 - 1).any():
        return values.cast(pl.String)
    if dtype.is_integer():
        return values.cast(pl.Int64)
    if isinstance(dtype, pl.Datetime):
        return values.cast(pl.Datetime("us", dtype.time_zone))
    return values if dtype in _TYPES else values.cast(pl.String)


_TYPES: dict[pl.DataType, DataType] = {
    POLARS_TYPES[ours]: ours
    for ours in (
        DataType.VARCHAR,
        DataType.BOOLEAN,
        DataType.BIGINT,
        DataType.DOUBLE,
        DataType.DATE,
        DataType.TIME,
        DataType.TIMESTAMP,
        DataType.TIMESTAMPTZ,
    )
}


def _type_of(values: pl.Series) -> DataType:
    return _TYPES[values.dtype]


def _described(labels: Sequence[str]) -> str:
    return f"`{'.'.join(labels)}` of the session table."


def _day(values: pl.Series) -> pl.Series:
    if values.dtype == pl.String:
        return values.to_frame().select(deriving.day(pl.col(values.name))).to_series()
    if values.dtype == pl.Date or isinstance(values.dtype, pl.Datetime):
        return values.cast(pl.Date)
    return pl.Series(values.name, [None] * len(values), pl.Date)


def _session_key(frame: pl.DataFrame) -> pl.Expr:
    """Return the key of each session, by the one rule there is for it.

    The table carries no NWB name but its parts: subject, day, and a suffix that is the time of
    day as a number, hhmmss. In files of the rigs' first years it is a number from 0 that counts
    the files of a day: those are sessions without a time.
    """
    day = pl.col("session_date").dt.to_string("%Y-%m-%d")
    name = pl.lit(None, pl.String)
    if "nwb_name" in frame.columns and frame["nwb_name"].dtype == pl.String:
        name = pl.col("nwb_name")
    elif "nwb_suffix" in frame.columns:
        digits = pl.col("nwb_suffix").cast(pl.Int64, strict=False)
        clock = digits.cast(pl.String).str.zfill(6).str.replace(r"^(..)(..)(..)$", "${1}-${2}-${3}")
        is_time = digits.is_between(_SUFFIX_IS_A_TIME, 235_959)
        name = pl.when(is_time).then(pl.concat_str("subject_id", day, clock, separator="_"))
    key = deriving.session_key(name, pl.col("subject_id"), pl.col("session_date"))
    row = pl.concat_str(pl.lit(UNKNOWN), pl.int_range(pl.len()))
    return pl.coalesce(key, row)


def _one_row_per_session(keyed: pl.DataFrame) -> pl.DataFrame:
    """Return one row per key, with the other rows of it as JSON.

    Two rows are one session when the file was saved twice on a day, or when the table holds it
    twice. The one with the most finished trials is kept, then the one with the most values; rows
    that are the same in all are one.
    """
    distinct = keyed.unique(maintain_order=True)
    most = pl.col(_MOST_TRIALS) if _has_numbers(distinct, _MOST_TRIALS) else pl.lit(0)
    ranked = distinct.with_columns(
        rank=pl.struct(
            most.fill_nan(None).fill_null(-1).cast(pl.Float64).alias("trials"),
            pl.sum_horizontal(pl.all().is_not_null()).cast(pl.Float64).alias("values"),
        )
        .rank("ordinal", descending=True)
        .over("session_key")
    )
    first = ranked.filter(pl.col("rank") == 1).drop("rank")
    others = ranked.filter(pl.col("rank") > 1).sort("session_key", "rank").drop("rank")
    written = pl.DataFrame(
        _other_rows(others),
        schema={"session_key": pl.String, "other_rows": pl.String},
        orient="row",
    )
    return first.join(written, on="session_key", how="left")


def _has_numbers(frame: pl.DataFrame, name: str) -> bool:
    return name in frame.columns and frame[name].dtype.is_numeric()


def _other_rows(others: pl.DataFrame) -> Iterator[tuple[str, str]]:
    for (key,), rows in others.partition_by("session_key", as_dict=True).items():
        given = [
            {name: value for name, value in row.items() if value is not None}
            for row in rows.drop("session_key", "principal_investigator").iter_rows(named=True)
        ]
        yield str(key), orjson.dumps(given).decode()
