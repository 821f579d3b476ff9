"""Errors of a store: which are transient, and the messages for users."""

from typing import Any

from aind_etl.errors import AindEtlError
from aind_etl.results.folders import LARGEST_FILE_BYTES, Problem, TooLargeError
from aind_etl.text import without_credentials

_THROTTLED = 429
_SERVER_ERROR = 500
_NOT_FOUND = 404
_REFUSED = (401, 403)


MOST_FILES = 10_000
"""The most files of a folder that is taken for that of one record; either pipeline writes four."""

TOO_MANY_FILES = Problem(
    "too_many_files",
    f"More than {MOST_FILES:,} files lie at this address, which is most likely that of a whole "
    "bucket. Expected is the folder of one record: look at the document's location.",
)


# --- what went wrong ------------------------------------------------------------------------


def response_of(error: BaseException) -> dict[str, Any]:
    """Return what the store said with an error; nothing where there was no answer."""
    for one in (error, error.__cause__):
        answer = getattr(one, "response", None)
        if isinstance(answer, dict):
            return dict(answer.get("ResponseMetadata", {}))
    return {}


FINAL_ERRORS = (AindEtlError, TooLargeError, FileNotFoundError, PermissionError, ValueError)
"""What asking again does not mend."""


ANSWERED_ERRORS = (FileNotFoundError, PermissionError, TooLargeError)
"""What only a store that can be reached has to say."""


def is_transient(error: BaseException) -> bool:
    """Return whether asking again may help."""
    # A cancelled request is over as well.
    if not isinstance(error, Exception) or isinstance(error, FINAL_ERRORS):
        return False
    status = response_of(error).get("HTTPStatusCode")
    return status is None or status == _THROTTLED or not 300 <= status < _SERVER_ERROR  # noqa: PLR2004 - the classes of HTTP


def requested_pause(error: Exception) -> float:
    """Return the seconds a store asks to be left alone for; 0 where it does not say."""
    headers = response_of(error).get("HTTPHeaders", {})
    try:
        return max(0.0, float(headers.get("retry-after", 0)))
    except ValueError:
        return 0.0


def error_text(error: Exception) -> str:
    """Return what an error says, on one line."""
    return without_credentials(" ".join(str(error).split()))[:300] or type(error).__name__


def problem_of(error: Exception) -> Problem:
    """Return a message that says why something could not be read.

    Raises
    ------
    AindEtlError
        It is one already.
    """
    if isinstance(error, AindEtlError):
        raise error
    status = response_of(error).get("HTTPStatusCode")
    said = error_text(error)
    if isinstance(error, TooLargeError):
        return Problem(
            "too_large",
            f"The file has {error.args[0] or 'an unknown number of'} bytes; up to "
            f"{LARGEST_FILE_BYTES:,} are read. A result file has about half a megabyte: look at "
            "it, and remove it if it is none.",
        )
    if isinstance(error, FileNotFoundError) or status == _NOT_FOUND:
        return Problem("gone", f"The file is no longer there ({said}). The next run tries again.")
    if isinstance(error, PermissionError) or status in _REFUSED:
        return Problem(
            "refused",
            f"The store refuses access ({said}). If the bucket is not public, set "
            "AIND_ETL_S3_ANON=false and give credentials; the next run tries again.",
        )
    if isinstance(error, ValueError):
        return Problem("refused", f"{said} was expected. Nothing can be read of this record.")
    return Problem(
        "unreachable", f"The store could not be reached ({said}). The next run tries again."
    )
