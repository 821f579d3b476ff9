"""From the address of a source to the source."""

from importlib import import_module
from typing import cast

from aind_etl.settings import Settings
from aind_etl.sources.kinds import SourceOptions, kind_of
from aind_etl.sources.protocol import Source


def open_configured_source(settings: Settings) -> Source:
    """Return the source that the settings name, with what they choose about it.

    Raises
    ------
    ConfigurationError
        As for :func:`open_source`.
    """
    return open_source(
        settings.source,
        SourceOptions(
            collections=settings.collections,
            include=settings.include,
            exclude=settings.exclude,
            connections=settings.connections,
            requests_per_second=settings.requests_per_second,
        ),
    )


def open_source(url: str, options: SourceOptions | None = None) -> Source:
    """Return the source at an address.

    Parameters
    ----------
    url
        An address of one of the :data:`~aind_etl.sources.kinds.KINDS`.
    options
        What to choose besides.

    Raises
    ------
    ConfigurationError
        The address is of no kind that is known, or what it names does not exist.
    """
    module = import_module(kind_of(url).module)
    return cast("Source", module.open_url(url, options or SourceOptions()))
