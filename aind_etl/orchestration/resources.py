"""What every asset works with: the settings, and the rooms opened by them."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta

from aind_etl.errors import AindEtlError
from aind_etl.extract import ExtractLimits
from aind_etl.lake import Lake
from aind_etl.progress import NoProgress, Progress
from aind_etl.settings import Settings
from aind_etl.sources import Source, open_source


@dataclass(frozen=True)
class Etl:
    """The settings of a code location, and what they open.

    Attributes
    ----------
    settings
        The settings.
    progress
        Who is told how far a run is.
    failures
        What went wrong with single collections in the run under way.
    """

    settings: Settings
    progress: Progress = field(default_factory=NoProgress)
    failures: list[AindEtlError] = field(default_factory=list)

    @property
    def lake(self) -> Lake:
        """The lake."""
        return Lake(self.settings.lake)

    @property
    def limits(self) -> ExtractLimits:
        """What the passes take for recent, and for a mishap."""
        return ExtractLimits(
            look_back=timedelta(days=self.settings.look_back_days),
            max_deleted_share=self.settings.max_deleted_share,
        )

    def open_source(self) -> AbstractContextManager[Source]:
        """Open the source for the time of a ``with`` block."""
        return open_source(self.settings.source)
