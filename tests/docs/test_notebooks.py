"""The notebooks run on the sample, and show what is stored in them."""

import nbformat
import pytest
from renew_notebooks import NOTEBOOKS, executed

pytestmark = pytest.mark.slow


def shown(notebook):
    """Return the texts that each cell shows, and "picture" for a picture."""
    return [
        [
            "picture" if "image/svg+xml" in output["data"] else output["data"]["text/plain"]
            for output in cell["outputs"]
            if "data" in output
        ]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_shows_what_is_stored_in_it(path, sample_warehouse):
    stored = nbformat.read(path, as_version=4)
    ran = executed(path, sample_warehouse)
    assert shown(ran) == shown(stored), "make docs renews it"
    assert sum(cell == ["picture"] for cell in shown(ran)) >= 2
