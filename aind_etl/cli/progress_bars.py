"""Progress on a terminal: one live area with messages above it; elsewhere only the messages."""

from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from aind_etl.cli.terminal import say
from aind_etl.text import printable


class _Description(ProgressColumn):
    """What is under way, cut where the terminal is too narrow."""

    def render(self, task: Task) -> Text:
        """Return the name of a step."""
        return Text(task.description, no_wrap=True, overflow="ellipsis")


class _Bar(BarColumn):
    """A bar, where the total is known."""

    def render(self, task: Task) -> Text:  # type: ignore[override]
        """Return the bar of a step."""
        return super().render(task) if task.total else Text("")  # type: ignore[return-value]


class _Done(ProgressColumn):
    """How much is done, of how much where that is known, and how much per second."""

    def render(self, task: Task) -> Text:
        """Return the numbers of a step; nothing before there are any."""
        unit, done, rate = task.fields["unit"], f"{task.completed:,.0f}", task.speed
        if task.total:
            text = f"{done} of {task.total:,.0f} {unit}"
        else:
            text = f"{done} {unit}" if task.completed else ""
        return Text(f"{text}  {rate:,.0f}/s" if rate else text)


class TerminalProgress:
    """Shows progress on a console.

    Parameters
    ----------
    console
        Where to; nothing moves unless it is a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        whole = Column(no_wrap=True)
        self._bars = Bars(
            SpinnerColumn(table_column=whole),
            _Description(),
            _Bar(bar_width=10, table_column=whole),
            _Done(table_column=whole),
            TimeElapsedColumn(table_column=whole),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._stage = ""

    def stage(self, number: int, total: int) -> None:
        """Begin collection ``number`` of ``total``; both 0 for work on all of them."""
        self._stage = f"{number} of {total}: " if number else ""

    def step(self, name: str, *, total: int | None = None, unit: str = "documents") -> None:
        """Begin a step; the one before is done."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        description = printable(self._stage + name)
        self._task = self._bars.add_task(description, total=total, unit=unit)

    def expect(self, total: int, unit: str) -> None:
        """Set how many of what ``unit`` names the step consists of."""
        if self._task is not None:
            self._bars.update(self._task, total=total, unit=unit)

    def advance(self, documents: int) -> None:
        """Move the step ``documents`` further."""
        if self._task is not None:
            self._bars.advance(self._task, documents)

    def reach(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are done."""
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total)

    def say(self, message: str) -> None:
        """Print a message above the live area."""
        say(self._console, message)

    def __enter__(self) -> Self:
        """Begin to show."""
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave nothing behind on the terminal."""
        self._bars.stop()
