"""The command ``aind-etl``: one module per group of commands, and how they print."""

from aind_etl.cli.main import main

__all__ = ["main"]
