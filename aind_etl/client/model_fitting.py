"""The model-fitting query of the public reader, answered by the warehouse.

:func:`get_mle_model_fitting` keeps the arguments, columns and messages of the public reader.
Trial-by-trial variables come from :mod:`aind_etl.client.latents`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl

from aind_etl.client.arguments import explain_unknown_arguments, parse_day, parse_strings
from aind_etl.client.documents import matching_records, paths_by_name
from aind_etl.client.latents import find_latents
from aind_etl.client.query import open_warehouse
from aind_etl.client.selection import KEY, Selection
from aind_etl.errors import ArgumentError, SourceError, needs_pipeline
from aind_etl.settings import load_settings

_log = logging.getLogger(__name__)

_COLLECTION = "dynamic-foraging-model-fitting"
"""The collection to which both pipelines write fits."""
_FITS = f"(FROM mle_fits WHERE source_collection = '{_COLLECTION}')"
_SOURCES = {"framework": "aind analysis framework", "prototype": "han's analysis pipeline"}

_OF_FRAMEWORK = pl.when(pl.col("pipeline_format") == "framework")
_IDENTITY = (
    pl.col("record_id").alias("_id"),
    pl.col("nwb_name", "session_date"),
    pl.col("outcome").alias("status"),
    pl.col("subject_id"),
    pl.col("finished_at").alias("analysis_time"),
    pl.col("agent_alias", "n_trials"),
    pl.col("result_location").alias("S3_location"),
    _OF_FRAMEWORK.then(pl.col("input_urls").fill_null([])).alias("CO_asset_id"),
    _OF_FRAMEWORK.then("analysis_version").alias("analysis_tag"),
    pl.col("pipeline_format").replace_strict(_SOURCES).alias("pipeline_source"),
)
_METRICS = (
    pl.col("log_likelihood", "prediction_accuracy", "k_model"),
    pl.col("aic", "bic", "lpt", "lpt_aic", "lpt_bic").name.to_uppercase(),
)
_ACCURACY = "prediction_accuracy"
_LISTS = pl.col(f"{_ACCURACY}_test", f"{_ACCURACY}_fit", f"{_ACCURACY}_test_bias_only")
# Without folds, the public reader has None for the prototype, and [] for the framework.
_FOLDS = _OF_FRAMEWORK.then(_LISTS.fill_null([])).otherwise(_LISTS)


@explain_unknown_arguments
def get_mle_model_fitting(  # noqa: PLR0913, PLR0917 - the public reader's arguments
    subject_id: str | int | None = None,
    session_date: str | None = None,
    agent_alias: str | None = None,
    from_custom_query: Mapping[str, Any] | None = None,
    analysis_tag: str | Sequence[str] | None = None,
    only_recent_version: bool = True,
    if_include_metrics: bool = True,
    if_include_latent_variables: bool = True,
    if_download_figures: bool = False,
    download_path: str | Path = "./results/mle_figures/",
    paginate_settings: Mapping[str, Any] | None = None,  # noqa: ARG001 - as the public reader's
    max_threads_for_s3: int = 10,
    *,
    warehouse: str | Path | None = None,
) -> pd.DataFrame | None:
    """Return the successful fits of either pipeline that meet every given filter.

    At least one of the first five arguments is required. No network is needed.

    Parameters
    ----------
    subject_id
        The subject (mouse), such as ``"730945"``.
    session_date
        The day of the session, ``"YYYY-MM-DD"``.
    agent_alias
        The fitted agent, such as ``"QLearning_L2F1_CK1_softmax"``, of either pipeline.
    from_custom_query
        A MongoDB filter of the documents: ``$eq``, ``$ne``, ``$gt``, ``$gte``, ``$lt``, ``$lte``,
        ``$in``, ``$nin``, ``$exists``, ``$regex``, ``$and``, ``$or``, ``$nor``, ``$not`` and
        ``$elemMatch``. As on a server, a dotted path of one format finds documents of that format
        only. A name that is a column of the answer or of `analyses` (``subject_id``,
        ``session_date``, ``AIC`` …) means that value in either format, wherever it is in the
        document.
    analysis_tag
        One tag of the framework's analyses, or several. The prototype's records have no tag, and
        are left out.
    only_recent_version
        Whether to return only the newest fit of each NWB name and agent.
    if_include_metrics
        Whether to return the columns of the second group.
    if_include_latent_variables
        Whether to return the columns of the third group. Those that the warehouse lacks are read
        from the result folders in S3.
    if_download_figures
        Whether to download the figure of each fit.
    download_path
        The folder for the figures; it is created if it does not exist.
    paginate_settings
        Ignored; calls of the public reader have it.
    max_threads_for_s3
        How many files are read from S3 at a time.
    warehouse
        The DuckDB file, or the URL of an object; by default the one that ``AIND_ETL_WAREHOUSE`` or
        ``AIND_ETL_LAKE`` name.

    Returns
    -------
    pandas.DataFrame or None
        One row per fit, the newest first; None if there are none. The columns:

        1. ``_id``, ``nwb_name``, ``session_date`` (text), ``status``, ``subject_id``,
           ``analysis_time`` (UTC), ``agent_alias``, ``n_trials``, ``S3_location``,
           ``CO_asset_id`` (a list of the URLs in ``code.input_data``; None for the prototype),
           ``analysis_tag``, ``pipeline_source``;
        2. ``log_likelihood``, ``prediction_accuracy``, ``k_model``, ``AIC``, ``BIC``, ``LPT``,
           ``LPT_AIC``, ``LPT_BIC``, ``params`` (parameter to value), and the lists
           ``prediction_accuracy_test``, ``prediction_accuracy_fit`` and
           ``prediction_accuracy_test_bias_only``, one value per fold, empty for a fit of the
           framework without cross-validation;
        3. ``latent_variables`` (name to array) and ``qvalue_spread``. For n trials, ``q_value``
           and ``choice_kernel`` are [2, n + 1], ``choice_prob`` [2, n], ``loss_count``,
           ``value``, ``threshold`` and ``p_exploit`` [n + 1], ``exploiting`` and ``rpe`` [n];
           row 0 is the left side.

    Raises
    ------
    ValueError
        No filter is given, or an argument is wrong.
    ConfigurationError
        There is no warehouse, or it cannot be read.

    Examples
    --------
    >>> from aind_etl import get_mle_model_fitting
    >>> fits = get_mle_model_fitting(subject_id="652257", session_date="2025-08-14")
    >>> fits[["agent_alias", "n_trials", "pipeline_source"]].head(1)  # doctest: +SKIP
                agent_alias  n_trials          pipeline_source
    0  ForagingCompareThreshold       436  aind analysis framework
    >>> fits.latent_variables[0].keys() >= {"choice_prob"}  # doctest: +SKIP
    True

    Every fit of more than 600 trials whose agent has a choice kernel:

    >>> fits = get_mle_model_fitting(
    ...     from_custom_query={
    ...         "analysis_results.fit_settings.agent_alias": {"$regex": "_CK"},
    ...         "analysis_results.n_trials": {"$gt": 600},
    ...     },
    ...     if_include_latent_variables=False,
    ... )
    """
    filters: dict[str, Any] = {
        "subject_id": parse_strings("subject_id", subject_id) or None,
        "session_date": parse_day("session_date", session_date) if session_date else None,
        "agent_alias": parse_strings("agent_alias", agent_alias) or None,
        "analysis_tag": parse_strings("analysis_tag", analysis_tag) or None,
    }
    if not any(filters.values()) and not from_custom_query:
        raise ArgumentError(
            "There is no filter, which would return every fit. Give at least one of subject_id, "
            "session_date, agent_alias, from_custom_query and analysis_tag."
        )
    selection = Selection(
        _FITS, pipeline_format="framework" if filters["analysis_tag"] else None, **filters
    )
    with open_warehouse(warehouse) as connection:
        fits = _find(connection, selection, from_custom_query)
        if fits.is_empty():
            _log.warning("No fit of the model-fitting collection meets the filters")
            for problem in selection.unknown_names(connection):
                _log.warning("%s", problem)
            return None
        fits = _choose(fits, only_recent_version=only_recent_version)
        if fits.is_empty():
            return None
        _note_repeated_agents(fits, filters)
        columns = _as_pandas(fits.select(_IDENTITY))
        if if_include_metrics:
            columns |= _as_pandas(fits.select(_METRICS)) | {"params": _parameters(fits)}
            columns |= _as_pandas(fits.select(_FOLDS))
        if if_include_latent_variables:
            found = find_latents(connection, fits, threads=max_threads_for_s3)
            columns["latent_variables"] = [one and one[0] for one in found]
            columns["qvalue_spread"] = np.array(
                [one[1] if one else None for one in found], dtype="float64"
            )
        if if_download_figures:
            _download_figures(connection, fits, Path(download_path), threads=max_threads_for_s3)
    return pd.DataFrame(columns, copy=False)


def _find(
    connection: duckdb.DuckDBPyConnection, selection: Selection, query: Mapping[str, Any] | None
) -> pl.DataFrame:
    """Return the fits of a selection that meet a MongoDB filter, the newest first."""
    is_matching = "TRUE"
    if query:
        records = matching_records(connection, _COLLECTION, query, paths_by_name())
        connection.register("matching", records.to_frame().to_arrow())
        is_matching = "record_id IN (FROM matching)"
    found: pl.DataFrame = connection.sql(
        "SELECT * REPLACE (session_date::VARCHAR AS session_date) "
        f"FROM {selection.source} WHERE {is_matching} "
        f"ORDER BY finished_at DESC NULLS LAST, changed_at DESC NULLS LAST, {KEY}",
        params=selection.parameters,
    ).pl()
    return found


def _choose(fits: pl.DataFrame, *, only_recent_version: bool) -> pl.DataFrame:
    """Return the successful fits, and log what is left out."""
    for pipeline_format, source in _SOURCES.items():
        count = fits.filter(pl.col("pipeline_format") == pipeline_format).height
        _log.info("%s: %s", source, _counted(count, "record"))
    successful = fits.filter(pl.col("outcome") == "success")
    skipped = fits.height - successful.height
    _log.info("%s, %s skipped", _counted(successful.height, "successful fit"), f"{skipped:,}")
    if not only_recent_version:
        return successful
    is_named = pl.all_horizontal(pl.col("nwb_name", "agent_alias").is_not_null())
    is_newest = pl.struct("nwb_name", "agent_alias").is_first_distinct()
    # A fit without an NWB name or an agent is never replaced by another.
    newest = successful.filter(~is_named | is_newest)
    older = successful.height - newest.height
    _log.info("%s of each NWB name and agent, %s older", f"{newest.height:,} newest", f"{older:,}")
    return newest


def _as_pandas(columns: pl.DataFrame) -> dict[str, Any]:
    return {
        column.name: column.to_list() if column.dtype == pl.List else column.to_pandas()
        for column in columns
    }


def _parameters(fits: pl.DataFrame) -> list[dict[str, float] | None]:
    return [
        None if names is None else dict(zip(names, values, strict=True))
        for names, values in fits.select("parameter_names", "parameter_values").iter_rows()
    ]


def _download_figures(
    connection: duckdb.DuckDBPyConnection, fits: pl.DataFrame, folder: Path, *, threads: int
) -> None:
    """Write the figures of fits to a folder, and log the outcome."""
    with needs_pipeline("Downloading figures"):
        from aind_etl.results import figures, open_result_store  # noqa: PLC0415

    subjects = fits["subject_id"].unique()
    subject = figures.Selection(subject_id=subjects.item() if subjects.len() == 1 else None)
    chosen = set(fits["record_id"])
    # Figures that the last inventory did not find may have been written since.
    wanted = [
        replace(one, size_bytes=one.size_bytes or 0)
        for one in figures.choose_figures(connection, subject)
        if one.record_id in chosen and one.location
    ]
    try:
        with open_result_store(load_settings(s3_concurrency=threads)) as store:
            report = figures.download_figures(store, wanted, folder)
    except SourceError as error:
        _log.warning("Figures cannot be downloaded. %s", error)
        return
    _log.info(
        "Figures in %s: %s downloaded, %s already there, %s missing",
        folder,
        f"{report.downloaded:,}",
        f"{report.present:,}",
        f"{len(report.missing):,}",
    )
    for figure, why in report.missing:
        _log.warning("No figure %s: %s", figure.file_name, why)


def _note_repeated_agents(fits: pl.DataFrame, filters: Mapping[str, object]) -> None:
    is_of_one_day = filters["subject_id"] and filters["session_date"]
    if is_of_one_day and fits["agent_alias"].is_duplicated().any():
        _log.warning(
            "Several fits of one agent on this day: choose by nwb_name, n_trials or "
            "pipeline_source. The NWB names are %s",
            ", ".join(fits["nwb_name"].unique().sort().drop_nulls()),
        )


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
