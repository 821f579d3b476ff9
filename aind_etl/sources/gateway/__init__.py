"""A database behind its REST gateway.

:class:`GatewaySource` reads it. :mod:`.client` makes the requests, :mod:`.replies` checks and
parses the replies, :mod:`.pages` reads a page at a time, and :mod:`.large_documents` assembles
documents that exceed the gateway's payload limit.
"""

from aind_etl.sources.gateway.source import KNOWN_COLLECTIONS, GatewaySource

__all__ = ["KNOWN_COLLECTIONS", "GatewaySource"]
