"""The documents of the sample world."""

import pytest
from worlds import read_dump

from aind_etl.sources.dump import DumpSource


@pytest.fixture(scope="session")
def documents(sample_dump):
    """Return every document of the sample world, by collection."""
    return {
        collection: read_dump(sample_dump, collection)
        for collection in DumpSource(sample_dump).list_collections()
    }
