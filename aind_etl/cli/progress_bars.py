"""Progress on a terminal: a live line with messages above it; elsewhere only the messages."""

from rich import progress
from rich.console import Console
from rich.table import Column
from rich.text import Text

from aind_etl.cli.terminal import say
from aind_etl.text import printable


class _Bar(progress.BarColumn):
    """A bar, shown only if the total is known."""

    def render(self, task: progress.Task) -> Text:  # type: ignore[override]
        """Return the bar of a step."""
        return super().render(task) if task.total else Text("")  # type: ignore[return-value]


class _Done(progress.ProgressColumn):
    """The amount done, the total if known, and the rate per second."""

    def render(self, task: progress.Task) -> Text:
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
        self.bars = progress.Progress(
            progress.SpinnerColumn(table_column=whole),
            progress.TextColumn("{task.description}", markup=False, table_column=cut),
            _Bar(bar_width=10, table_column=whole),
            _Done(table_column=whole),
            progress.TimeElapsedColumn(table_column=whole),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self.bars.add_task("", visible=False)
        self._stage = ""

    def stage(self, number: int, total: int) -> None:
        """Begin collection ``number`` of ``total``; both are 0 for work on all collections."""
        self._stage = f"{number} of {total}: " if number else ""

    def step(self, name: str, *, total: int | None = None, unit: str = "documents") -> None:
        """Begin a step, which ends the one before."""
        self.bars.remove_task(self._task)
        description = printable(self._stage + name)
        self._task = self.bars.add_task(description, total=total, unit=unit)

    def expect(self, total: int, unit: str) -> None:
        """Set the size of the step, in units such as documents."""
        self.bars.update(self._task, total=total, unit=unit)

    def advance(self, documents: int) -> None:
        """Advance the step by a number of documents."""
        self.bars.advance(self._task, documents)

    def say(self, message: str) -> None:
        """Print a message above the live line."""
        say(self._console, message)
