"""Locks: against a thread that would wait for itself, and leases on an object store."""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from aind_etl.errors import DataError

if TYPE_CHECKING:
    from aind_etl.lake.storage.object_store import ObjectFacts, ObjectStorage

# A lease is renewed three times before it ends. It is taken over only when it has ended for longer
# than two clocks may differ.
LEASE_SECONDS = 60.0
CLOCKS_DIFFER_SECONDS = 15.0

_HELD_BY_THREAD = threading.local()


@contextmanager
def refuse_reentry(name: str, purpose: str) -> Iterator[None]:
    """Refuse a lock that the same thread already holds, because it would wait for itself."""
    held: set[str] = _HELD_BY_THREAD.__dict__.setdefault("names", set())
    if name in held:
        raise DataError(
            f"Another run is writing {purpose} (process {os.getpid()} on {os.uname().nodename}: "
            "this process itself, which would wait for itself). Report this as a defect."
        )
    held.add(name)
    try:
        yield
    finally:
        held.discard(name)


class Lease:
    """A lock on an object store: a small file that names its holder and the time it ends."""

    def __init__(self, storage: "ObjectStorage", name: str) -> None:
        self.name = name
        self.holder = "unknown process"
        self._storage = storage
        self._token = uuid.uuid4().hex
        self._valid_until = 0.0
        self._released = threading.Event()

    @property
    def is_held(self) -> bool:
        """Whether the lease was renewed recently enough that no other process can hold it."""
        return time.monotonic() < self._valid_until

    def acquire(self) -> bool:
        """Take the lease if it is free or has ended; return whether that worked."""
        facts = self._storage.facts(self.name)
        if facts is not None:
            found = self._read()
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
            self._released.set()
            thread.join()

    def release(self) -> None:
        """Free the lease if this process still holds it."""
        self._valid_until = 0.0
        # A lease that cannot be freed now ends by itself.
        with suppress(DataError):
            if self._read().get("token") == self._token:
                self._storage.discard(self.name)

    def _renew(self) -> None:
        while not self._released.wait(LEASE_SECONDS / 4):
            try:
                facts = self._storage.facts(self.name)
                if self._read().get("token") != self._token or not self._put(facts):
                    self._valid_until = 0.0
                    return
            except DataError:
                continue  # The store may answer the next time, before the lease ends.

    def _put(self, facts: "ObjectFacts | None") -> bool:
        # Counted from before the request: if the answer is slow, the lease must not seem longer
        # to this process than to others.
        requested_at = time.monotonic()
        content = {
            "holder": f"process {os.getpid()} on {socket.gethostname()}",
            "token": self._token,
            "ends": time.time() + LEASE_SECONDS,
        }
        if not self._storage.put_if(self.name, json.dumps(content).encode(), facts):
            return False
        self._valid_until = requested_at + LEASE_SECONDS
        return True

    def _read(self) -> dict[str, Any]:
        """Return the content of the file; empty if it does not exist or is damaged."""
        try:
            found = json.loads(self._storage.read(self.name) or b"{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}
