"""Printing to a terminal or a file.

Data are printed literally, without markup, emoji codes and highlighting. Control characters are
escaped.
"""

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from aind_etl.text import printable

_LITERAL = {"markup": False, "emoji": False, "highlight": False}
_WIDE = 240
_ANY_WIDTH = 1_000_000

out = Console(**_LITERAL)  # type: ignore[arg-type]
"""For results."""
err = Console(stderr=True, **_LITERAL)  # type: ignore[arg-type]
"""For messages about the work."""


def say(console: Console, *parts: str | tuple[str, str]) -> None:
    """Print a line made of texts, or of pairs of a text and its style."""
    styled = [(part, "") if isinstance(part, str) else part for part in parts]
    line = Text.assemble(*((printable(text, keep="\n\t"), style) for text, style in styled))
    console.print(line, soft_wrap=True)


def show_table(
    columns: Sequence[tuple[str, bool]],
    rows: Sequence[Sequence[str]],
    title: str | None = None,
    *,
    folds: bool = False,
) -> None:
    """Print a table; if rows are too wide for the terminal, print one value per line.

    Parameters
    ----------
    columns
        The name of each column, and whether it holds numbers.
    rows
        The cells of each row.
    title
        The heading of the table.
    folds
        Whether to fold the columns instead if rows are too wide.
    """
    table = _table(title)
    for name, is_number in columns:
        table.add_column(
            printable(name),
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=is_number,
        )
    for row in rows:
        table.add_row(*map(printable, row))
    width = out.width if out.is_terminal else _WIDE
    options = out.options.update(max_width=_ANY_WIDTH)
    if not rows and Measurement.get(out, options, table).maximum > width:
        say(out, "No rows.")
        return
    if folds or Measurement.get(out, options, table).maximum <= width:
        _print(table)
        return
    for number, row in enumerate(rows, start=1):
        vertical = _table(f"Row {number:,}", Column(), Column(overflow="fold"))
        vertical.show_header = False
        for (name, _), cell in zip(columns, row, strict=True):
            vertical.add_row(printable(name), printable(cell))
        _print(vertical)


def _table(title: str | None, *columns: Column) -> Table:
    return Table(
        *columns,
        title=title and printable(title),
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 2, 0, 0),
    )


def _print(table: Table) -> None:
    if out.is_terminal:
        out.print(table)
        return
    with without_trailing_blanks():
        Console(width=_WIDE, **_LITERAL).print(table)  # type: ignore[arg-type]


@contextmanager
def without_trailing_blanks() -> Iterator[None]:
    """Remove trailing blanks from lines on standard output, unless that is a terminal."""
    if sys.stdout.isatty():
        yield
        return
    captured = io.StringIO()
    with redirect_stdout(captured):
        yield
    sys.stdout.write("\n".join(line.rstrip() for line in captured.getvalue().split("\n")))
