"""Where a Dagster instance keeps its runs, events and ticks.

In PostgreSQL where the settings name one, else in SQLite files below ``DAGSTER_HOME``. Dagster's
own configuration can take an address from the environment, but cannot do without one; with this
class one ``dagster.yaml`` serves a laptop and a cluster.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Engine, make_url

from aind_etl.errors import ConfigurationError
from aind_etl.settings import load_settings


class StorageOfTheSettings(DagsterStorage, ConfigurableClass):
    """What ``dagster.yaml`` names; it is never made itself, but one of Dagster's own in its place.

    The address stands in the settings alone: what Dagster passes on to the processes it starts
    names this class, and no password.
    """

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """Return that there is nothing to configure."""
        return {}

    @classmethod
    def from_config_value(
        cls,
        inst_data: ConfigurableClassData | None,
        config_value: Mapping[str, Any],  # noqa: ARG003 - Dagster passes it
    ) -> Self:
        """Return the storage that the settings ask for.

        Raises
        ------
        ConfigurationError
            PostgreSQL is asked for, and its client is not installed.
        """
        url = load_settings().dagster_postgres_url
        if url is None:
            home = os.environ["DAGSTER_HOME"]
            return DagsterSqliteStorage.from_local(home, inst_data)  # type: ignore[return-value]
        try:
            from dagster_postgres import DagsterPostgresStorage  # noqa: PLC0415 - optional
        except ImportError:
            raise ConfigurationError(
                "AIND_ETL_DAGSTER_POSTGRES_URL is set, and dagster-postgres is not installed. "
                "Install it with: pip install 'aind-etl[postgres]'."
            ) from None
        address = make_url(url.get_secret_value())
        if address.drivername in {"postgres", "postgresql"}:
            # SQLAlchemy would take the driver psycopg, and dagster-postgres brings psycopg2.
            address = address.set(drivername="postgresql+psycopg2")
        return DagsterPostgresStorage(  # type: ignore[return-value]
            address.render_as_string(hide_password=False),
            should_autocreate_tables=True,
            inst_data=inst_data,
        )


@contextmanager
def hastily() -> Iterator[None]:
    """Write SQLite without waiting for the disk, for the time of a ``with`` block.

    Dagster commits every event by itself, and most of a short run would be waiting. A power cut
    within seconds may cost the history of runs, never data: nothing is kept there that the lake
    depends on. Of the rest, a seventh would be engines: Dagster makes one for every event, and
    each compiles its statements anew; here there is one a file.
    """
    engines: dict[str, Engine] = {}

    def kept_engine(url: str, **options: Any) -> Engine:  # noqa: ANN401 - SQLAlchemy's
        if url not in engines:
            engines[url] = create_engine(url, **options)
        return engines[url]

    def do_not_wait(connection: object, _record: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", do_not_wait)
    sqlite_event_log.create_engine = kept_engine  # type: ignore[assignment, attr-defined]
    try:
        yield
    finally:
        sqlite_event_log.create_engine = create_engine  # type: ignore[attr-defined]
        event.remove(Engine, "connect", do_not_wait)
