"""Printing to a terminal or a file.

Data are printed literally, without markup, emoji codes and highlighting. Control characters are
escaped.
"""

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
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
    columns: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]], title: str | None = None
) -> None:
    """Print a table; columns have a name, and whether they hold numbers.

    If rows are too wide for the terminal, one value is printed per line; under a title, columns are
    folded instead.
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
    options = out.options.update(max_width=_ANY_WIDTH)
    width = Measurement.get(out, options, table).maximum
    is_too_wide = width > (out.width if out.is_terminal else _WIDE)
    if is_too_wide and not rows:
        say(out, "No rows.")
    elif title or not is_too_wide:
        _print(table)
    else:
        for number, row in enumerate(rows, start=1):
            vertical = _table(f"Row {number:,}", Column(), Column(overflow="fold"))
            vertical.show_header = False
            for (name, _), cell in zip(columns, row, strict=True):
                vertical.add_row(printable(name), printable(cell))
            _print(vertical)


def show_records(records: Sequence[Mapping[str, object]], title: str) -> None:
    """Print a table of one or more records, in the order of the first one's keys."""
    columns = [
        (name.replace("_", " "), isinstance(value, int | float))
        for name, value in records[0].items()
    ]
    show_table(columns, [[*map(_cell, record.values())] for record in records], title)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


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
