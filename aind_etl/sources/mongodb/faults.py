"""Errors of a MongoDB server: which are transient, when to retry, and the messages for users."""

import logging
from collections.abc import Callable
from typing import TypeVar

from pymongo.errors import (
    ConfigurationError as ClientConfigurationError,
)
from pymongo.errors import (
    ConnectionFailure,
    CursorNotFound,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_before_delay,
    wait_random_exponential,
)

from aind_etl.errors import SourceError
from aind_etl.sources.mongodb.address import (
    PASSWORD_FILE_VARIABLE,
    PASSWORD_VARIABLE,
    USERNAME_VARIABLE,
)

FIRST_PAUSE = 0.25
"""Seconds before the first retry, at most."""
LONGEST_PAUSE = 10.0
"""Seconds between two attempts, at most."""

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")

# Codes of errors that pass: elections, shutdowns, lost cursors, queries killed for their length.
_PASSING_CODES = frozenset(
    {6, 7, 43, 50, 89, 91, 134, 175, 189, 237, 262, 9001, 10107}
    | {11600, 11601, 11602, 13388, 13435, 13436}
)
_UNAUTHORIZED = 13
_AUTHENTICATION_FAILED = 18


class Retries:
    """Retries requests to a server while that may help.

    Parameters
    ----------
    name
        The source, for messages.
    deadline
        Seconds until a question is given up.
    """

    def __init__(self, name: str, deadline: float) -> None:
        self._name = name
        self._deadline = deadline
        self._reached = False

    def ask(self, question: Callable[[int], _Answer]) -> _Answer:
        """Return the answer to a question.

        Parameters
        ----------
        question
            What to call, with the number of attempts that failed.

        Raises
        ------
        SourceError
            The server refuses to answer, or does not until the deadline.
        """
        retrying = Retrying(
            retry=retry_if_exception(self._passes),
            wait=wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE),
            stop=stop_before_delay(self._deadline),
            before_sleep=self._log_pause,
            reraise=True,
        )
        attempts = 0

        def attempt() -> _Answer:
            nonlocal attempts
            attempts += 1
            return question(attempts - 1)

        try:
            answer = retrying(attempt)
        except PyMongoError as error:
            if not self._passes(error):
                raise SourceError(self._explain(error)) from error
            raise SourceError(
                f"The source {self._name} did not answer within {self._deadline:g} s, "
                f"though asked {attempts} times; at last: {_reason(error)}. What was "
                "read stays: run again when the server is well."
            ) from error
        self._reached = True
        return answer

    def _log_pause(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        pause = state.next_action.sleep if state.next_action else 0.0
        if isinstance(error, PyMongoError):
            _log.warning("%s: %s; asking again in %.1f s", self._name, _reason(error), pause)

    def _passes(self, error: BaseException) -> bool:
        """Return whether it may help to ask again."""
        if isinstance(error, ServerSelectionTimeoutError):
            # pymongo kept trying already. A server that has answered before may be restarting;
            # one that never did has most likely another address.
            return self._reached
        if isinstance(error, OperationFailure) and error.code in _PASSING_CODES:
            return True
        return isinstance(error, ConnectionFailure | CursorNotFound | ExecutionTimeout)

    def _explain(self, error: PyMongoError) -> str:
        """Return a sentence on an error that does not pass, without credentials."""
        reason = _reason(error)
        if isinstance(error, ServerSelectionTimeoutError):
            return (
                f"The source {self._name} cannot be reached: {reason}. Check the host, the port "
                "and the way to it (a tunnel needs directConnection=true), and tls=true with "
                "tlsCAFile where the server wants TLS."
            )
        if isinstance(error, ClientConfigurationError) and "wire version" in reason:
            return (
                f"The server of {self._name} is too old for this program: {reason}. MongoDB 4.4 "
                "and Amazon DocumentDB 5.0 or later can be read; upgrade the server."
            )
        if isinstance(error, ClientConfigurationError):
            return (
                f"The source {self._name} cannot be found: {reason}. Check the host's name; "
                "mongodb+srv:// needs a name with SRV records, and otherwise it is mongodb://."
            )
        if isinstance(error, OperationFailure) and error.code == _AUTHENTICATION_FAILED:
            return (
                f"The server of {self._name} refuses the user name or the password. Check "
                f"{USERNAME_VARIABLE} and {PASSWORD_VARIABLE} (or {PASSWORD_FILE_VARIABLE}), and "
                "write authSource=admin into the address if the user belongs to the database "
                "'admin'."
            )
        if isinstance(error, OperationFailure) and error.code == _UNAUTHORIZED:
            return (
                f"The user may not read {self._name}: {reason}. Grant the role 'read' on the "
                f"database, or set {USERNAME_VARIABLE} and {PASSWORD_VARIABLE}."
            )
        return f"The source {self._name} cannot be read: {reason}."


def _reason(error: PyMongoError) -> str:
    """Return what pymongo says, without the description of the whole deployment."""
    text = " ".join(str(error).split())
    for end in (", Timeout: ", ", full error: ", " (configured timeouts: "):
        text = text.partition(end)[0]
    return text.rstrip(".")
