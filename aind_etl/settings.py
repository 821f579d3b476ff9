"""The one settings model: every choice a user has, from the environment or the command line."""

import os
import traceback
from collections.abc import Collection
from datetime import UTC, datetime, time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TypeAlias
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator

from aind_etl.errors import ConfigurationError
from aind_etl.text import folder_name, suggest, without_credentials

WarehouseLocation: TypeAlias = Path | str
"""The location of a warehouse: the path of a file, or the URL of an object."""

_PREFIX = "AIND_ETL_"
_FOR_CONTAINERS = f"{_PREFIX}IMAGE"
_FOR_TESTS = tuple(f"{_PREFIX}{name}" for name in ("TEST_", "WRITE_", "REAL_RECORDS"))
OPTIONS = {
    "source": "--source",
    "lake": "--lake",
    "warehouse": "--warehouse",
    "collections": "--collection",
    "max_deleted_share": "--max-deleted-share",
}
"""The settings that the command line has an option for too, for messages that name it."""


class Settings(BaseModel):
    """Settings, each from the environment variable ``AIND_ETL_<NAME>``.

    Attributes
    ----------
    source
        Address of the source; may hold a password, and is never shown.
    lake
        Folder of the lake, or its prefix on an object store (``s3://bucket/lake``).
    warehouse
        The DuckDB file, or the URL of the object that is to be one;
        ``<lake>/warehouse.duckdb`` where none is given.
    collections
        The collections to work on; all where none is given. In the environment, separated by
        commas.
    include, exclude
        Patterns (``*``, ``?``, ``[…]``) of the collections to work on where none is named: those
        that match one of ``include``, or all where none is given, and none of ``exclude``.
    connections
        The most questions that the source is asked at a time.
    requests_per_second
        The most requests that a gateway gets in a second.
    shard_documents
        A collection of more documents than this is read in splits of about so many, several at a
        time.
    partition_documents
        A collection of more documents than this is divided into parts of at most so many, each a
        partition of Dagster with files, history and retries of its own.
    look_back_days
        A *new* pass reads again what arrived no longer ago than this.
    max_deleted_share
        Largest share of a collection, from 0 to 1, that one pass may find gone, and of a table
        that may be missing from one publication to the next.
    results_root
        A folder, or an ``s3://bucket/prefix``, that replaces ``s3://`` in the addresses of
        result folders.
    s3_anon
        Whether the object store is asked without credentials.
    s3_endpoint_url
        Address of an object store other than AWS.
    s3_concurrency
        Largest number of requests under way at a time.
    results_look_back_days
        An empty or incomplete result folder is checked again until its record arrived
        longer ago than this.
    behavior_database
        Folder or address of the institute's behaviour database.
    session_table
        Address of the session table: a parquet file, or a folder with the older pickle;
        ``<behavior_database>/session_table.parquet`` where none is given.
    frames
        What ``Warehouse()`` answers with in Python.
    sensor_interval_seconds
        How often Dagster asks the source for what is new; as often as its kind of source bears,
        where none is given.
    nightly_at, time_zone
        When every collection is read in full, as ``HH:MM`` on the clocks of a zone of the IANA
        database.
    alert_webhook_url
        Where alerts are sent: an incoming webhook of Slack or Teams, or anything else that
        takes JSON. A secret.
    dagster_url
        Address of Dagster's page, for links in alerts.
    """

    source: str = Field(default="sample:", repr=False)
    lake: Path | str = Path("lake")
    warehouse: Path | str | None = None
    collections: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    connections: int = Field(default=4, ge=1, le=100)
    requests_per_second: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    shard_documents: int = Field(default=25_000, ge=1)
    partition_documents: int = Field(default=1_000_000, ge=1)
    look_back_days: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    max_deleted_share: float = Field(default=0.2, ge=0, le=1)
    results_root: str | None = None
    s3_anon: bool = True
    s3_endpoint_url: str | None = Field(default=None, repr=False)
    s3_concurrency: int = Field(default=64, ge=1, le=1024)
    results_look_back_days: float = Field(default=7.0, ge=0, allow_inf_nan=False)
    behavior_database: str = "s3://aind-scratch-data/aind-dynamic-foraging-cache"
    session_table: str | None = None
    frames: Literal["polars", "pandas", "arrow"] = "polars"
    sensor_interval_seconds: int | None = Field(default=None, ge=1)
    nightly_at: time = time(2, 0)
    time_zone: str = "America/Los_Angeles"
    alert_webhook_url: SecretStr | None = None
    dagster_url: str = "http://127.0.0.1:3000"

    @field_validator("collections", "include", "exclude", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("time_zone")
    @classmethod
    def _refuse_unknown_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (LookupError, OSError, ValueError):
            raise ValueError(
                "no time zone of the IANA database, such as America/Los_Angeles"
            ) from None
        return value

    @field_validator("dagster_url", "behavior_database", "session_table")
    @classmethod
    def _without_slash(cls, value: str | None) -> str | None:
        return value and value.rstrip("/")

    @field_validator("lake", "warehouse", mode="before")
    @classmethod
    def _place(cls, value: object) -> object:
        return parse_location(value) if isinstance(value, str) else value

    @field_validator("lake", "warehouse")
    @classmethod
    def _expand(cls, value: Path | str | None) -> Path | str | None:
        return value.expanduser() if isinstance(value, Path) else value

    def choose(self, present: Collection[str]) -> list[str]:
        """Return the collections to work on, out of those there are, sorted.

        Raises
        ------
        ConfigurationError
            One that was asked for is not there.
        """
        unknown = sorted(set(self.collections) - set(present))
        if unknown:
            others = ", ".join(map(repr, sorted(present))) or "no others"
            raise ConfigurationError(
                f"There is no collection {', '.join(map(repr, unknown))}; there are {others}."
            )
        if self.collections:
            return sorted(self.collections)
        return sorted(
            name
            for name in present
            if any(fnmatchcase(name, pattern) for pattern in self.include or ["*"])
            and not any(fnmatchcase(name, pattern) for pattern in self.exclude)
        )

    @property
    def secrets(self) -> tuple[SecretStr, ...]:
        """What must never be shown, besides credentials in the source's address."""
        return tuple(
            filter(
                None,
                (self.alert_webhook_url,),
            )
        )

    def without_secrets(self, text: str) -> str:
        """Return a text without the settings' secrets and without credentials in addresses."""
        for secret in self.secrets:
            text = text.replace(secret.get_secret_value(), "…")
        return without_credentials(text)

    @property
    def warehouse_path(self) -> WarehouseLocation:
        """Where the warehouse is published: a path, or the URL of an object."""
        if self.warehouse is not None:
            return self.warehouse
        if isinstance(self.lake, Path):
            return self.lake / "warehouse.duckdb"
        return f"{self.lake.rstrip('/')}/warehouse.duckdb"

    @property
    def session_table_location(self) -> str:
        """Where the session table is read from."""
        return self.session_table or f"{self.behavior_database}/session_table.parquet"

    @property
    def folder(self) -> Path:
        """The folder for what lies beside the lake's tables.

        The lake's, if that is on a disk; else a folder of the lake's own in the user's cache.
        """
        if isinstance(self.lake, Path):
            return self.lake
        from platformdirs import user_cache_path  # noqa: PLC0415 - most lakes are on a disk

        return user_cache_path("aind-etl") / "lakes" / folder_name(self.lake, self.lake)


def load_settings(**given: Any) -> Settings:  # noqa: ANN401 - the fields' types are checked by the model
    """Return the settings: what is given, else the environment, else the defaults.

    Parameters
    ----------
    **given
        Fields of :class:`Settings`; those that are None or empty count as not given.

    Raises
    ------
    ConfigurationError
        A value does not fit.
    """
    # By three lines of our own: pydantic-settings adds 40 ms to the start of every command.
    names = {name: f"{_PREFIX}{name.upper()}" for name in Settings.model_fields}
    set_outside = {
        name: os.environ[variable] for name, variable in names.items() if variable in os.environ
    }
    chosen = {name: value for name, value in given.items() if value not in (None, ())}
    try:
        return Settings(**set_outside | chosen)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        option = f" ({OPTIONS[name]})" if name in OPTIONS else ""
        shown = "" if name == "source" else f" is {first['input']!r}"
        raise ConfigurationError(
            f"The setting AIND_ETL_{name.upper()}{option}{shown}: "
            f"{first['msg'].removeprefix('Value error, ')}."
        ) from None


def write_traceback(folder: Path, error: Exception, settings: Settings) -> Path:
    """Write the traceback of an error, without secrets, to a new file in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S.%f}.log"
    text = "".join(traceback.format_exception(error))
    file.write_text(settings.without_secrets(text), errors="backslashreplace")
    return file


def unknown_variables(read_elsewhere: Collection[str]) -> dict[str, str]:
    """Return the environment variables that look like settings and are none, each with a hint.

    Parameters
    ----------
    read_elsewhere
        Variables that are no settings, but read by somebody.
    """
    known = {f"{_PREFIX}{name.upper()}" for name in Settings.model_fields}
    known |= {_FOR_CONTAINERS, *read_elsewhere}
    return {
        name: suggest(name, known)
        for name in sorted(os.environ)
        if name.startswith(_PREFIX)
        and name.removesuffix("_FILE") not in known
        and not name.startswith(_FOR_TESTS)
    }


def parse_location(place: Path | str) -> WarehouseLocation:
    """Return a place from what somebody wrote: a URL, or else a path."""
    return place if isinstance(place, Path) or "://" in place else Path(place)
