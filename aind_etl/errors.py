"""The errors that users see, each with the exit code of the command.

Their messages name the value, what was expected and what to do next. Any other exception is a
defect of this package.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from aind_etl.text import without_credentials


class AindEtlError(Exception):
    """An error whose message is meant for the user.

    Credentials in URLs are removed from the message, since libraries write some of the text.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(without_credentials(message))


class DataError(AindEtlError):
    """Data differ, or a check failed."""


class UnexpectedError(AindEtlError):
    """A defect stopped one part of the work; the other parts were completed."""


class DamagedTableError(DataError):
    """A file of a lake table cannot be read; it can be rebuilt from the change log."""


class ConfigurationError(AindEtlError):
    """The command or its settings are wrong."""

    exit_code = 2


class ArgumentError(AindEtlError, ValueError):
    """An argument of a Python function is wrong."""

    exit_code = 2


class SourceError(AindEtlError):
    """The source cannot be reached or read."""

    exit_code = 3


@contextmanager
def needs_pipeline(what: str, *, extra: str = "pipeline") -> Iterator[None]:
    """Explain how to install a missing package, for the duration of a ``with`` block.

    ``what`` needs the package, which ``extra`` of this distribution contains.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        # That a module of this package is missing is a defect.
        if (error.name or "").partition(".")[0] == __package__:
            raise
        brings = "the whole pipeline" if extra == "pipeline" else "it"
        raise ConfigurationError(
            f"{what} needs the package {error.name!r}, which is not installed. Install {brings} "
            f"with: pip install 'aind-etl[{extra}]'."
        ) from None
