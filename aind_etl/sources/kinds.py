"""The kinds of sources, and opening the source that an address names.

A source is a module of this package and a row of :data:`KINDS`.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, cast

from aind_etl.errors import ConfigurationError

if TYPE_CHECKING:
    # The command line's help lists the kinds, and needs nothing else.
    from aind_etl.settings import Settings
    from aind_etl.sources.protocol import Source


@dataclass(frozen=True, slots=True)
class SourceKind:
    """A kind of source.

    Attributes
    ----------
    schemes
        What its addresses have before the first colon; empty for a path.
    help
        What its addresses look like, in Markdown.
    module
        The module whose ``open_source`` takes the settings. It is imported when it is needed,
        because the sources use different libraries.
    credentials
        Environment variables that it reads itself.
    is_simulated
        Whether its documents and result files are invented and must not be mixed with real ones.
    seconds_between_checks
        The shortest time between two checks for changes.
    """

    schemes: tuple[str, ...]
    help: str
    module: str
    credentials: tuple[str, ...] = ()
    is_simulated: bool = False
    seconds_between_checks: int = 10


KINDS = (
    SourceKind(
        ("sample",),
        "`sample:` (built in, also `sample:?sessions=100&seed=1`)",
        "aind_etl.sources.sample",
        is_simulated=True,
    ),
    SourceKind(
        ("", "file"),
        "a folder with a dump (`<collection>.jsonl`, `.json` or `.bson`, each also `.gz`)",
        "aind_etl.sources.dump",
    ),
    SourceKind(
        ("mongodb", "mongodb+srv"),
        "`mongodb://host/database`",
        "aind_etl.sources.mongodb.source",
        credentials=(
            "AIND_ETL_MONGODB_USERNAME",
            "AIND_ETL_MONGODB_PASSWORD",
            "AIND_ETL_MONGODB_PASSWORD_FILE",
        ),
    ),
    SourceKind(
        ("https", "http"),
        "`https://host/v1/database` (a gateway)",
        "aind_etl.sources.gateway.source",
        # A count is a request like any other, and a gateway accepts only a few per second.
        seconds_between_checks=60,
    ),
)
"""Every kind of source."""


def kind_of(url: str) -> SourceKind:
    """Return the kind of source that an address belongs to."""
    by_scheme = {scheme: kind for kind in KINDS for scheme in kind.schemes}
    # The address is not parsed further: Python's parser refuses characters of some passwords.
    scheme, colon, rest = url.partition(":")
    kind = by_scheme.get(scheme.lower() if colon else "")
    if kind is None and rest.startswith("//"):
        # Only the scheme is shown: the rest may hold a password.
        raise ConfigurationError(
            f"Sources of the kind {scheme.lower()}:// are not known. {known_kinds()}"
        )
    return kind or by_scheme[""]


def known_kinds() -> str:
    """Return a sentence that lists the valid addresses, for error messages."""
    return f"Known sources: {', '.join(kind.help for kind in KINDS)}."


def open_source(settings: "Settings") -> "Source":
    """Return the source that the settings name.

    Raises
    ------
    ConfigurationError
        The address is not understood, or what it names does not exist.
    """
    module = import_module(kind_of(settings.source).module)
    return cast("Source", module.open_source(settings))
