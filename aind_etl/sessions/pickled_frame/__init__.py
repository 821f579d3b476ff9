"""A pickled pandas frame, read as data: nothing that the pickle names is called.

A pickle is a program, and loading it runs the program. Here it may name only the constructors of
pandas, numpy and datetime on a short list, and each is replaced by an inert record of its
arguments (:mod:`.unpickling`). The records are converted to arrays (:mod:`.arrays`,
:mod:`.cells`) and columns (:mod:`.frame`) by the layout that pandas 1, 2 and 3 share. Anything
else, and anything damaged or too large, is refused with the name of what the pickle asked for.

This package imports nothing else of ``aind_etl``, because it is loaded by itself into a process
with limited memory and time (:mod:`.process`, :mod:`aind_etl.sessions.frame_process`).
"""

from .frame import LABELS, read_frame
from .unpickling import RefusedError

__all__ = ["LABELS", "RefusedError", "read_frame"]
