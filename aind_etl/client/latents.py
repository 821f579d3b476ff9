"""Trial-by-trial variables of fits, as the arrays that the fit wrote.

They are read from the warehouse's tables `trials` and `other_latents`, which have a row per trial,
or from the result files in S3. The reward-prediction error is added.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from aind_etl.contract import tables
from aind_etl.contract.result_files import LATENT_COLUMNS, RESULT_JSONS, WITHOUT_FINAL_STATE
from aind_etl.errors import AindEtlError, needs_pipeline
from aind_etl.settings import load_settings

_log = logging.getLogger(__name__)

FloatArray: TypeAlias = NDArray[np.float64]
Latents: TypeAlias = dict[str, FloatArray | NDArray[np.bool_]]
"""Name of a latent variable to its values; the last axis is trials."""
LatentsAndSpread: TypeAlias = tuple[Latents, float | None]
"""Latent variables, and the spread of the Q values among them."""

_COLUMNS = {**LATENT_COLUMNS, "rpe": ("rpe",)}
_WITHOUT_FINAL_STATE = WITHOUT_FINAL_STATE | {"rpe"}
_KEY = tables.RECORD_KEY


def find_latents(
    connection: duckdb.DuckDBPyConnection, fits: pl.DataFrame, *, threads: int
) -> list[LatentsAndSpread | None]:
    """Return the latent variables of each fit from the warehouse, or else from S3.

    ``fits`` has their keys and ``result_location``; at most ``threads`` files are read from S3 at
    a time.
    """
    wanted = list(zip(fits.select(_KEY).iter_rows(), fits["result_location"], strict=True))
    found = dict(_from_warehouse(connection, fits.select(_KEY)))
    missing = [location for key, location in wanted if key not in found and location]
    from_store = _from_store([*dict.fromkeys(missing)], threads) if missing else {}
    result = [found.get(key) or from_store.get(location) for key, location in wanted]
    without = sum(one is None for one in result)
    _log.info(
        "Latent variables: %s from the warehouse, %s from S3, %s missing",
        f"{len(found):,}",
        f"{len(result) - len(found) - without:,}",
        f"{without:,}",
    )
    return result


def _from_warehouse(
    connection: duckdb.DuckDBPyConnection, keys: pl.DataFrame
) -> Iterator[tuple[tuple[Any, ...], LatentsAndSpread]]:
    """Yield the key and the latent variables of each fit whose trials the warehouse has."""
    connection.register("wanted", keys.to_arrow())
    key = ", ".join(_KEY)
    names = [name for columns in _COLUMNS.values() for name in columns]
    values = ", ".join(f"coalesce({name}::DOUBLE, 'nan') AS {name}" for name in names)
    trials: pl.DataFrame = connection.sql(
        f"SELECT {key}, trial, n_trials, q_value_spread, {values} FROM trials "
        f"JOIN analyses_latents USING ({key}) SEMI JOIN wanted USING ({key})"
    ).pl()
    others = connection.sql(
        f"SELECT ({key}), name, list(coalesce(value, 'nan') ORDER BY position, trial), "
        "count(DISTINCT position) FROM other_latents "
        f"SEMI JOIN wanted USING ({key}) GROUP BY {key}, name ORDER BY name"
    ).fetchall()
    others_of: dict[tuple[Any, ...], dict[str, FloatArray]] = defaultdict(dict)
    for fit, name, variable, n_rows in others:
        others_of[fit][name] = np.array(variable).reshape(n_rows, -1)
    for fit, rows in trials.sort("trial").partition_by(_KEY, as_dict=True).items():
        columns = {name: rows[name].to_numpy() for name in names}
        latents = _as_arrays(rows["n_trials"][0], columns, others_of[fit])
        yield fit, (latents, rows["q_value_spread"][0])


def _as_arrays(
    n_trials: int, columns: Mapping[str, FloatArray], others: dict[str, FloatArray]
) -> Latents:
    """Return latent variables in the shapes that the fit wrote.

    Columns of the table `trials` have the shape [n + 1], with NaN for missing values; variables
    that the table lacks have the shape [rows, n] or [rows, n + 1].
    """
    latents: dict[str, FloatArray] = {}
    for name, parts in _COLUMNS.items():
        rows = [columns[part] for part in parts if part in columns]
        if len(rows) == len(parts) and not np.isnan(rows).all():
            end = n_trials if name in _WITHOUT_FINAL_STATE else None
            latents[name] = np.stack(rows)[:, :end]
    shaped: Latents = {
        name: values if len(values) > 1 else values[0]
        for name, values in (latents | others).items()
    }
    if "exploiting" in shaped:
        shaped["exploiting"] = shaped["exploiting"].astype(bool)
    return shaped


def _from_store(locations: Sequence[str], threads: int) -> dict[str, LatentsAndSpread]:
    """Return the latent variables of those result folders that can be read."""
    _log.info("Reading %s result folders: the warehouse has no trials", f"{len(locations):,}")
    try:
        return dict(_read_folders(locations, threads))
    except AindEtlError as error:
        _log.warning("Latent variables cannot be read from S3. %s", error)
        return {}


def _read_folders(locations: Sequence[str], threads: int) -> Iterator[tuple[str, LatentsAndSpread]]:
    with needs_pipeline("Reading result files"):
        from aind_etl.results import open_result_store  # noqa: PLC0415 - rarely needed
        from aind_etl.results.folders import FileRequest  # noqa: PLC0415
        from aind_etl.results.result_json import ResultError, read_result  # noqa: PLC0415

    folders = {location.rstrip("/"): location for location in locations}
    with open_result_store(load_settings(s3_concurrency=threads)) as store:
        requests = []
        for listing in store.list_folders(list(folders)):
            sizes = {file.name: file.size_bytes for file in listing.files}
            name = next((one for one in RESULT_JSONS if one in sizes), None)
            if name is None:
                why = listing.problem.message if listing.problem else "it has no result file"
                _log.warning("No latent variables in %s: %s", listing.location, why)
            else:
                requests.append(FileRequest(listing.location, name, sizes[name]))
        for file in store.read_files(requests):
            place = f"{file.request.location}/{file.request.name}"
            if file.problem:
                _log.warning("%s cannot be read: %s", place, file.problem.message)
                continue
            try:
                trials = read_result(file.content)
            except ResultError as error:
                _log.warning("%s is rejected: %s", place, error)
                continue
            arrays = _as_arrays(trials.n_trials, trials.columns, trials.others)
            yield folders[file.request.location], (arrays, trials.q_value_spread)
