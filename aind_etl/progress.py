"""How far long work has come.

On a terminal one live area shows what is under way, and messages appear above it. Anywhere else
only the messages are printed.
"""

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of a run."""

    def stage(self, number: int, total: int) -> None:
        """Begin collection ``number`` of ``total``; both 0 for work on all of them."""
        ...

    def step(self, name: str) -> None:
        """Begin a step; the one before is done."""
        ...

    def expect(self, total: int, unit: str) -> None:
        """Set how many of what ``unit`` names the step consists of."""
        ...

    def advance(self, documents: int) -> None:
        """Move the step ``documents`` further."""
        ...

    def say(self, message: str) -> None:
        """Show a message that a person should read."""
        ...


class NoProgress:
    """Shows nothing."""

    def stage(self, number: int, total: int) -> None:
        """Ignore it."""

    def step(self, name: str) -> None:
        """Ignore it."""

    def expect(self, total: int, unit: str) -> None:
        """Ignore it."""

    def advance(self, documents: int) -> None:
        """Ignore it."""

    def say(self, message: str) -> None:
        """Ignore it."""
