"""Text for people: lists of names, ages, Markdown tables; without credentials or control codes."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from difflib import get_close_matches
from hashlib import sha256

_SHOWN = 12
_CREDENTIALS = re.compile(r"(?<=[a-z0-9+])://[^/\s'\"]*@")
_CLOSE_ENOUGH = 0.6
_CELL_WIDTH = 60
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def without_credentials(text: str) -> str:
    """Return a text in which addresses have no user and no password."""
    return _CREDENTIALS.sub("://…@", text)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the known names nearest to one that is not known.

    Where none is near, the sentence lists the names there are, if they are few.
    """
    names = sorted(set(known))
    near = get_close_matches(name, names, n=3, cutoff=_CLOSE_ENOUGH)
    if not near:
        # Capitals alone do not make a name a different one.
        near = [one for one in names if one.lower() == name.lower()]
    if near:
        return f"Did you mean {in_words(near, 'or')}?"
    if not names:
        return "There is none."
    if len(names) <= _SHOWN:
        return f"There {'is' if len(names) == 1 else 'are'} {in_words(names, 'and')}."
    return f"There are {len(names):,}, such as {in_words(names[:3], 'and')}."


def in_words(names: Collection[str], conjunction: str) -> str:
    """Return names in quotes, as a sentence lists them."""
    *others, last = map(repr, names)
    return f"{', '.join(others)} {conjunction} {last}" if others else last


def time_ago(now: datetime, moment: datetime | None) -> str:
    """Return how long ago a moment was, for people."""
    if moment is None:
        return "never"
    seconds = max(0, int((now - moment).total_seconds()))
    for size, unit in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return "just now"


def markdown_table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows as a table in Markdown, each value shortened to what a page can show."""
    lines = [_line(names), _line(["---"] * len(names)), *(_line(row) for row in rows)]
    return "\n".join(lines)


def _line(values: Iterable[object]) -> str:
    cells = ("" if value is None else str(value) for value in values)
    shown = (
        cell if len(cell) <= _CELL_WIDTH else f"{cell[: _CELL_WIDTH - 1]}…"
        for cell in (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    )
    return f"| {' | '.join(shown)} |"


def printable(text: str, *, keep: str = "") -> str:
    r"""Return a text with its control characters escaped, such as ``\x1b``.

    Parameters
    ----------
    text
        Any text.
    keep
        Control characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        repr(character)[1:-1]
        if unicodedata.category(character) in {"Cc", "Cs"} and character not in keep
        else character
        for character in text
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error."""
    return str(error).splitlines()[0]


def folder_name(url: str, identity: str) -> str:
    """Return a name for a folder that belongs to a URL: readable, and one per ``identity``.

    It has only letters, digits, points and dashes: SQLAlchemy decodes percent signs in paths.
    """
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", url.partition("://")[2])[:80]
    return f"{readable}-{sha256(identity.encode()).hexdigest()[:12]}"
