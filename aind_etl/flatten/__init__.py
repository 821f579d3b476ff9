"""Documents of either format in, rows of the contract out.

Here belongs everything that knows what a document means: taking it apart as the contract says
(:mod:`.reading`), what follows from the values taken (:mod:`.deriving`), and the tables made
of them (:mod:`.tables`). What does not fit is rejected with its reason; what is unknown is kept
as an attribute. Files, the change log and the merge with earlier rows do not belong here.
"""

from aind_etl.flatten.tables import Flattened, flatten_documents
from aind_etl.flatten.version import flattener_version

__all__ = ["Flattened", "flatten_documents", "flattener_version"]
