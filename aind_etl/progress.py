"""The interface through which long work reports its progress."""

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of a run."""

    def stage(self, number: int, total: int) -> None:
        """Begin collection ``number`` of ``total``; both are 0 for work on all collections."""

    def step(self, name: str) -> None:
        """Begin a step, which ends the one before."""

    def expect(self, total: int, unit: str) -> None:
        """Set the size of the step, in units such as documents."""

    def advance(self, documents: int) -> None:
        """Advance the step by a number of documents."""

    def say(self, message: str) -> None:
        """Show a message to the user."""


class NoProgress(Progress):
    """Shows nothing."""
