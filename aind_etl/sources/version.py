"""Which canonical form this is."""

import platform
from functools import cache
from hashlib import sha256
from pathlib import Path

import orjson
import pymongo

import aind_etl.sources.canonical


@cache
def canonical_version() -> str:
    """Return a text that differs whenever the code that makes documents of bytes does.

    It is a hash of that code and its dependencies, so that no one has to remember to
    raise a number: hashes stored by another version are not used.
    """
    code = Path(aind_etl.sources.canonical.__file__).read_bytes()
    versions = f"orjson {orjson.__version__}, pymongo {pymongo.version}"
    return f"{sha256(code).hexdigest()[:16]}, {versions}, Python {platform.python_version()}"
