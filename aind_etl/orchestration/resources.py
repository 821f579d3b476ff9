"""The resource of every asset: the settings, and access to lake and source."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import dagster as dg

from aind_etl.errors import SourceError
from aind_etl.lake import Lake
from aind_etl.progress import NoProgress, Progress
from aind_etl.settings import Settings
from aind_etl.sources.kinds import open_source
from aind_etl.sources.protocol import Source

_FIRST_PAUSE_SECONDS = 15


class ResultStoreError(SourceError):
    """The store of the result folders does not answer."""


@dataclass(frozen=True)
class Etl:
    """The settings of a code location, and access to its lake and source."""

    settings: Settings
    progress: Progress = field(default_factory=NoProgress)
    source_retries: int = 0
    """How often a step is retried if a source cannot be read."""
    opened: Source | None = None
    """An open source that successive runs share."""

    @property
    def lake(self) -> Lake:
        """The lake."""
        return Lake(self.settings.lake)

    def open_source(self) -> AbstractContextManager[Source]:
        """Open the source for the duration of a ``with`` block."""
        if self.opened is not None:
            return nullcontext(self.opened)
        return open_source(self.settings)

    @contextmanager
    def retrying(self, context: dg.AssetExecutionContext) -> Iterator[None]:
        """Request a retry of the step, after growing pauses, if a source cannot be read.

        Other errors are not retried: data and settings are no better a minute later.
        """
        try:
            yield
        except SourceError as error:
            if context.retry_number >= self.source_retries:
                raise
            raise dg.RetryRequested(
                max_retries=self.source_retries,
                seconds_to_wait=_FIRST_PAUSE_SECONDS * 2**context.retry_number,
            ) from error
