"""The command ``aind-etl``: one module per group of commands, and how they print."""

from aind_etl.cli.app import main

__all__ = ["main"]
