"""Write the sample world to a folder, and its documents into a MongoDB.

The demonstration's one-shot container: ``demo.py FOLDER mongodb://host:port/database``. It waits
for the server. A collection that has documents is left as it is, so that what a user changed there
outlives the next start.
"""

import sys
from pathlib import Path

from bson import decode_file_iter
from pymongo import MongoClient

from aind_etl.sample import write_world

_SERVER_MAY_NEED_MS = 120_000

folder, address = Path(sys.argv[1]), sys.argv[2]
# The same files with the same content every time.
write_world(folder, sessions=24, seed=0, formats=("bson",))
with MongoClient(address, serverSelectionTimeoutMS=_SERVER_MAY_NEED_MS) as client:
    database = client.get_default_database()
    for path in sorted(folder.glob("*.bson")):
        collection = database[path.stem]
        if collection.find_one() is None:
            with path.open("rb") as file:
                collection.insert_many(decode_file_iter(file))
        sys.stdout.write(f"{path.stem}: {collection.estimated_document_count():,} documents\n")
