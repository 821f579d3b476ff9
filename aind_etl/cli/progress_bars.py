"""Progress on a terminal: a live line with messages above it; elsewhere only the messages."""

from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from aind_etl.cli.terminal import say
from aind_etl.text import printable


class _Bar(BarColumn):
    """A bar, shown only if the total is known."""

    def render(self, task: Task) -> Text:  # type: ignore[override]
        """Return the bar of a step."""
        return super().render(task) if task.total else Text("")  # type: ignore[return-value]


class _Done(ProgressColumn):
    """The amount done, the total if known, and the rate per second."""

    def render(self, task: Task) -> Text:
        """Return the numbers of a step."""
        unit, done, rate = task.fields["unit"], f"{task.completed:,.0f}", task.speed
        if task.total:
            text = f"{done} of {task.total:,.0f} {unit}"
        else:
            text = f"{done} {unit}" if task.completed else ""
        return Text(f"{text}  {rate:,.0f}/s" if rate else text)


class TerminalProgress:
    """Shows progress on a console; only messages if that is not a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        whole, cut = Column(no_wrap=True), Column(no_wrap=True, overflow="ellipsis")
        self._bars = Bars(
            SpinnerColumn(table_column=whole),
            TextColumn("{task.description}", markup=False, table_column=cut),
            _Bar(bar_width=10, table_column=whole),
            _Done(table_column=whole),
            TimeElapsedColumn(table_column=whole),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bars.add_task("", visible=False)
        self._stage = ""

    def stage(self, number: int, total: int) -> None:
        """Begin collection ``number`` of ``total``; both are 0 for work on all collections."""
        self._stage = f"{number} of {total}: " if number else ""

    def step(self, name: str, *, total: int | None = None, unit: str = "documents") -> None:
        """Begin a step, which ends the one before."""
        self._bars.remove_task(self._task)
        description = printable(self._stage + name)
        self._task = self._bars.add_task(description, total=total, unit=unit)

    def expect(self, total: int, unit: str) -> None:
        """Set the size of the step, in units such as documents."""
        self._bars.update(self._task, total=total, unit=unit)

    def advance(self, documents: int) -> None:
        """Advance the step by a number of documents."""
        self._bars.advance(self._task, documents)

    def say(self, message: str) -> None:
        """Print a message above the live line."""
        say(self._console, message)

    def __enter__(self) -> Self:
        """Start the display."""
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Remove the live line from the terminal."""
        self._bars.stop()
