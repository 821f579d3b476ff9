"""The errors a user may see, each with the exit code of the command it ends.

An error here is a sentence for people: it names the value, what was expected and what to do
next. Anything else that is raised is a defect of this package.
"""

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches

_SHOWN = 12
_CREDENTIALS = re.compile(r"(?<=[a-z0-9+])://[^/\s'\"]*@")
_CLOSE_ENOUGH = 0.6


class AindEtlError(Exception):
    """An error whose message is meant for the user.

    Credentials in addresses are left out of it, also where a library wrote the text.
    """

    exit_code = 1

    def __init__(self, *arguments: object) -> None:
        super().__init__(
            *(without_credentials(one) if isinstance(one, str) else one for one in arguments)
        )


class DataError(AindEtlError):
    """Data differ, or a check failed."""

    exit_code = 1


class UnexpectedError(AindEtlError):
    """A defect stopped one piece of work; the others were done."""


class DamagedTableError(DataError):
    """A file of the lake's tables cannot be read; it can be made again from the change log."""


class ConfigurationError(AindEtlError):
    """The command or its settings are wrong."""

    exit_code = 2


class ArgumentError(AindEtlError, ValueError):
    """An argument of a call from Python is wrong."""

    exit_code = 2


class SourceError(AindEtlError):
    """The source cannot be reached or read."""

    exit_code = 3


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
