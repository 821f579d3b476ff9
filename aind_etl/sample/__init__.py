"""A simulated world: sessions, agents, and the documents that two pipelines wrote about them.

It is the default source of an installation, and the data of tests and benchmarks at any size.

- ``agents``: the catalogue of agents, and what animals are like; ``dynamics``: how they choose and
  learn
- ``calendar``, ``sessions``: subjects, their days, their behaviour
- ``fits``: agents fitted to sessions
- ``runs``: which pipeline analysed what, and with which oddities
- ``documents``, ``prototype``, ``framework``, ``projects``: documents in the writers' formats
- ``figures``, ``results``, ``session_table``, ``behavior_database``: the files beside the documents
- ``world``: all of it on disk
"""

from aind_etl.sample.world import COLLECTIONS, write_world

__all__ = ["COLLECTIONS", "write_world"]
