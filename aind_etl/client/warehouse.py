"""The warehouse for notebooks: its tables as data frames."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar, overload

import duckdb

from aind_etl.client.arguments import as_days, as_texts, explain_unknown_arguments
from aind_etl.client.query import explained, read_relation
from aind_etl.contract import FORMATS, Table, tables
from aind_etl.contract.ddl import quote_identifier
from aind_etl.errors import ArgumentError
from aind_etl.settings import WarehouseLocation, load_settings, parse_location
from aind_etl.text import in_words, suggest
from aind_etl.warehouse import connection as connections

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

_OUTCOMES = ("success", "skipped", "failed", "unknown")
_KEY = "source_collection, record_id, process_index"
_NEWEST = "latest_analyses"


@contextmanager
def opened(place: WarehouseLocation) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give the warehouse for reading; what DuckDB says of a query or the file becomes an error.

    Raises
    ------
    ConfigurationError
        There is no warehouse, or it cannot be read.
    """
    with connections.opened(place) as connection:
        try:
            yield connection
        except duckdb.Error as error:
            raise explained(error) from None


class Warehouse(Generic[Frame]):
    """A warehouse that is opened for each query: never locked, and never out of date.

    Parameters
    ----------
    path
        The DuckDB file, or the URL of an object (``s3://bucket/lake/warehouse.duckdb``); the one
        that ``AIND_ETL_WAREHOUSE`` or ``AIND_ETL_LAKE`` name where none is given. Of an object, a
        copy on this machine is read that follows it.
    snapshot
        The name of a snapshot of that warehouse to read instead; ``aind-etl snapshots`` lists them.
    frames
        What answers come as: ``polars``, ``pandas`` or ``arrow``; what ``AIND_ETL_FRAMES`` names
        where none is given, or else polars.

    Raises
    ------
    ConfigurationError
        There is no such snapshot. Raised by each question where there is no warehouse, or it cannot
        be read.
    ValueError
        Raised by each question whose arguments are wrong.

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
            raise ArgumentError(f"frames is {in_words(_READERS, 'or')}, not {frames!r}.")
        self.path: WarehouseLocation = (
            settings.warehouse_path if path is None else parse_location(path)
        )
        if snapshot is not None:
            # Imported here: most warehouses are the published one.
            from aind_etl.warehouse.snapshots import find_snapshot  # noqa: PLC0415

            self.path = find_snapshot(self.path, snapshot)

    def __repr__(self) -> str:
        return f"Warehouse({str(self.path)!r}, frames={self._frames!r})"

    @explain_unknown_arguments
    def analyses(  # noqa: PLR0913 - each says something different of the analyses
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
        """Return analyses, one row each, by session, agent and time.

        Parameters
        ----------
        subject_id
            One subject or several, such as ``"730945"``.
        session_date
            A day, ``"YYYY-MM-DD"`` or a date; or the first and the last of a range, either of
            which may be None.
        agent_alias
            One fitted agent or several, such as ``"QLearning_L2F1_softmax"``.
        analysis_name
            Such as ``"MLE fitting"``.
        collection
            One collection or several; all where none is given.
        pipeline_format
            ``"prototype"`` or ``"framework"``; both where none is given.
        outcome
            How analyses ended: ``"success"``, ``"skipped"``, ``"failed"``, ``"unknown"``.
        newest_only
            Whether only the newest successful analysis of each session and agent is returned.
        columns
            Columns of the table `analyses`, in the order wanted; all where none are given.

        Examples
        --------
        >>> Warehouse().analyses(
        ...     session_date=("2026-03-01", None),
        ...     outcome="success",
        ...     columns=["session_key", "agent_alias", "aic"],
        ... ).columns
        ['session_key', 'agent_alias', 'aic']
        """
        chosen = _Chosen(
            subject_id=subject_id,
            session_date=session_date,
            agent_alias=agent_alias,
            analysis_name=analysis_name,
            collection=collection,
            pipeline_format=pipeline_format,
            outcome=outcome,
            newest_only=newest_only,
        )
        names = _checked_columns(tables.ANALYSES, columns)
        order = "session_key, agent_alias, finished_at, " + _KEY
        return self._ask(f"SELECT {names} FROM {chosen.source} ORDER BY {order}", chosen)

    @explain_unknown_arguments
    def parameters(  # noqa: PLR0913 - each says something different of the fits
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
        """Return the parameters of successful fits, one row each.

        The columns are those of the table `fit_parameters`, after the session and the agent.

        Parameters
        ----------
        parameter
            One name or several, such as ``"learn_rate"``; all where none is given.
        subject_id, session_date, agent_alias, collection, pipeline_format, newest_only
            As for :meth:`analyses`.

        Examples
        --------
        >>> rates = Warehouse().parameters(parameter="learn_rate", newest_only=True)
        >>> rates["value"].is_between(0, 1).all()
        True
        """
        chosen = _Chosen(
            subject_id=subject_id,
            session_date=session_date,
            agent_alias=agent_alias,
            collection=collection,
            pipeline_format=pipeline_format,
            outcome="success",
            newest_only=newest_only,
        )
        condition = chosen.one_of("parameter", parameter, tables.FIT_PARAMETERS)
        return self._ask(
            _with_sessions(tables.FIT_PARAMETERS, chosen, condition, "agent_alias, parameter"),
            chosen,
        )

    @explain_unknown_arguments
    def trials(  # noqa: PLR0913 - each says something different of the fits
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

        The columns are those of the table `trials`, after the session and the agent. The last row
        of a fit is the state after its last trial.

        Parameters
        ----------
        record_id
            The ``_id`` of one document, or of several.
        behavior
            Whether each trial gets what the animal did, from the institute's behaviour database
            (``AIND_ETL_BEHAVIOR_DATABASE``): trial k of a fit is the k-th trial of the session with
            a response. Sessions whose choices or rewards differ there are reported, and get NULL.
            ``behavior_session_id`` is the session's name there, ``behavior_trial`` the trial's
            number among all of the session, ignored ones too.
        columns
            Columns of the behaviour database's trials; the response, the earned reward, the reward
            probabilities, the reaction time, automatic water and the laser where none are named.
        limit
            The most rows returned. Either this or a filter is needed: the whole table may have
            millions of rows.
        subject_id, session_date, agent_alias, collection, pipeline_format, newest_only
            As for :meth:`analyses`.

        Examples
        --------
        >>> trials = Warehouse().trials(subject_id="652257", agent_alias="QLearning_L2F1_softmax")
        >>> trials.columns[:4]
        ['session_key', 'subject_id', 'session_date', 'agent_alias']
        """
        filters = (subject_id, session_date, agent_alias, record_id, collection)
        if limit is None and all(one is None for one in filters):
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
        chosen = _Chosen(
            subject_id=subject_id,
            session_date=session_date,
            agent_alias=agent_alias,
            record_id=record_id,
            collection=collection,
            pipeline_format=pipeline_format,
            outcome="success",
            newest_only=newest_only,
        )
        query = _with_sessions(tables.TRIALS, chosen, "TRUE", f"agent_alias, {_KEY}, trial")
        query += "" if limit is None else f" LIMIT {limit}"
        if not behavior:
            return self._ask(query, chosen)
        # Imported here: most questions are answered by the warehouse alone.
        from aind_etl.client.behavior import with_behavior  # noqa: PLC0415

        names = None if columns is None else as_texts("columns", columns)
        with opened(self.path) as connection:
            fits = connection.sql(
                f"SELECT {_KEY}, session_key, subject_id FROM {chosen.source} AS chosen",
                params=chosen.parameters or None,
            ).pl()
            asked = connection.sql(query, params=chosen.parameters or None).to_arrow_table()
            with with_behavior(connection, asked, fits, names) as joined:
                frame = self._read(joined)
            if not frame.shape[0]:  # type: ignore[attr-defined]
                chosen.refuse_unknown_names(connection)
            return frame

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
            A MongoDB filter, as :func:`get_mle_model_fitting` takes it; all documents where none
            is given.
        projection
            ``{"path": 1, …}`` returns these fields, ``{"path": 0, …}`` all but these, and
            ``{"name": "$path", …}`` values under new names; everything where none is given.
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
        # Imported here: most questions are answered by the tables.
        from aind_etl.client.documents import find_documents  # noqa: PLC0415

        with opened(self.path) as connection:
            return find_documents(connection, collection, filter, projection, limit)

    def table(self, name: str) -> Frame:
        """Return a whole table, view or mart.

        Raises
        ------
        ConfigurationError
            There is no warehouse, or it has no such table.
        """
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

        Raises
        ------
        ConfigurationError
            There is no warehouse, or the query cannot be run.

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
        with opened(self.path) as connection:
            return self._read(read_relation(connection, query, parameters))

    def _ask(self, query: str, chosen: "_Chosen") -> Frame:
        with opened(self.path) as connection:
            relation = connection.sql(query, params=chosen.parameters or None)
            frame = self._read(relation)
            # Every kind of frame has its rows and columns as its shape.
            if not frame.shape[0]:  # type: ignore[attr-defined]
                chosen.refuse_unknown_names(connection)
            return frame

    def _read(self, relation: duckdb.DuckDBPyRelation) -> Frame:
        return getattr(relation, _READERS[self._frames])()  # type: ignore[no-any-return]


