"""The entry point of the command ``aind-etl``.

Commands import what they need when they run, so that help and queries do not wait for Dagster.
"""

import sys

from aind_etl.cli import inspect, models, outputs, past, pipeline  # noqa: F401 - each adds its commands
from aind_etl.cli.app import INTERRUPTED, app
from aind_etl.cli.terminal import err, say
from aind_etl.errors import AindEtlError, ConfigurationError, needs_pipeline


def main() -> None:
    """Run the command, and end with an exit code that says how it went."""
    try:
        with needs_pipeline("This command"):
            app()
    except AindEtlError as error:
        say(err, ("Error:", "bold red"), f" {error}")
        sys.exit(error.exit_code)
    except OSError as error:
        what = f"{error.filename!r}: {error.strerror}" if error.filename else str(error)
        say(
            err,
            ("Error:", "bold red"),
            f" {what}. Check the path, the rights to it and the free space; what was written is "
            "whole.",
        )
        sys.exit(ConfigurationError.exit_code)
    except KeyboardInterrupt:
        say(err, "Interrupted. What was written is whole; run again to go on.")
        sys.exit(INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - users are shown no traceback
        say(err, ("Error:", "bold red"), f" {_report_of(error)}")
        sys.exit(AindEtlError.exit_code)


def _report_of(error: Exception) -> str:
    """Write the traceback of a defect to a file, and return a sentence that names it."""
    from platformdirs import user_cache_path

    from aind_etl.settings import load_settings, write_traceback

    file = write_traceback(user_cache_path("aind-etl") / "errors", error, load_settings())
    return (
        f"An unexpected error ended the command ({type(error).__name__}). What was written is "
        f"whole. Report it with the file {str(file)!r}."
    )
