"""Rows and columns of the table `sessions`, from the session table."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from unicodedata import normalize

import orjson
import polars as pl

from aind_etl.contract import Column, DataType, Table, tables
from aind_etl.contract.columns import SESSIONS_MADE
from aind_etl.contract.schemas import POLARS_TYPES, polars_schema
from aind_etl.contract.session_labels import describe
from aind_etl.errors import DataError
from aind_etl.flatten import derived as deriving

_SUFFIX_IS_A_TIME = 1000
_MOST_TRIALS = "finished_trials"


# --- the rows -------------------------------------------------------------------------------

_KNOWN_COLUMNS = (*tables.SESSIONS.columns, *SESSIONS_MADE)
_OWN = frozenset(column.name for column in _KNOWN_COLUMNS)


def session_rows(
    frame: pl.DataFrame,
    labels: Sequence[Sequence[str]],
    investigators: Mapping[str, str] | None = None,
) -> tuple[Table, pl.DataFrame]:
    """Return the table `sessions` and its rows.

    Parameters
    ----------
    frame
        The columns of the session table.
    labels
        The labels of each: several where the table has levels of columns, the last one its name.
    investigators
        Subject to principal investigator; where none are given, the table's column ``PI``.

    Returns
    -------
    table
        The contract's table with the further columns there are.
    rows
        One row per session key, and every row without one.

    Raises
    ------
    DataError
        There is no column of subjects, or none of days.
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
    # The frame's own columns of these names come later, under other names.
    further = [
        Column(name, _TYPES[frame[name].dtype], describe(label, is_json=name in nested))
        for name, label in zip(names, labels, strict=True)
        if name not in _OWN
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
    """Return values in the nearest type of the contract; nested ones as JSON."""
    dtype = values.dtype
    if dtype in _TYPES:
        return values
    if dtype.is_nested():
        texts = [None if one is None else json.dumps(one) for one in values.to_list()]
        return pl.Series(values.name, texts, pl.String)
    nearest: pl.DataType = pl.String()
    if dtype.is_float() or dtype.is_decimal():
        nearest = pl.Float64()
    elif dtype.is_integer() and not (dtype == pl.UInt64 and (values > 2**63 - 1).any()):
        nearest = pl.Int64()
    elif isinstance(dtype, pl.Datetime):
        nearest = pl.Datetime("us", dtype.time_zone)
    return values.cast(nearest)


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
    return deriving.session_key(name, pl.col("subject_id"), pl.col("session_date"))


def _one_row_per_session(keyed: pl.DataFrame) -> pl.DataFrame:
    """Return one row per key, with the other rows of it as JSON, and every row without a key.

    Two rows are one session when the file was saved twice on a day, or when the table holds it
    twice. The one with the most finished trials is kept, then the one with the most values; rows
    that are the same in all are one.
    """
    has_key = pl.col("session_key").is_not_null()
    without_key = keyed.filter(~has_key).with_columns(other_rows=pl.lit(None, pl.String))
    distinct = keyed.filter(has_key).unique(maintain_order=True)
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
    return pl.concat([first.join(written, on="session_key", how="left"), without_key])


def _has_numbers(frame: pl.DataFrame, name: str) -> bool:
    return name in frame.columns and frame[name].dtype.is_numeric()


def _other_rows(others: pl.DataFrame) -> Iterator[tuple[str, str]]:
    for (key,), rows in others.partition_by("session_key", as_dict=True).items():
        given = [
            {name: value for name, value in row.items() if value is not None}
            for row in rows.drop("session_key", "principal_investigator").iter_rows(named=True)
        ]
        yield str(key), orjson.dumps(given).decode()
