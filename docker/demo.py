"""Write the sample world to a folder, and its documents into a MongoDB.

The one-shot container of the demonstration: ``demo.py FOLDER mongodb://host:port/database
SESSIONS``. It waits for the server, and leaves existing data unchanged, so that a user's changes
survive the next start.
"""

import sys
from pathlib import Path

from bson import decode_file_iter
from pymongo import MongoClient

from aind_etl.sample import write_world

_SERVER_MAY_NEED_MS = 120_000

folder, address, sessions = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
world = folder / "world"
if not world.exists():
    # Renamed when complete: an interrupted one is written again.
    unfinished = folder / "unfinished"
    write_world(unfinished, sessions=sessions, seed=0, formats=("bson",))
    unfinished.rename(world)
with MongoClient(address, serverSelectionTimeoutMS=_SERVER_MAY_NEED_MS) as client:
    database = client.get_default_database()
    for path in sorted(world.glob("*.bson")):
        collection = database[path.stem]
        if path.stat().st_size and collection.find_one() is None:
            with path.open("rb") as file:
                collection.insert_many(decode_file_iter(file))
        sys.stdout.write(f"{path.stem}: {collection.estimated_document_count():,} documents\n")
