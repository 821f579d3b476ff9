"""The settings, from the environment or the command line."""

import os
import traceback
from collections.abc import Collection
from datetime import UTC, datetime, time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator

from aind_etl.errors import ConfigurationError
from aind_etl.text import folder_name, suggest, without_credentials

WarehouseLocation: TypeAlias = Path | str
"""The location of a warehouse: the path of a file, or the URL of an object."""

_PREFIX = "AIND_ETL_"
_FOR_TESTS = tuple(f"{_PREFIX}{name}" for name in ("TEST_", "WRITE_", "REAL_RECORDS"))
OPTIONS = {
    "source": "--source",
    "lake": "--lake",
    "warehouse": "--warehouse",
    "collections": "--collection",
    "max_deleted_share": "--max-deleted-share",
}
"""The command-line options of settings, which error messages mention."""


class Settings(BaseModel):
    """Settings, each from the environment variable ``AIND_ETL_<NAME>``.

    Attributes
    ----------
    source
        Address of the source. It may contain a password and is never shown.
    lake
        Folder of the lake, or its prefix in an object store (``s3://bucket/lake``).
    warehouse
        Path or URL of the DuckDB file; default ``<lake>/warehouse.duckdb``.
    collections
        The collections to process, separated by commas in the environment; default all.
    include, exclude
        Patterns (``*``, ``?``, ``[…]``) that select the collections if ``collections`` is empty:
        those that match any of ``include`` (default all) and none of ``exclude``.
    connections
        Largest number of concurrent requests to the source.
    requests_per_second
        Largest number of requests per second to a gateway.
    shard_documents
        Larger collections are read in splits of about this many documents, several at a time.
    partition_documents
        Larger collections are divided into shards of at most this many documents. Each is a Dagster
        partition with files, history and retries of its own.
    look_back_days
        A *new* pass reads documents again that arrived within this time.
    max_deleted_share
        Largest share, from 0 to 1, of a collection that may be missing from one pass, and of a
        table that may be missing from one publication to the next.
    results_root
        A folder, or an ``s3://bucket/prefix``, that replaces ``s3://`` in the addresses of
        result folders.
    s3_anon
        Whether requests to the object store are sent without credentials.
    s3_endpoint_url
        Address of an object store other than AWS.
    s3_concurrency
        Largest number of concurrent requests to the object store.
    results_look_back_days
        Empty and incomplete result folders are checked again while their record is younger.
    behavior_database
        Folder or address of the institute's behaviour database.
    session_table
        Address of the session table: a parquet file, or a folder with the older pickle;
        default ``<behavior_database>/session_table.parquet``.
    frames
        The kind of data frame that ``Warehouse()`` returns in Python.
    sensor_interval_seconds
        How often Dagster checks the source for changes; the default depends on the kind of source.
    nightly_at, time_zone
        When every collection is read in full: ``HH:MM`` in a time zone of the IANA database.
    alert_webhook_url
        Where alerts are sent: an incoming webhook of Slack or Teams, or anything else that
        accepts JSON. A secret.
    dagster_url
        Address of the Dagster UI, for links in alerts.
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
    def _parse_location(cls, value: object) -> object:
        location = parse_location(value) if isinstance(value, str) else value
        return location.expanduser() if isinstance(location, Path) else location

    def choose(self, present: Collection[str]) -> list[str]:
        """Return the collections to process out of those present, sorted."""
        unknown = sorted(set(self.collections) - set(present))
        if unknown:
            others = ", ".join(map(repr, sorted(present))) or "no others"
            raise ConfigurationError(
                f"There is no collection {', '.join(map(repr, unknown))}; there are {others}."
            )
        return sorted(filter(self.includes, present))

    def includes(self, collection: str) -> bool:
        """Return whether a collection is to be processed if it is present."""
        if self.collections:
            return collection in self.collections
        return any(
            fnmatchcase(collection, pattern) for pattern in self.include or ["*"]
        ) and not any(fnmatchcase(collection, pattern) for pattern in self.exclude)

    def without_secrets(self, text: str) -> str:
        """Return a text without the settings' secrets and without credentials in URLs."""
        for secret in self._secrets():
            text = text.replace(secret, "…")
        return without_credentials(text)

    def _secrets(self) -> list[str]:
        """Return the webhook's address, and the passwords of addresses; the longest first."""
        webhook = self.alert_webhook_url.get_secret_value() if self.alert_webhook_url else ""
        secrets = [webhook]
        for address in (self.source, webhook):
            try:
                password = urlsplit(address).password
            except ValueError:
                password = address
            if password:
                secrets += [address, password, unquote(password)]
        return sorted(filter(None, secrets), key=len, reverse=True)

    @property
    def warehouse_path(self) -> WarehouseLocation:
        """The location of the published warehouse."""
        if self.warehouse is not None:
            return self.warehouse
        if isinstance(self.lake, Path):
            return self.lake / "warehouse.duckdb"
        return f"{self.lake.rstrip('/')}/warehouse.duckdb"

    @property
    def session_table_location(self) -> str:
        """The address of the session table."""
        return self.session_table or f"{self.behavior_database}/session_table.parquet"

    @property
    def folder(self) -> Path:
        """The folder for logs and Dagster's history.

        It is the lake itself if that is on a disk, otherwise a folder in the user's cache.
        """
        if isinstance(self.lake, Path):
            return self.lake
        from platformdirs import user_cache_path  # noqa: PLC0415 - rarely needed

        return user_cache_path("aind-etl") / "lakes" / folder_name(self.lake, self.lake)


def load_settings(**given: Any) -> Settings:  # noqa: ANN401 - the model checks the types
    """Return the settings: the given values, then the environment, then the defaults.

    Given values that are None or empty are ignored.
    """
    # Without pydantic-settings, which adds 40 ms to the start of every command.
    names = {name: f"{_PREFIX}{name.upper()}" for name in Settings.model_fields}
    environment = {
        name: os.environ[variable] for name, variable in names.items() if variable in os.environ
    }
    chosen = {name: value for name, value in given.items() if value not in (None, ())}
    try:
        return Settings(**environment | chosen)
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


def unknown_variables(known_elsewhere: Collection[str]) -> dict[str, str]:
    """Return the variables ``AIND_ETL_…`` that are not settings, each with a suggestion.

    Parameters
    ----------
    known_elsewhere
        Variables that are not settings but are read by another part of the package.
    """
    known = {f"{_PREFIX}{name.upper()}" for name in Settings.model_fields}
    known |= {f"{_PREFIX}IMAGE", *known_elsewhere}  # The image is read by docker/compose.yaml.
    return {
        name: suggest(name, known)
        for name in sorted(os.environ)
        if name.startswith(_PREFIX)
        and name.removesuffix("_FILE") not in known
        and not name.startswith(_FOR_TESTS)
    }


def parse_location(text: Path | str) -> WarehouseLocation:
    """Return a URL as a string, and anything else as a path."""
    return text if isinstance(text, Path) or "://" in text else Path(text)
