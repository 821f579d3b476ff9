"""Text for users: lists of names, ages, Markdown tables, and removal of credentials."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from hashlib import sha256

_SHOWN = 12
_CREDENTIALS = re.compile(r"(?<=[a-z0-9+])://[^/\s'\"]*@")
_CELL_WIDTH = 60


def without_credentials(text: str) -> str:
    """Return a text without the user names and passwords of URLs."""
    return _CREDENTIALS.sub("://…@", text)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that suggests known names similar to an unknown one.

    If none is similar, the sentence lists the known names, or three of them if there are many.
    """
    names = sorted(set(known))
    near = get_close_matches(name, names)
    if not near:
        near = [one for one in names if one.lower() == name.lower()]
    if near:
        return f"Did you mean {in_words(near, 'or')}?"
    if not names:
        return "There is none."
    if len(names) <= _SHOWN:
        return f"There {'is' if len(names) == 1 else 'are'} {in_words(names, 'and')}."
    return f"There are {len(names):,}, such as {in_words(names[:3], 'and')}."


def in_words(names: Collection[str], conjunction: str) -> str:
    """Return names in quotes, separated by commas and a conjunction."""
    *others, last = map(repr, names)
    return f"{', '.join(others)} {conjunction} {last}" if others else last


def time_ago(moment: datetime | None) -> str:
    """Return how long ago a moment was, such as ``3 h ago``."""
    if moment is None:
        return "never"
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return "just now"


def markdown_table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows as a Markdown table, with long values cut off."""
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
    r"""Return a text with its control characters escaped, such as ``\x1b``, except ``keep``."""
    if text.isprintable():
        return text
    return "".join(
        repr(character)[1:-1]
        if unicodedata.category(character) in {"Cc", "Cs"} and character not in keep
        else character
        for character in text
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or [""])[0]


def folder_name(url: str, identity: str) -> str:
    """Return a readable folder name for a URL, unique per ``identity``.

    It has only letters, digits, periods and dashes: SQLAlchemy decodes percent signs in paths.
    """
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", url.partition("://")[2])[:80]
    return f"{readable}-{sha256(identity.encode()).hexdigest()[:12]}"
