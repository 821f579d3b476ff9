"""The address of a MongoDB database, and the credentials for it."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from aind_etl.errors import ConfigurationError

USERNAME_VARIABLE = "AIND_ETL_MONGODB_USERNAME"
PASSWORD_VARIABLE = "AIND_ETL_MONGODB_PASSWORD"  # noqa: S105 - a name, not a password
PASSWORD_FILE_VARIABLE = "AIND_ETL_MONGODB_PASSWORD_FILE"  # noqa: S105

# An "@" is accepted only before the hosts. Elsewhere it may belong to a password that is not
# percent-encoded, and the beginning of that password would be shown as a host.
_URL = re.compile(
    r"mongodb(?:\+srv)?://(?:[^@/?]*@)?(?P<hosts>[\w.,:%\[\]-]+)"
    r"(?:/(?P<database>[^@/?]*))?(?:\?(?P<options>[^@]*))?"
)
EXAMPLE = "mongodb://host:27017/analysis?tls=true&tlsCAFile=global-bundle.pem&authSource=admin"
"""An example address, for error messages."""

_REACH_SECONDS = 10.0
_CONNECT_SECONDS = 5.0


class Address(NamedTuple):
    """The address of a database.

    Attributes
    ----------
    url
        The address; it may hold a password.
    name
        The parts that may be shown: scheme, hosts and database.
    database
        Name of the database.
    options
        Names of the options in the address, in lower case.
    """

    url: str
    name: str
    database: str
    options: frozenset[str]


def parse_address(url: str) -> Address:
    """Parse an address.

    Raises
    ------
    ConfigurationError
        It is not understood, or names no database.
    """
    match = _URL.fullmatch(url)
    if not match:
        raise ConfigurationError(
            "The address of the MongoDB source is not understood (it is not shown: it may hold "
            f"a password). Expected is something like {EXAMPLE}; in user name, password and "
            "options, write @ as %40, / as %2F, : as %3A and ? as %3F."
        )
    database = unquote(match["database"] or "")
    name = f"{url.partition('://')[0]}://{match['hosts']}/{database}"
    if not database:
        raise ConfigurationError(
            f"The source {name} names no database. Write it after the host: {EXAMPLE}."
        )
    options = frozenset(name.lower() for name, _ in parse_qsl(match["options"] or ""))
    return Address(url, name, database, options)


def open_client(  # noqa: PLR0913
    address: Address,
    *,
    username: str | None,
    password: str | None,
    connections: int,
    deadline: float,
    reply_timeout_ms: int,
) -> MongoClient[dict[str, Any]]:
    """Return a client that has not connected yet; the address's options override the defaults.

    The parameters are those of :class:`~aind_etl.sources.mongodb.MongoSource`.

    Raises
    ------
    ConfigurationError
        pymongo does not understand the address.
    """
    defaults: dict[str, Any] = {
        "appname": "aind-etl",
        "connecttimeoutms": int(_CONNECT_SECONDS * 1000),
        "serverselectiontimeoutms": int(min(_REACH_SECONDS, deadline) * 1000),
        "sockettimeoutms": reply_timeout_ms,
        "maxpoolsize": connections,
        # The other mode needs two connections to monitor a server.
        "servermonitoringmode": "poll",
    }
    options = {name: value for name, value in defaults.items() if name not in address.options}
    # DocumentDB refuses retryable writes; reads are retried here, until a deadline.
    options |= {"retrywrites": False, "retryreads": False}
    credentials = {"username": username, "password": password}
    options |= {name: value for name, value in credentials.items() if value}
    if password and not username and "@" not in address.url:
        raise ConfigurationError(
            f"There is a password for the source {address.name}, but no user name. Set "
            f"{USERNAME_VARIABLE}."
        )
    try:
        with warnings.catch_warnings():
            # pymongo only warns about an unknown option, such as a misspelt TLS option.
            warnings.simplefilter("error", UserWarning)
            return MongoClient(address.url, connect=False, **options)
    except OSError as error:
        raise ConfigurationError(
            f"A file that the options of the source {address.name} name (tlsCAFile, "
            f"tlsCertificateKeyFile, tlsCRLFile) cannot be used: {error.strerror or error}."
        ) from None
    except (PyMongoError, UserWarning, ValueError, TypeError) as error:
        # Only names of options are repeated: pymongo's message may show values as well.
        message = str(error).lower()
        wrong = [name for name in sorted(address.options) if name in message]
        what = f"its option {wrong[0]!r}" if wrong else "its credentials, hosts or options"
        raise ConfigurationError(
            f"The address of the source {address.name} is not understood: {what}. Expected is "
            f"something like {EXAMPLE}, with special characters percent-encoded, and a "
            "password where there is a user name."
        ) from None


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
