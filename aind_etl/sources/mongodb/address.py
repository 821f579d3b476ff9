"""The address of a MongoDB database, and the credentials for it."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import InvalidName, PyMongoError

from aind_etl.errors import ConfigurationError
from aind_etl.sources.paging import Limits

USERNAME_VARIABLE = "AIND_ETL_MONGODB_USERNAME"
PASSWORD_VARIABLE = "AIND_ETL_MONGODB_PASSWORD"  # noqa: S105 - a name, not a password
PASSWORD_FILE_VARIABLE = "AIND_ETL_MONGODB_PASSWORD_FILE"  # noqa: S105

# An "@" is accepted only before the hosts. Elsewhere it may belong to a password that is not
# percent-encoded, and the beginning of that password would be shown as a host.
_URL = re.compile(
    r"mongodb(?:\+srv)?://(?:[^@/?]*@)?(?P<hosts>[\w.,:%\[\]-]+)"
    r"(?:/(?P<database>[^@/?]*))?(?:\?(?P<options>[^@]*))?"
)
_EXAMPLE = "mongodb://host:27017/analysis?tls=true&tlsCAFile=global-bundle.pem&authSource=admin"

_REACH_SECONDS = 10.0
_CONNECT_SECONDS = 5.0


def open_database(
    url: str, username: str | None, password: str | None, limits: Limits
) -> tuple[str, Database[dict[str, Any]]]:
    """Return the name and the database of an address; its options override the limits.

    The name is what may be shown of the address: scheme, hosts and database. The client has not
    connected yet.

    Raises
    ------
    ConfigurationError
        The address is not understood, or names no database.
    """
    name, database, given = _parse_address(url)
    if password and not username and "@" not in url:
        raise ConfigurationError(
            f"There is a password for the source {name}, but no user name. Set {USERNAME_VARIABLE}."
        )
    defaults: dict[str, Any] = {
        "appname": "aind-etl",
        "connecttimeoutms": int(_CONNECT_SECONDS * 1000),
        "serverselectiontimeoutms": int(min(_REACH_SECONDS, limits.deadline) * 1000),
        "sockettimeoutms": limits.reply_ms,
        "maxpoolsize": limits.connections,
        # The other mode needs two connections to monitor a server.
        "servermonitoringmode": "poll",
    }
    options = {option: value for option, value in defaults.items() if option not in given}
    # DocumentDB refuses retryable writes; reads are retried here, until a deadline.
    options |= {"retrywrites": False, "retryreads": False}
    credentials = {"username": username, "password": password}
    options |= {option: value for option, value in credentials.items() if value}
    try:
        with warnings.catch_warnings():
            # pymongo only warns about an unknown option, such as a misspelt TLS option.
            warnings.simplefilter("error", UserWarning)
            client: MongoClient[dict[str, Any]] = MongoClient(url, connect=False, **options)
        return name, client[database]
    except InvalidName as error:
        raise ConfigurationError(
            f"The source {name} has an invalid database name: {error}. Write the name after the "
            f"host: {_EXAMPLE}."
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"A file that the options of the source {name} name (tlsCAFile, "
            f"tlsCertificateKeyFile, tlsCRLFile) cannot be used: {error.strerror or error}."
        ) from None
    except (PyMongoError, UserWarning, ValueError, TypeError) as error:
        # Only names of options are repeated: pymongo's message may show values as well.
        message = str(error).lower()
        wrong = [option for option in sorted(given) if option in message]
        what = f"its option {wrong[0]!r}" if wrong else "its credentials, hosts or options"
        raise ConfigurationError(
            f"The address of the source {name} is not understood: {what}. Expected is something "
            f"like {_EXAMPLE}, with special characters percent-encoded, and a password where there "
            "is a user name."
        ) from None


def _parse_address(url: str) -> tuple[str, str, set[str]]:
    """Return what may be shown of an address, its database, and its options in lower case."""
    match = _URL.fullmatch(url)
    if not match:
        raise ConfigurationError(
            "The address of the MongoDB source is not understood (it is not shown: it may hold "
            f"a password). Expected is something like {_EXAMPLE}; in user name, password and "
            "options, write @ as %40, / as %2F, : as %3A and ? as %3F."
        )
    database = unquote(match["database"] or "")
    name = f"{url.partition('://')[0]}://{match['hosts']}/{database}"
    if not database:
        raise ConfigurationError(
            f"The source {name} names no database. Write it after the host: {_EXAMPLE}."
        )
    return name, database, {option.lower() for option, _ in parse_qsl(match["options"] or "")}


def read_credentials(environment: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return user name and password from environment variables.

    The password is ``AIND_ETL_MONGODB_PASSWORD``, or the content of the file that
    ``AIND_ETL_MONGODB_PASSWORD_FILE`` names.

    Raises
    ------
    ConfigurationError
        Both are set, or the file cannot be read.
    """
    password = environment.get(PASSWORD_VARIABLE)
    file = environment.get(PASSWORD_FILE_VARIABLE)
    if password and file:
        raise ConfigurationError(
            f"Both {PASSWORD_VARIABLE} and {PASSWORD_FILE_VARIABLE} are set. Unset one of them."
        )
    if file:
        password = _read_password(Path(file).expanduser())
    return environment.get(USERNAME_VARIABLE), password


def _read_password(path: Path) -> str:
    try:
        password = path.read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(
            f"The file {str(path)!r}, named by {PASSWORD_FILE_VARIABLE}, cannot be read: {what}."
        ) from None
    if not password:
        raise ConfigurationError(
            f"The file {str(path)!r}, named by {PASSWORD_FILE_VARIABLE}, is empty. Write the "
            "password into it."
        )
    return password
