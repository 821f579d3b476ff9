"""How long work tells a person how far it is.

On a terminal a line moves; anywhere else nothing moves, and only what should be read is said.
"""

from typing import Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text


class Progress(Protocol):
    """Takes note of the progress of a run."""

    def step(self, name: str) -> None:
        """Take note that a step has begun."""
        ...

    def expect(self, total: int, unit: str) -> None:
        """Take note that the step is done after ``total`` of what ``unit`` names."""
        ...

    def advance(self, documents: int) -> None:
        """Take note that the step is ``documents`` further."""
        ...

    def say(self, message: str) -> None:
        """Take note of something a person should read."""
        ...


class NoProgress:
    """Takes note of nothing."""

    def step(self, name: str) -> None:
        """Ignore it."""

    def expect(self, total: int, unit: str) -> None:
        """Ignore it."""

    def advance(self, documents: int) -> None:
        """Ignore it."""

    def say(self, message: str) -> None:
        """Ignore it."""


class _RateColumn(ProgressColumn):
    """How many are done a second."""

    def render(self, task: Task) -> Text:
        """Return the rate of a step; nothing before there is one."""
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


class TerminalProgress:
    """Shows progress on a console.

    Parameters
    ----------
    console
        Where to; nothing moves unless it is a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            _RateColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def step(self, name: str, *, total: int | None = None, unit: str = "documents") -> None:
        """Begin a step; the one before is done."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(name, total=total, unit=unit)

    def expect(self, total: int, unit: str) -> None:
        """Show of how many the step consists."""
        if self._task is not None:
            self._bars.update(self._task, total=total, unit=unit)

    def advance(self, documents: int) -> None:
        """Show that the step is ``documents`` further."""
        if self._task is not None:
            self._bars.advance(self._task, documents)

    def reach(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are done."""
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total)

    def say(self, message: str) -> None:
        """Print a line for people, above whatever moves."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        """Begin to show."""
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave nothing behind on the terminal."""
        self._bars.stop()
