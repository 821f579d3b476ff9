"""Printing for people, on a terminal or into a file.

Data are printed exactly as they are: nothing in them is taken for markup, an emoji's name or
something to highlight, and control characters are shown escaped.
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
"""For everything that is said about the work."""


def say(console: Console, *parts: str | tuple[str, str]) -> None:
    """Print a line, which the terminal folds where it is too long.

    Parameters
    ----------
    console
        :data:`out` or :data:`err`.
    *parts
        Texts, or pairs of a text and its style.
    """
    pieces = [(part, "") if isinstance(part, str) else part for part in parts]
    line = Text.assemble(*((printable(text, keep="\n\t"), style) for text, style in pieces))
    console.print(line, soft_wrap=True)


def show_table(
    columns: Sequence[tuple[str, bool]],
    rows: Sequence[Sequence[str]],
    title: str | None = None,
    *,
    folds: bool = False,
) -> None:
    """Print a table; rows that are too wide for the terminal are printed one value per line.

    Parameters
    ----------
    columns
        Names, and whether the column holds numbers.
    rows
        Their cells.
    title
        A heading.
    folds
        Whether columns are folded instead, where rows are too wide.
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
        upright = _table(f"Row {number:,}", Column(), Column(overflow="fold"))
        upright.show_header = False
        for (name, _), cell in zip(columns, row, strict=True):
            upright.add_row(printable(name), printable(cell))
        _print(upright)


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
    """Remove blanks at the ends of lines that are written to something other than a terminal."""
    if sys.stdout.isatty():
        yield
        return
    page = io.StringIO()
    with redirect_stdout(page):
        yield
    sys.stdout.write("\n".join(line.rstrip() for line in page.getvalue().split("\n")))
