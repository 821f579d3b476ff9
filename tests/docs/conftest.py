"""The scripts of ``docs/``, and the warehouse on which its examples run."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

from renew_cookbook import build_sample


@pytest.fixture(scope="session")
def sample_warehouse(made_once: Callable[..., Path]) -> Path:
    """Return the warehouse of the sample with its trials and sessions."""
    folder = made_once("documented-sample", build_sample)
    return folder / "lake" / "warehouse.duckdb"
