"""A database behind its REST gateway: questions, client and replies."""

from aind_etl.sources.gateway.source import KNOWN_COLLECTIONS, GatewaySource

__all__ = ["KNOWN_COLLECTIONS", "GatewaySource"]
