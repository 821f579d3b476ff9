"""From the address of a source to the source."""

from collections.abc import Sequence
from glob import escape
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from aind_etl.errors import ConfigurationError
from aind_etl.sources.dump import DumpSource
from aind_etl.sources.protocol import Source
from aind_etl.sources.sample import SampleSource

_KNOWN = (
    "Known sources: 'sample:' (the built-in sample, also 'sample:?sessions=100&seed=1'), the "
    "path of a folder with a dump (<collection>.jsonl, .json or .bson, each also .gz), "
    "'mongodb://host/database' or 'https://gateway/v1/database'."
)
_DEFAULT_SESSIONS = 24
_DEFAULT_SEED = 0


def open_source(  # noqa: PLR0913 - each is a choice of the user's
    url: str,
    *,
    collections: Sequence[str] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    connections: int = 4,
    requests_per_second: float = 5.0,
) -> Source:
    """Return the source at an address.

    Parameters
    ----------
    url
        ``sample:``, ``sample:?sessions=N&seed=S``, the path of a folder, its ``file:`` URL, or
        the ``mongodb:`` URL of a database or the ``https:`` URL of a gateway to one.
    collections
        Names of the only collections to ask a server for; a gateway cannot be asked for others.
        A dump, as it costs nothing, lists all in any case.
    include, exclude
        Patterns of the collections to discover on a server where none are named.
    connections
        The most questions that a server is asked at a time.
    requests_per_second
        The most requests that a gateway gets in a second.

    Raises
    ------
    ConfigurationError
        The address is of no kind that is known, or what it names does not exist.
    """
    # Before the address is taken apart: a password may hold what Python's parser refuses.
    if url.startswith(("mongodb://", "mongodb+srv://")):
        # Imported here: other sources need not wait for the client.
        from aind_etl.sources.mongodb import mongo_source_from_environment  # noqa: PLC0415

        return mongo_source_from_environment(
            url,
            include=[escape(name) for name in collections] or include,
            exclude=() if collections else exclude,
            connections=connections,
        )
    if url.startswith(("https://", "http://")):
        from aind_etl.sources.gateway import KNOWN_COLLECTIONS, GatewaySource  # noqa: PLC0415

        return GatewaySource(
            url,
            collections or KNOWN_COLLECTIONS,
            concurrency=connections,
            requests_per_second=requests_per_second,
        )
    parts = urlsplit(url)
    if parts.scheme == "sample":
        return _sample(url)
    if parts.scheme == "file":
        return DumpSource(Path(unquote(parts.path)))
    if "://" in url:
        # Only the scheme is shown: the rest may hold a password.
        raise ConfigurationError(f"Sources of the kind {parts.scheme}:// are not known. {_KNOWN}")
    return DumpSource(Path(url).expanduser())


def _sample(url: str) -> SampleSource:
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.path or parts.netloc or not given.keys() <= {"sessions", "seed"}:
        raise ConfigurationError(f"The source {url!r} is not understood. {_KNOWN}")
    try:
        sessions = int(given.get("sessions", _DEFAULT_SESSIONS))
        seed = int(given.get("seed", _DEFAULT_SEED))
    except ValueError:
        raise ConfigurationError(
            f"The source {url!r} is not understood: sessions and seed are whole numbers. {_KNOWN}"
        ) from None
    if sessions < 1 or seed < 0:
        raise ConfigurationError(
            f"The source {url!r} is not understood: sessions begins at 1 and seed at 0."
        )
    return SampleSource(sessions, seed)
