"""Running what is measured, and what is made of it: medians, spreads, ratios."""

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OTHERS_PYTHON = HERE / ".venv" / "bin" / "python"


@dataclass(frozen=True)
class Run:
    """One run of a process.

    Attributes
    ----------
    documents
        Documents it handled.
    wall_seconds, cpu_seconds
        Of the part that is compared.
    process_seconds, process_cpu_seconds
        Of the process, from its start to its end.
    peak_megabytes
        The most memory the process held, as far as it says so itself.
    bytes
        Size of what it was asked the size of.
    """

    documents: int
    wall_seconds: float
    cpu_seconds: float
    process_seconds: float
    process_cpu_seconds: float
    peak_megabytes: float
    bytes: int = 0


class FailedError(Exception):
    """A process did not end, or not well; the message says which and why."""


def ours(measure: str, source: object, lake: object) -> list[str]:
    """Return the command of one of aind-etl's measures."""
    return [sys.executable, str(HERE / "ours.py"), measure, str(source), str(lake)]


def others(measure: str, source: object, target: object) -> list[str]:
    """Return the command of something compared with."""
    return [
        str(OTHERS_PYTHON),
        "-W",
        "ignore",
        str(HERE / "others.py"),
        measure,
        str(source),
        str(target),
    ]


def run(command: list[str], most_seconds: float = 1200) -> tuple[Run, dict[str, Any]]:
    """Run a process to its end; return what it took, and its answer if it gives one.

    Raises
    ------
    FailedError
        It fails, or takes too long.
    """
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        bound = threading.Timer(most_seconds, process.kill)
        bound.start()
        output = process.stdout.read() if process.stdout else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        bound.cancel()
    wall = time.perf_counter() - began
    if status != 0:
        late = f"; it had {most_seconds:,.0f} s" if wall >= most_seconds else ""
        shown = " ".join(Path(part).name if part.startswith("/") else part for part in command)
        raise FailedError(f"`{shown}` ended with {process.returncode}{late}")
    cpu = usage.ru_utime + usage.ru_stime
    lines = output.splitlines()
    said = json.loads(lines[-1]) if lines and lines[-1].startswith(b"{") else {}
    taken = Run(
        said.get("documents", 0),
        said.get("wall_seconds", wall),
        said.get("cpu_seconds", cpu),
        wall,
        cpu,
        said.get("peak_kilobytes", 0) / 1024,
        said.get("bytes", 0),
    )
    return taken, said.get("answer", {})


def summary(runs: list[Run]) -> dict[str, float]:
    """Return the median of each figure, and the least and most of the times."""
    found = {name: statistics.median(asdict(one)[name] for one in runs) for name in asdict(runs[0])}
    for name in ("wall_seconds", "process_seconds"):
        values = [asdict(one)[name] for one in runs]
        found |= {f"least_{name}": min(values), f"most_{name}": max(values)}
    return found


def conditions() -> dict[str, Any]:
    """Return what figures depend on: machine, load and versions."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    names = ("polars", "duckdb", "pyarrow", "pymongo", "orjson")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "machine": f"{os.cpu_count()} cores, {model}, {platform.system()}",
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }
