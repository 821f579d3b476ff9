"""The kinds of sources: a source is a module of this package and a row here."""

from collections.abc import Sequence
from dataclasses import dataclass

from aind_etl.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class SourceKind:
    """A kind of source, as its addresses and the command line know it.

    Attributes
    ----------
    name
        The kind in one word.
    schemes
        What its addresses begin with, before the colon; empty where it is a path.
    help
        Its addresses for people, in Markdown.
    module
        The module whose ``open_url`` takes an address and :class:`SourceOptions`. Imported when
        it is needed: no source waits for the libraries of another.
    credentials
        Environment variables that it reads itself.
    is_simulated
        Whether its documents and result files are made up, and must not be mixed with real ones.
    seconds_between_looks
        How often it bears to be asked whether there is something new.
    """

    name: str
    schemes: tuple[str, ...]
    help: str
    module: str
    credentials: tuple[str, ...] = ()
    is_simulated: bool = False
    seconds_between_looks: int = 10


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What a user may choose besides the address.

    Attributes
    ----------
    collections
        Names of the only collections to ask a server for; a gateway cannot be asked for others.
        A dump, as it costs nothing, lists all in any case.
    include, exclude
        Patterns of the collections to discover on a server where none are named.
    connections
        The most questions that a server is asked at a time.
    requests_per_second
        The most requests that a gateway gets in a second.
    """

    collections: Sequence[str] = ()
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    connections: int = 4
    requests_per_second: float = 5.0


KINDS = (
    SourceKind(
        "sample",
        ("sample",),
        "`sample:` (built in, also `sample:?sessions=100&seed=1`)",
        "aind_etl.sources.sample",
        is_simulated=True,
    ),
    SourceKind(
        "dump",
        ("", "file"),
        "a folder with a dump (`<collection>.jsonl`, `.json` or `.bson`, each also `.gz`)",
        "aind_etl.sources.dump",
    ),
    SourceKind(
        "mongodb",
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
        "gateway",
        ("https", "http"),
        "`https://host/v1/database` (a gateway)",
        "aind_etl.sources.gateway.source",
        # A count is a request like any other, of which a gateway takes few a second.
        seconds_between_looks=60,
    ),
)
"""Every kind of source."""


def kind_of(url: str) -> SourceKind:
    """Return the kind of source that an address is of.

    Raises
    ------
    ConfigurationError
        It is of no kind that is known.
    """
    # Nothing more is parsed here: a password may hold what Python's parser refuses.
    scheme, colon, rest = url.partition(":")
    scheme = scheme.lower() if colon else ""
    for kind in KINDS:
        if scheme in kind.schemes:
            return kind
    if rest.startswith("//"):
        # Only the scheme is shown: the rest may hold a password.
        raise ConfigurationError(f"Sources of the kind {scheme}:// are not known. {known_kinds()}")
    return next(kind for kind in KINDS if "" in kind.schemes)


def known_kinds() -> str:
    """Return a sentence that lists the addresses there may be."""
    return f"Known sources: {', '.join(kind.help for kind in KINDS)}."