_READERS = {"polars": "pl", "pandas": "df", "arrow": "to_arrow_table"}


class _Chosen:
    """Rows of `analyses` that meet arguments, as SQL."""

    def __init__(self, *, newest_only: bool = False, **arguments: Any) -> None:  # noqa: ANN401
        self.parameters: dict[str, object] = {}
        self._named: list[tuple[str, str, list[str]]] = []
        conditions: list[str] = []
        for column, values in (("pipeline_format", FORMATS), ("outcome", _OUTCOMES)):
            _refuse_others(column, as_texts(column, arguments.get(column)), values)
        if arguments.get("session_date") is not None:
            conditions += self._between(arguments.pop("session_date"))
        for argument, value in arguments.items():
            column = "source_collection" if argument == "collection" else argument
            conditions.append(self.one_of(column, value, tables.ANALYSES, argument=argument))
        source = _NEWEST if newest_only else tables.ANALYSES.name
        self.source = f"(SELECT * FROM {source} WHERE {' AND '.join(conditions)})"

    def one_of(self, column: str, value: object, table: Table, *, argument: str = "") -> str:
        """Return the condition that a column holds a value, or one of several."""
        if value is None:
            return "TRUE"
        values = as_texts(argument or column, value)
        self.parameters[column] = values
        self._named.append((column, table.name, values))
        return f"{quote_identifier(column)} IN (SELECT unnest(${column}))"

    def _between(self, value: object) -> Iterator[str]:
        first, last = as_days("session_date", value)
        for name, sign, day in (("first_day", ">=", first), ("last_day", "<=", last)):
            if day is not None:
                self.parameters[name] = day
                yield f"session_date {sign} ${name}"

    def refuse_unknown_names(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Raise an error for a name that nothing in the warehouse has; records are too many."""
        for column, table, values in self._named:
            if column in {"record_id", "outcome", "pipeline_format"}:
                continue
            rows = connection.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall()
            _refuse_others(column, values, [name for (name,) in rows if name is not None])


def _refuse_others(column: str, values: Iterable[str], known: Sequence[str]) -> None:
    for value in values:
        if value not in known:
            raise ArgumentError(f"There is no {column} {value!r}. {suggest(value, known)}")


def _checked_columns(table: Table, columns: Sequence[str] | None) -> str:
    if columns is None:
        return "*"
    names = as_texts("columns", columns)
    if not names:
        raise ArgumentError("columns names none; leave it out for all.")
    for name in names:
        if name not in table.column_names:
            raise ArgumentError(
                f"The table {table.name!r} has no column {name!r}. "
                f"{suggest(name, table.column_names)}"
            )
    return ", ".join(map(quote_identifier, names))


def _with_sessions(table: Table, chosen: _Chosen, condition: str, order: str) -> str:
    """Return the query for a child of `analyses`, with whose it is."""
    own = ", ".join(f"{table.name}.{name}" for name in table.column_names)
    return (
        f"SELECT session_key, subject_id, session_date, agent_alias, {own} "
        f"FROM {table.name} JOIN {chosen.source} AS chosen USING ({_KEY}) "
        f"WHERE {condition} ORDER BY session_key, {order}"
    )
