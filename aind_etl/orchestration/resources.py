"""The resource of every asset: the settings, and what they open."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Self

import dagster as dg

from aind_etl.changelog.passes import ExtractLimits
from aind_etl.errors import SourceError
from aind_etl.lake import Lake
from aind_etl.orchestration.partitions import partition_of
from aind_etl.progress import NoProgress, Progress
from aind_etl.settings import Settings
from aind_etl.sources.kinds import open_configured_source
from aind_etl.sources.protocol import Source

_FIRST_PAUSE_SECONDS = 15


class ResultStoreError(SourceError):
    """The store of the result folders does not answer."""


@dataclass(frozen=True)
class Etl:
    """The settings of a code location, and what they open.

    Attributes
    ----------
    settings
        The settings.
    progress
        The receiver of progress.
    source_retries
        How often a step asks again that could not read from a source.
    opened
        A source that is open already, for runs that follow each other.
    """

    settings: Settings
    progress: Progress = field(default_factory=NoProgress)
    source_retries: int = 0
    opened: Source | None = None

    @property
    def lake(self) -> Lake:
        """The lake."""
        return Lake(self.settings.lake)

    def lake_and_collection(self, partition_key: str) -> tuple[Lake, str]:
        """Return the lake as seen for a partition, and the partition's collection."""
        collection, shard = partition_of(partition_key)
        return self.lake.for_shard(shard), collection

    @property
    def limits(self) -> ExtractLimits:
        """What the passes take as recent, and as an accidental mass deletion."""
        return ExtractLimits(
            look_back=timedelta(days=self.settings.look_back_days),
            max_deleted_share=self.settings.max_deleted_share,
            shard_documents=self.settings.shard_documents,
        )

    def open_source(self) -> AbstractContextManager[Source]:
        """Open the source for the duration of a ``with`` block."""
        if self.opened is not None:
            return nullcontext(self.opened)
        return open_configured_source(self.settings)

    def list_collections(self) -> list[str]:
        """Return the names of the source's collections, sorted."""
        with self.open_source() as source:
            return source.list_collections()

    @contextmanager
    def keeping_source_open(self) -> Iterator[Self]:
        """Give the same with a source that stays open for the duration of a ``with`` block."""
        with self.open_source() as source:
            yield replace(self, opened=source)

    @contextmanager
    def retrying(self, context: dg.AssetExecutionContext) -> Iterator[None]:
        """Let a step that could not read from a source be tried again, with growing pauses.

        Only that: what is wrong with the data or the settings is no better a minute later.

        Raises
        ------
        dagster.RetryRequested
            The source could not be read; a retry may help.
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
