"""What ``ours.py`` and ``others.py`` share: timing the compared part, and printing the result.

Imports the standard library alone, since the two run in different environments.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COLLECTION = "dynamic-foraging-model-fitting"

Taken = dict[str, float]
# From source, target and the dict for times to the number of documents and the answer.
Measure = Callable[[str, str, Taken], tuple[int, dict[str, Any]]]


@contextmanager
def timed(taken: Taken) -> Iterator[None]:
    """Record wall and processor seconds of a ``with`` block, and the peak memory until its end."""
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    yield
    taken["wall_seconds"] = time.perf_counter() - wall
    taken["cpu_seconds"] = sum(os.times()[:4]) - cpu
    # Before the answer is computed: that may read whole tables.
    taken["peak_kilobytes"] = _peak_kilobytes()


def _peak_kilobytes() -> int:
    """Return the peak memory of this process plus that of its largest child.

    VmHWM, since ru_maxrss of a process starts with the memory of its parent.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    own = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    return int(own) + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def main(*measures: Measure) -> None:
    """Run the measure that the command line names; print what it took and its answer as JSON."""
    _, name, source, target = sys.argv
    taken: Taken = {}
    documents, answer = {one.__name__: one for one in measures}[name](source, target, taken)
    print(json.dumps({"documents": documents, "answer": answer} | taken), flush=True)
