"""Runs the notebooks of ``docs/notebooks`` on the sample, and stores their output.

``make docs`` runs it; the tests run them the same way.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from renew_cookbook import build_sample

NOTEBOOKS = sorted((Path(__file__).parent / "notebooks").glob("*.ipynb"))


def executed(path: Path, warehouse: Path) -> nbformat.NotebookNode:
    """Return a notebook with the output of its cells on a warehouse.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        A cell ends with an error.
    """
    notebook = nbformat.read(path, as_version=4)
    environment = os.environ | {
        "AIND_ETL_WAREHOUSE": str(warehouse),
        # Pictures without random ids and the time at which they were drawn.
        "MATPLOTLIBRC": str(path.parent),
        "SOURCE_DATE_EPOCH": "0",
    }
    # The kernel of this Python, whatever kernels the user has installed.
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", record_timing=False)
    client.execute(env=environment)
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        built = Path(sys.argv[1]) if len(sys.argv) > 1 else build_sample(Path(temporary))
        for one in NOTEBOOKS:
            nbformat.write(executed(one, built), one)
