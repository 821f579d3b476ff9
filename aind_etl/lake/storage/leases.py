"""Leases: locks on an object store that are renewed while they are held."""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from aind_etl.errors import DataError
from aind_etl.lake.storage.facts import ObjectFacts

# A lease is renewed three times before it ends, and taken over only when it has ended for longer
# than two clocks may differ.
LEASE_SECONDS = 60.0
CLOCKS_DIFFER_SECONDS = 15.0


class LeaseStore(Protocol):
    """What a lease needs of its store."""

    def facts(self, name: str) -> ObjectFacts | None:
        """Return what the store tells of a file; None where there is none."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None where there is none."""
        ...

    def put_if(self, name: str, content: bytes, facts: ObjectFacts | None) -> bool:
        """Write a file if it is as ``facts`` say; return whether it was."""
        ...

    def discard(self, name: str) -> None:
        """Remove a file."""
        ...


@dataclass
class Lease:
    """A small file that says who may write, and until when.

    Attributes
    ----------
    storage, name
        Where it lies.
    holder
        Who holds it, as last read.
    """

    storage: LeaseStore
    name: str
    holder: str = "unknown process"
    _token: str = field(default_factory=lambda: uuid.uuid4().hex)
    _valid_until: float = 0.0
    _given_back: threading.Event = field(default_factory=threading.Event)

    @property
    def is_held(self) -> bool:
        """Whether the lease was renewed recently enough that no other process can hold it."""
        return time.monotonic() < self._valid_until

    def take(self) -> bool:
        """Take the lease if it is free or has ended; return whether that worked."""
        facts = self.storage.facts(self.name)
        if facts is not None:
            found = self._read()
            if found is not None:
                self.holder = str(found.get("holder", self.holder))
                if time.time() < float(found.get("ends", 0)) + CLOCKS_DIFFER_SECONDS:
                    return False
        return self._put(facts)

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the lease for the duration of a ``with`` block."""
        thread = threading.Thread(target=self._renew, name=f"lease {self.name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._given_back.set()
            thread.join()

    def give_back(self) -> None:
        """Free the lease, if it is still this process's."""
        self._valid_until = 0.0
        # What cannot be freed now ends by itself.
        with suppress(DataError):
            found = self._read()
            if found is not None and found.get("token") == self._token:
                self.storage.discard(self.name)

    def _renew(self) -> None:
        while not self._given_back.wait(LEASE_SECONDS / 4):
            try:
                facts = self.storage.facts(self.name)
                found = self._read()
                if found is None or found.get("token") != self._token or not self._put(facts):
                    self._valid_until = 0.0
                    return
            except DataError:
                continue  # The store may answer the next time, before the lease ends.

    def _put(self, facts: ObjectFacts | None) -> bool:
        # Measured from before the request: a slow answer must not make the lease longer here
        # than others take it to be.
        asked = time.monotonic()
        content = {
            "holder": f"process {os.getpid()} on {socket.gethostname()}",
            "token": self._token,
            "ends": time.time() + LEASE_SECONDS,
        }
        if not self.storage.put_if(self.name, json.dumps(content).encode(), facts):
            return False
        self._valid_until = asked + LEASE_SECONDS
        return True

    def _read(self) -> dict[str, Any] | None:
        content = self.storage.read(self.name)
        try:
            found = None if content is None else json.loads(content)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else None
