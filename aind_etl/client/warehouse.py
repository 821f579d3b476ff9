"""The warehouse for notebooks: its tables as data frames."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar, overload

import duckdb

from aind_etl.client.arguments import explain_unknown_arguments, parse_strings
from aind_etl.client.query import open_warehouse, read_relation
from aind_etl.client.selection import KEY, Selection, select_columns, select_with_sessions
from aind_etl.contract import tables
from aind_etl.contract.ddl import quote_identifier
from aind_etl.errors import ArgumentError
from aind_etl.settings import WarehouseLocation, load_settings, parse_location
from aind_etl.text import in_words

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

Frame = TypeVar("Frame")
Frames = Literal["polars", "pandas", "arrow"]
OneOrMany: TypeAlias = str | Iterable[str]
Day: TypeAlias = str | date
Outcome = Literal["success", "skipped", "failed", "unknown"]
PipelineFormat = Literal["prototype", "framework"]

_Extension: TypeAlias = Callable[..., duckdb.DuckDBPyRelation]
_READERS = {"polars": "pl", "pandas": "df", "arrow": "to_arrow_table"}
"""The method of a relation that reads it as a kind of frame."""


class Warehouse(Generic[Frame]):
    """A warehouse that is opened for each query: never locked, and always up to date.

    Parameters
    ----------
    path
        The DuckDB file, or the URL of an object (``s3://bucket/lake/warehouse.duckdb``), of which a
        local copy is read that is kept up to date. By default the one that ``AIND_ETL_WAREHOUSE``
        or ``AIND_ETL_LAKE`` name.
    snapshot
        The name of a snapshot of that warehouse to read instead; ``aind-etl snapshots`` lists them.
    frames
        The kind of frames returned: ``polars``, ``pandas`` or ``arrow``. By default the one that
        ``AIND_ETL_FRAMES`` names, or else polars.

    Raises
    ------
    ConfigurationError
        There is no such snapshot. Each query raises it if there is no warehouse, or it cannot be
        read, lacks a table, or cannot run the SQL.
    ValueError
        Each query raises it if an argument is wrong.

    Examples
    --------
    >>> from aind_etl import Warehouse
    >>> warehouse = Warehouse()
    >>> warehouse.analyses(subject_id="652257", outcome="success", columns=["agent_alias"]).height
    14
    >>> Warehouse(frames="pandas").table("best_models").columns[0]
    'session_key'
    """

    @overload
    def __init__(
        self: "Warehouse[pl.DataFrame]",
        path: Path | str | None = None,
        *,
        snapshot: str | None = None,
        frames: Literal["polars"] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "Warehouse[pd.DataFrame]",
        path: Path | str | None = None,
        *,
        snapshot: str | None = None,
        frames: Literal["pandas"],
    ) -> None: ...
    @overload
    def __init__(
        self: "Warehouse[pa.Table]",
        path: Path | str | None = None,
        *,
        snapshot: str | None = None,
        frames: Literal["arrow"],
    ) -> None: ...
    def __init__(
        self,
        path: Path | str | None = None,
        *,
        snapshot: str | None = None,
        frames: Frames | None = None,
    ) -> None:
        settings = load_settings()
        self._frames = frames or settings.frames
        if self._frames not in _READERS:
            raise ArgumentError(f"frames is {frames!r}; expected {in_words(_READERS, 'or')}.")
        self.path: WarehouseLocation = (
            settings.warehouse_path if path is None else parse_location(path)
        )
        if snapshot is not None:
            from aind_etl.warehouse.snapshots import find_snapshot  # noqa: PLC0415 - rarely needed

            self.path = find_snapshot(self.path, snapshot)

    def __repr__(self) -> str:
        return f"Warehouse({str(self.path)!r}, frames={self._frames!r})"

    @explain_unknown_arguments
    def analyses(  # noqa: PLR0913 - filters
        self,
        *,
        subject_id: OneOrMany | int | Iterable[int] | None = None,
        session_date: Day | tuple[Day | None, Day | None] | None = None,
        agent_alias: OneOrMany | None = None,
        analysis_name: OneOrMany | None = None,
        collection: OneOrMany | None = None,
        pipeline_format: PipelineFormat | None = None,
        outcome: Outcome | Sequence[Outcome] | None = None,
        newest_only: bool = False,
        columns: Sequence[str] | None = None,
    ) -> Frame:
        """Return one row per analysis that meets every filter, by session, agent and time.

        Parameters
        ----------
        subject_id
            One subject or several, such as ``"730945"``.
        session_date
            A day, ``"YYYY-MM-DD"`` or a date; or the first and the last day of a range, either
            of which may be None.
        agent_alias
            One fitted agent or several, such as ``"QLearning_L2F1_softmax"``.
        analysis_name
            Such as ``"MLE fitting"``.
        collection
            One collection or several.
        pipeline_format
            ``"prototype"`` or ``"framework"``.
        outcome
            How analyses ended: ``"success"``, ``"skipped"``, ``"failed"``, ``"unknown"``.
        newest_only
            Whether to return only the newest successful analysis of each session and agent.
        columns
            Columns of the table `analyses`, in order; all by default.

        Examples
        --------
        >>> Warehouse().analyses(
        ...     session_date=("2026-03-01", None),
        ...     outcome="success",
        ...     columns=["session_key", "agent_alias", "aic"],
        ... ).columns
        ['session_key', 'agent_alias', 'aic']
        """
        selection = Selection(
            subject_id=subject_id,
            session_date=session_date,
            agent_alias=agent_alias,
            analysis_name=analysis_name,
            collection=collection,
            pipeline_format=pipeline_format,
            outcome=outcome,
            newest_only=newest_only,
        )
        query = (
            f"SELECT {select_columns(tables.ANALYSES, columns)} FROM {selection.source} "
            f"ORDER BY session_key, agent_alias, finished_at, {KEY}"
        )
        return self._run(query, selection)

    @explain_unknown_arguments
    def parameters(  # noqa: PLR0913 - filters
        self,
        *,
        parameter: OneOrMany | None = None,
        subject_id: OneOrMany | int | Iterable[int] | None = None,
        session_date: Day | tuple[Day | None, Day | None] | None = None,
        agent_alias: OneOrMany | None = None,
        collection: OneOrMany | None = None,
        pipeline_format: PipelineFormat | None = None,
        newest_only: bool = False,
    ) -> Frame:
        """Return one row per parameter of the successful fits that meet every filter.

        The columns are the session, the agent and those of the table `fit_parameters`.

        Parameters
        ----------
        parameter
            One name or several, such as ``"learn_rate"``.
        subject_id, session_date, agent_alias, collection, pipeline_format, newest_only
            As for :meth:`analyses`.

        Examples
        --------
        >>> rates = Warehouse().parameters(parameter="learn_rate", newest_only=True)
        >>> rates["value"].is_between(0, 1).all()
        True
        """
        selection = Selection(
            subject_id=subject_id,
            session_date=session_date,
            agent_alias=agent_alias,
            collection=collection,
            pipeline_format=pipeline_format,
            outcome="success",
            newest_only=newest_only,
        )
        table = tables.FIT_PARAMETERS
        condition = selection.one_of("parameter", parameter, table.name)
        query = select_with_sessions(table, selection, condition, "agent_alias, parameter")
        return self._run(query, selection)

    @explain_unknown_arguments
    def trials(  # noqa: PLR0913 - filters
        self,
        *,
        subject_id: OneOrMany | int | Iterable[int] | None = None,
        session_date: Day | tuple[Day | None, Day | None] | None = None,
        agent_alias: OneOrMany | None = None,
        record_id: OneOrMany | None = None,
        collection: OneOrMany | None = None,
        pipeline_format: PipelineFormat | None = None,
        newest_only: bool = False,
        behavior: bool = False,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> Frame:
        """Return the trials of successful fits, with the agent's variables before each.

        The columns are the session, the agent and those of the table `trials`. The last row of a
        fit is the state after its last trial.

        Parameters
        ----------
        record_id
            The ``_id`` of one document, or of several.
        behavior
            Whether to add what the animal did in each trial, from the institute's behaviour
            database (``AIND_ETL_BEHAVIOR_DATABASE``): trial k of a fit is the k-th trial of the
            session with a response. Sessions whose choices or rewards differ there are reported,
            and have NULL. ``behavior_session_id`` is the session's name there, ``behavior_trial``
            the trial's number among all of the session, including ignored ones.
        columns
            Columns of the behaviour database's trials; by default the response, the earned reward,
            the reward probabilities, the reaction time, automatic water and the laser.
        limit
            The most rows returned. This or a filter is required: the whole table may have millions
            of rows.
        subject_id, session_date, agent_alias, collection, pipeline_format, newest_only
            As for :meth:`analyses`.

        Examples
        --------
        >>> trials = Warehouse().trials(subject_id="652257", agent_alias="QLearning_L2F1_softmax")
        >>> trials.columns[:4]
        ['session_key', 'subject_id', 'session_date', 'agent_alias']
        """
        filters = (subject_id, session_date, agent_alias, record_id, collection, limit)
        if all(one is None for one in filters):
            raise ArgumentError(
                "trials() of everything may be millions of rows. Give a subject_id, session_date, "
                "agent_alias, record_id or collection, or a limit."
            )
        if limit is not None and limit < 0:
            raise ArgumentError(f"limit is {limit}; expected a number of rows.")
        if columns is not None and not behavior:
            raise ArgumentError(
                "columns names columns of the behaviour database; give behavior=True with it."
            )
        selection = Selection(
            subject_id=subject_id,
            session_date=session_date,
            agent_alias=agent_alias,
            record_id=record_id,
            collection=collection,
            pipeline_format=pipeline_format,
            outcome="success",
            newest_only=newest_only,
        )
        order = f"agent_alias, {KEY}, trial"
        query = select_with_sessions(tables.TRIALS, selection, "TRUE", order)
        query += "" if limit is None else f" LIMIT {limit}"
        if not behavior:
            return self._run(query, selection)
        from aind_etl.client.behavior import join_behavior  # noqa: PLC0415 - rarely needed

        names = None if columns is None else parse_strings("columns", columns)
        return self._run(query, selection, partial(join_behavior, columns=names))

    @explain_unknown_arguments
    def documents(
        self,
        collection: str,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - as pymongo calls it
        projection: Mapping[str, Any] | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """Return whole documents of a collection, as a MongoDB server returns them.

        Parameters
        ----------
        collection
            The collection.
        filter
            A MongoDB filter, as :func:`get_mle_model_fitting` takes it; all documents by default.
        projection
            ``{"path": 1, …}`` returns these fields, ``{"path": 0, …}`` all but these, and
            ``{"name": "$path", …}`` values under new names; whole documents by default.
        limit
            The most documents returned, in the order of their ids.

        Examples
        --------
        >>> Warehouse().documents(
        ...     "dynamic-foraging-model-fitting",
        ...     filter={"subject_id": "652097", "analysis_results.n_trials": {"$gt": 600}},
        ...     projection={"_id": 0, "nwb_name": 1, "n_trials": "$analysis_results.n_trials"},
        ...     limit=1,
        ... )
        [{'nwb_name': '652097_2024-06-11_08-55-31.nwb', 'n_trials': 623}]
        """
        from aind_etl.client.documents import find_documents  # noqa: PLC0415 - rarely needed

        with open_warehouse(self.path) as connection:
            return find_documents(connection, collection, filter, projection, limit)

    def table(self, name: str) -> Frame:
        """Return a whole table, view or mart."""
        return self.sql(f"FROM {quote_identifier(name)}")

    def sql(
        self, query: str, parameters: Sequence[object] | Mapping[str, object] | None = None
    ) -> Frame:
        """Return the rows of a SELECT.

        Parameters
        ----------
        query
            The SELECT, in DuckDB's SQL.
        parameters
            Values for its ``?``, or for its ``$name``.

        Examples
        --------
        >>> Warehouse().sql("SELECT count(*) AS n FROM analyses WHERE subject_id = ?", ["652257"])
        shape: (1, 1)
        ┌─────┐
        │ n   │
        │ --- │
        │ i64 │
        ╞═════╡
        │ 19  │
        └─────┘
        """
        with open_warehouse(self.path) as connection:
            return self._read(read_relation(connection, query, parameters))

    def _run(self, query: str, selection: Selection, extend: _Extension | None = None) -> Frame:
        with open_warehouse(self.path) as connection:
            rows = connection.sql(query, params=selection.parameters or None)
            frame = self._read(extend(connection, rows) if extend else rows)
            # Every kind of frame has a shape: rows and columns.
            if not frame.shape[0]:  # type: ignore[attr-defined]
                for problem in selection.unknown_names(connection):
                    raise ArgumentError(problem)
            return frame

    def _read(self, relation: duckdb.DuckDBPyRelation) -> Frame:
        return getattr(relation, _READERS[self._frames])()  # type: ignore[no-any-return]
