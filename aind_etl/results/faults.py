"""Errors of a store: which are transient, when to give up, and the messages for users."""

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeVar

from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exception,
    wait_random_exponential,
)

from aind_etl.errors import AindEtlError, SourceError
from aind_etl.results.folders import LARGEST_FILE_BYTES, Problem, TooLargeError
from aind_etl.text import without_credentials

_Answer = TypeVar("_Answer")

_ATTEMPTS = 6
_LONGEST_WAIT_SECONDS = 30.0

_WHAT_TO_CHECK = (
    "Check the network, AIND_ETL_S3_ENDPOINT_URL and AIND_ETL_RESULTS_ROOT, or skip the result "
    "folders with --no-results. What was read so far is kept; result files, trials, figures and "
    "the session table stay as they were, and the next run continues from there."
)

# A retry does not help.
_FINAL_ERRORS = (AindEtlError, TooLargeError, FileNotFoundError, PermissionError, ValueError)
# Only a store that can be reached raises them.
_ANSWERS = (FileNotFoundError, PermissionError, TooLargeError)


class Retries:
    """Retries requests to one store, and gives up a store that does not answer."""

    def __init__(self, store_name: str, concurrency: int) -> None:
        self._store_name = store_name
        self._most_failures_in_a_row = 2 * concurrency
        # Upper limit of the first wait. It doubles with every further failure; the wait is random
        # below it, so that many clients do not come back together.
        self.first_wait_seconds = 0.25
        # A store that sends no response at all for this long, not even an error, is given up.
        self.longest_silence_seconds = 20.0
        self._failures_in_a_row = 0
        self._silent_since: float | None = None
        # One file that never arrives does not mean that a store which has answered is unreachable.
        self._unanswered_allowed = 0

    async def call(self, request: Callable[..., Awaitable[_Answer]], *arguments: object) -> _Answer:
        """Return the answer to a request, retried while its errors are transient."""
        attempts = AsyncRetrying(
            stop=stop_after_attempt(_ATTEMPTS),
            retry=retry_if_exception(_is_transient),
            wait=wait_random_exponential(2 * self.first_wait_seconds, _LONGEST_WAIT_SECONDS)
            + wait_exception(_requested_wait),
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                try:
                    answer = await request(*arguments)
                except Exception as error:
                    self._check_silence(error)
                    raise
        self._failures_in_a_row = 0
        self._note_answer()
        return answer

    def problem_of(self, error: Exception, location: str) -> Problem:
        """Return why a folder or file cannot be read; raise an :class:`AindEtlError` again."""
        if isinstance(error, AindEtlError):
            raise error
        problem = _problem_of(error)
        if problem.reason == "unreachable":
            self._failures_in_a_row += 1
            # Further requests would fail too.
            if self._failures_in_a_row > self._most_failures_in_a_row:
                raise SourceError(
                    f"The result store {self._store_name} does not answer ({problem.message}). The "
                    f"last request was for {location}. {_WHAT_TO_CHECK}"
                )
        return problem

    def _note_answer(self) -> None:
        self._silent_since = None
        self._unanswered_allowed = 2 * _ATTEMPTS

    def _check_silence(self, error: Exception) -> None:
        """Give up an unreachable store, rather than retry every single folder."""
        has_response = bool(_response_of(error))
        if has_response or isinstance(error, _ANSWERS):
            self._note_answer()
        if has_response or isinstance(error, _FINAL_ERRORS):
            return
        now = monotonic()
        self._silent_since = self._silent_since or now
        self._unanswered_allowed -= 1
        is_silent = now - self._silent_since >= self.longest_silence_seconds
        if self._unanswered_allowed < 0 and is_silent:
            raise SourceError(
                f"The result store {self._store_name} cannot be reached ({_error_text(error)}); "
                f"it sent nothing for {self.longest_silence_seconds:g} s. {_WHAT_TO_CHECK}"
            )


def _problem_of(error: Exception) -> Problem:
    status = _response_of(error).get("HTTPStatusCode")
    text = _error_text(error)
    if isinstance(error, TooLargeError):
        return Problem(
            "too_large",
            f"The file has {error.args[0] or 'an unknown number of'} bytes; at most "
            f"{LARGEST_FILE_BYTES:,} are read. A result file has about half a megabyte: check "
            "this file, and remove it if it is not one.",
        )
    if isinstance(error, FileNotFoundError) or status == 404:  # noqa: PLR2004
        return Problem("gone", f"The file no longer exists ({text}). The next run tries again.")
    if isinstance(error, PermissionError) or status in {401, 403}:
        return Problem(
            "refused",
            f"The store refuses access ({text}). If the bucket is not public, set "
            "AIND_ETL_S3_ANON=false and provide credentials; the next run tries again.",
        )
    if isinstance(error, ValueError):
        return Problem("refused", f"{text}. Nothing of this record can be read.")
    return Problem(
        "unreachable", f"The store cannot be reached ({text}). The next run tries again."
    )


def _response_of(error: BaseException) -> dict[str, Any]:
    """Return the metadata of the response that caused an error; empty if there was none."""
    for raised in (error, error.__cause__):
        response = getattr(raised, "response", None)
        if isinstance(response, dict):
            return dict(response.get("ResponseMetadata", {}))
    return {}


def _is_transient(error: BaseException) -> bool:
    # A cancelled request is not retried either.
    if not isinstance(error, Exception) or isinstance(error, _FINAL_ERRORS):
        return False
    status = _response_of(error).get("HTTPStatusCode")
    return status is None or status == 429 or not 300 <= status < 500  # noqa: PLR2004


def _requested_wait(error: BaseException) -> float:
    """Return how many seconds the store asks to wait, or 0."""
    headers = _response_of(error).get("HTTPHeaders", {})
    try:
        return min(max(0.0, float(headers.get("retry-after", 0))), _LONGEST_WAIT_SECONDS)
    except ValueError:
        return 0.0


def _error_text(error: Exception) -> str:
    """Return an error's text on one line."""
    return without_credentials(" ".join(str(error).split()))[:300] or type(error).__name__
