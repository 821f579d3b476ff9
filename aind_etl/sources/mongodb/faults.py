"""Errors of a MongoDB server: which ones are transient, when to retry, and the messages."""

import logging
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from pymongo import errors
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
"""The most seconds before the first retry."""
LONGEST_PAUSE = 10.0
"""The most seconds between two attempts."""

_log = logging.getLogger(__name__)
_Reply = TypeVar("_Reply")

# Elections, shutdowns, lost cursors, and queries that were killed because they took too long.
_TRANSIENT_CODES = frozenset(
    {6, 7, 43, 50, 89, 91, 134, 175, 189, 237, 262, 9001, 10107}
    | {11600, 11601, 11602, 13388, 13435, 13436}
)
_UNAUTHORIZED = 13
_AUTHENTICATION_FAILED = 18


class Retries:
    """Retries requests to a server after transient errors, until ``deadline`` seconds later."""

    def __init__(self, name: str, deadline: float) -> None:
        self.name = name
        self._deadline = deadline
        self._reached = False

    def call(self, request: Callable[[int], _Reply]) -> _Reply:
        """Return what ``request`` returns; it is called with the number of failed attempts.

        Raises
        ------
        SourceError
            The server refuses the request, or does not answer before the deadline.
        """
        retrying = Retrying(
            retry=retry_if_exception(self._is_transient),
            wait=wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE),
            stop=stop_before_delay(self._deadline),
            before_sleep=self._log_pause,
            reraise=True,
        )
        attempts = count()
        try:
            reply = retrying(lambda: request(next(attempts)))
        except errors.PyMongoError as error:
            message = self._explain(error)
            if self._is_transient(error):
                message = (
                    f"The source {self.name} did not answer within {self._deadline:g} s and "
                    f"{next(attempts)} attempts; the last error: {_reason(error)}. What was read "
                    "is kept: run again when the server has recovered."
                )
            raise SourceError(message) from error
        self._reached = True
        return reply

    def _log_pause(self, state: RetryCallState) -> None:
        reason = _reason(state.outcome and state.outcome.exception())
        _log.warning("%s: %s; retrying in %.1f s", self.name, reason, state.upcoming_sleep)

    def _is_transient(self, error: BaseException) -> bool:
        if isinstance(error, errors.ServerSelectionTimeoutError):
            # pymongo has retried already. A server that answered before may be restarting; one
            # that never did most likely has another address.
            return self._reached
        if isinstance(error, errors.OperationFailure) and error.code in _TRANSIENT_CODES:
            return True
        return isinstance(
            error, errors.ConnectionFailure | errors.CursorNotFound | errors.ExecutionTimeout
        )

    def _explain(self, error: errors.PyMongoError) -> str:
        """Return the message for an error that is not transient, without credentials."""
        reason = _reason(error)
        if isinstance(error, errors.ServerSelectionTimeoutError):
            return (
                f"The source {self.name} cannot be reached: {reason}. Check the host, the port "
                "and the network (a tunnel needs directConnection=true), and set tls=true with "
                "tlsCAFile if the server requires TLS."
            )
        if isinstance(error, errors.ConfigurationError) and "wire version" in reason:
            return (
                f"The server of {self.name} is too old: {reason}. MongoDB 4.4 or later, or "
                "Amazon DocumentDB 5.0 or later, is needed; upgrade the server."
            )
        if isinstance(error, errors.ConfigurationError):
            return (
                f"The source {self.name} cannot be found: {reason}. Check the host's name; "
                "mongodb+srv:// needs a name with SRV records, any other name needs mongodb://."
            )
        if isinstance(error, errors.OperationFailure) and error.code == _AUTHENTICATION_FAILED:
            return (
                f"The server of {self.name} refuses the user name or the password. Check "
                f"{USERNAME_VARIABLE} and {PASSWORD_VARIABLE} (or {PASSWORD_FILE_VARIABLE}), and "
                "add authSource=admin to the address if the user belongs to the database 'admin'."
            )
        if isinstance(error, errors.OperationFailure) and error.code == _UNAUTHORIZED:
            return (
                f"The user may not read {self.name}: {reason}. Grant the role 'read' on the "
                f"database, or set {USERNAME_VARIABLE} and {PASSWORD_VARIABLE}."
            )
        return f"The source {self.name} cannot be read: {reason}."


def _reason(error: object) -> str:
    """Return pymongo's message without its description of the whole deployment."""
    text = " ".join(str(error).split())
    for end in (", Timeout: ", ", full error: ", " (configured timeouts: "):
        text = text.partition(end)[0]
    return text.rstrip(".")
