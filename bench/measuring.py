"""Running what is measured, and what is made of it: medians, spreads, ratios."""

import json
import os
import platform
import statistics
import subprocess
import sys
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
        The most memory the process held.
    """

    documents: int
    wall_seconds: float
    cpu_seconds: float
    process_seconds: float
    process_cpu_seconds: float
    peak_megabytes: float


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


def run(command: list[str]) -> tuple[Run, dict[str, Any]]:
    """Run a command to its end; return what it took, and its answer if it gives one."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        output = process.stdout.read() if process.stdout else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - began
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed.")
    cpu = usage.ru_utime + usage.ru_stime
    lines = output.splitlines()
    said = json.loads(lines[-1]) if lines and lines[-1].startswith(b"{") else {}
    taken = Run(
        said.get("documents", 0),
        said.get("wall_seconds", wall),
        said.get("cpu_seconds", cpu),
        wall,
        cpu,
        usage.ru_maxrss / 1024,
    )
    return taken, said.get("answer", {})


def summary(runs: list[Run]) -> dict[str, float]:
    """Return the median of each figure, and the least and most wall seconds."""
    fields = asdict(runs[0])
    found = {name: statistics.median(asdict(one)[name] for one in runs) for name in fields}
    walls = [one.wall_seconds for one in runs]
    return found | {"least_wall_seconds": min(walls), "most_wall_seconds": max(walls)}


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
