"""The errors a user may see, each with the exit code of the command it ends.

An error here is a sentence for people: it names the value, what was expected and what to do
next. Anything else that is raised is a defect of this package.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from aind_etl.text import without_credentials


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


class MissingPackageError(ConfigurationError):
    """A package is not installed that the base installation lacks."""

    def __init__(self, what: str, package: str | None, extra: str) -> None:
        brings = "the whole pipeline" if extra == "pipeline" else "it"
        super().__init__(
            f"{what} needs the package {package!r}, which is not installed. Install {brings} with: "
            f"pip install 'aind-etl[{extra}]'."
        )


@contextmanager
def needs_pipeline(what: str, *, extra: str = "pipeline") -> Iterator[None]:
    """Turn the absence of a package into a sentence, for the duration of a ``with`` block.

    Parameters
    ----------
    what
        What needs the package, as the subject of the sentence.
    extra
        The extra that brings it.

    Raises
    ------
    MissingPackageError
        A package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingPackageError(what, error.name, extra) from None


class SourceError(AindEtlError):
    """The source cannot be reached or read."""

    exit_code = 3
