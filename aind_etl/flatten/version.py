"""The version of the flattener."""

from functools import cache
from hashlib import sha256
from pathlib import Path

import aind_etl.contract


@cache
def flattener_version() -> str:
    """Return a hash of the code that turns documents into rows.

    Documents that were flattened or rejected by another version are flattened again.
    """
    digest = sha256()
    for folder in (Path(aind_etl.contract.__file__).parent, Path(__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            # It determines which documents are flattened, not what their rows are.
            if path.name != "refresh.py":
                digest.update(path.name.encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
