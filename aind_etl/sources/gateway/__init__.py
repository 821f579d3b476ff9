"""A database behind its REST gateway.

:class:`GatewaySource` reads it. :mod:`.client` makes the requests, :mod:`.replies` checks and
parses the replies, and :mod:`.pages` reads a page at a time.
"""

from aind_etl.sources.gateway.source import KNOWN_COLLECTIONS, GatewaySource

__all__ = ["KNOWN_COLLECTIONS", "GatewaySource"]
