"""Which flattener this is."""

from functools import cache
from hashlib import sha256
from pathlib import Path

import aind_etl.contract

# Decides which documents are flattened, not what their rows are.
_NOT_FLATTENING = "refresh.py"


@cache
def flattener_version() -> str:
    """Return a text that differs whenever the code that makes rows of documents does.

    It is a hash of that code, so that no one has to remember to raise a number: rows
    flattened by another version, and documents it rejected, are flattened again.
    """
    digest = sha256()
    for folder in (Path(aind_etl.contract.__file__).parent, Path(__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            if path.name != _NOT_FLATTENING:
                digest.update(path.name.encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
