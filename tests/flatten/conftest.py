"""The documents of the sample world."""

import pytest
from flattening import fit_of, format_of
from worlds import MAIN, read_dump

from aind_etl.sources.dump import DumpSource


@pytest.fixture(scope="session")
def documents(sample_dump):
    """Return every document of the sample world, by collection."""
    return {
        collection: read_dump(sample_dump, collection)
        for collection in DumpSource(sample_dump).list_collections()
    }


@pytest.fixture(scope="session")
def fits(documents):
    """Return a document of each format with folds and a clamped and several fitted parameters."""
    found = {}
    for document in documents[MAIN]:
        fit = fit_of(document) or {}
        settings = fit.get("fit_settings", {})
        is_full = fit.get("cross_validation") and settings.get("clamp_params")
        if is_full and len(settings["fit_names"]) > 2:
            found.setdefault(format_of(document), document)
    return found
