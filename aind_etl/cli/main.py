"""The entry point of the command ``aind-etl``.

Commands import packages when they run, so that help and queries do not wait for Dagster.
"""

import sys
from typing import NoReturn

from aind_etl.cli.app import app
from aind_etl.cli.options import INTERRUPTED
from aind_etl.cli.terminal import err, say
from aind_etl.errors import AindEtlError, ConfigurationError, needs_pipeline


def main() -> None:
    """Run the command, and exit with its exit code."""
    try:
        with needs_pipeline("This command"):
            app()
    except AindEtlError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        what = f"{error.filename!r}: {error.strerror}" if error.filename else str(error)
        _fail(
            f"{what}. Check the path, its permissions and the free space; everything written is "
            "complete.",
            ConfigurationError.exit_code,
        )
    except KeyboardInterrupt:
        say(err, "Interrupted. Everything written is complete; run again to continue.")
        sys.exit(INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - users see no traceback
        _fail(_write_report(error), AindEtlError.exit_code)


def _fail(message: str, exit_code: int) -> NoReturn:
    say(err, ("Error:", "bold red"), f" {message}")
    sys.exit(exit_code)


def _write_report(error: Exception) -> str:
    """Write the traceback of a defect to a file, and return a message that names it."""
    from platformdirs import user_cache_path

    from aind_etl.settings import load_settings, write_traceback

    file = write_traceback(user_cache_path("aind-etl") / "errors", error, load_settings())
    return (
        f"An unexpected error ended the command ({type(error).__name__}). Everything written is "
        f"complete. Report it with the file {str(file)!r}."
    )
