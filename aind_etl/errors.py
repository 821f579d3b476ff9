"""The errors a user may see, each with the exit code of the command it ends.

An error here is a sentence for people: it names the value, what was expected and what to do
next. Anything else that is raised is a defect of this package.
"""


class AindEtlError(Exception):
    """An error whose message is meant for the user."""

    exit_code = 1


class DataError(AindEtlError):
    """Data differ, or a check failed."""

    exit_code = 1


class ConfigurationError(AindEtlError):
    """The command or its settings are wrong."""

    exit_code = 2


class ArgumentError(AindEtlError, ValueError):
    """An argument of a call from Python is wrong."""

    exit_code = 2


class SourceError(AindEtlError):
    """The source cannot be reached or read."""

    exit_code = 3
