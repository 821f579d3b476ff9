"""Runs the processes that are measured, and summarises and writes down their figures."""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OTHERS_PYTHON = HERE / ".venv" / "bin" / "python"
_MOST_SECONDS = 1200.0

Figures = dict[str, float]
"""Figures of one process.

``documents`` it handled; ``wall_seconds`` and ``cpu_seconds`` of the compared part;
``process_seconds`` and ``process_cpu_seconds`` from its start to its end; ``peak_megabytes`` and
``bytes``, 0 if it reports none.
"""


class FailedError(Exception):
    """A process failed or took too long; the message names it."""


def ours(measure: str, source: object, target: object) -> list[str]:
    """Return the command of one of aind-etl's measures."""
    return [sys.executable, str(HERE / "ours.py"), measure, str(source), str(target)]


def others(measure: str, source: object, target: object) -> list[str]:
    """Return the command of a tool that aind-etl is compared with."""
    script = str(HERE / "others.py")
    return [str(OTHERS_PYTHON), "-W", "ignore", script, measure, str(source), str(target)]


def run(command: list[str]) -> tuple[Figures, dict[str, Any]]:
    """Run a process; return its figures, and its answer if it gives one."""
    output, seconds, usage = spawn(command)
    lines = output.splitlines()
    printed = json.loads(lines[-1]) if lines and lines[-1].startswith(b"{") else {}
    cpu = usage.ru_utime + usage.ru_stime
    figures = {
        "documents": printed.get("documents", 0),
        "wall_seconds": printed.get("wall_seconds", seconds),
        "cpu_seconds": printed.get("cpu_seconds", cpu),
        "process_seconds": seconds,
        "process_cpu_seconds": cpu,
        "peak_megabytes": printed.get("peak_kilobytes", 0) / 1024,
        "bytes": printed.get("bytes", 0),
    }
    return figures, printed.get("answer", {})


def spawn(
    command: list[str],
    **options: Any,  # noqa: ANN401 - those of Popen
) -> tuple[bytes, float, resource.struct_rusage]:
    """Run a process to its end; return its output, its seconds and its resource usage.

    Raises
    ------
    FailedError
        It fails, or takes too long.
    """
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as process:
        bound = threading.Timer(_MOST_SECONDS, process.kill)
        bound.start()
        output = process.stdout.read() if process.stdout else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        bound.cancel()
    seconds = time.perf_counter() - began
    if status != 0:
        late = f"; the limit is {_MOST_SECONDS:,.0f} s" if seconds >= _MOST_SECONDS else ""
        shown = " ".join(Path(part).name if part.startswith("/") else part for part in command)
        raise FailedError(f"`{shown}` ended with {process.returncode}{late}")
    return output, seconds, usage


def summary(runs: list[Figures]) -> Figures:
    """Return the median of each figure, and the least and most of the times."""
    found = {name: statistics.median(one[name] for one in runs) for name in runs[0]}
    for name in ("wall_seconds", "process_seconds"):
        values = [one[name] for one in runs]
        found |= {f"least_{name}": min(values), f"most_{name}": max(values)}
    return found


def conditions() -> dict[str, Any]:
    """Return what figures depend on: machine, load and versions."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in cpu if line.startswith("model name")]
    names = ("polars", "duckdb", "pyarrow", "pymongo", "orjson")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "machine": f"{os.cpu_count()} cores, {[*models, platform.machine()][0]}, "
        f"{platform.system()}",
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }


def write_record(record: dict[str, Any], folder: Path, suffix: object) -> Path:
    """Write a record below ``folder``, named by its date; return its path."""
    path = folder / "records" / f"{record['conditions']['date'][:10]}-{suffix}.json"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def table_lines(header: str, *rows: tuple[str, ...]) -> list[str]:
    """Return the lines of a Markdown table below a header."""
    return [header, *("| " + " | ".join(row) + " |" for row in rows)]
