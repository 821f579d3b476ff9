"""How cost grows with size: loads and passes over collections of several sizes.

``make bench-scaling`` runs it and writes a record, a plot and ``SCALING.md``.
"""

import argparse
import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from measuring import HERE, OTHERS_PYTHON, conditions, others, ours, run
from rich.console import Console
from world import fill, make_dump, server

SIZES = (10_000, 50_000, 145_000, 500_000)


def main() -> None:
    """Measure each size once, and write down what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--dump", type=Path, help="a collection's .jsonl made before")
    given = parser.parse_args()
    rows = []
    with (
        TemporaryDirectory(prefix="aind-etl-bench-") as scratch,
        server(Path(scratch) / "mongod") as address,
    ):
        folder = Path(scratch)
        dump = given.dump or make_dump(folder / "world")
        for size in given.sizes:
            source, lake = f"{address}whole", folder / f"lake-{size}"
            fill(source, dump, size)
            for step, command in {
                "raw BSON, doing nothing": others("raw", source, "-"),
                "load without warehouse": ours("analyses", source, lake),
                "warehouse": ours("warehouse", "-", lake),
                "full pass, nothing changed": ours("full_pass", source, lake),
                "new pass, nothing new": ours("new_pass", source, lake),
            }.items():
                taken, _ = run(command)
                rows.append(
                    {
                        "documents": size,
                        "step": step,
                        "seconds": taken.wall_seconds,
                        "cpu_seconds": taken.cpu_seconds,
                        "peak_megabytes": taken.peak_megabytes,
                    }
                )
                Console().print(rows[-1])
    record = {"conditions": conditions(), "sizes": rows}
    path = HERE / "records" / f"{record['conditions']['date'][:10]}-scaling.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    header = ["documents", "step", "s", "cpu s", "µs of cpu a document", "peak MB"]
    about = record["conditions"]
    lines = [
        "# How cost grows with size",
        "",
        f"{about['machine']}, load {about['load']:.1f}; {about['date']} UTC. One run each.",
        "",
        "| " + " | ".join(header) + " |",
        "|---" * len(header) + "|",
    ]
    lines += [
        f"| {one['documents']:,} | {one['step']} | {one['seconds']:.2f} | {one['cpu_seconds']:.2f} "
        f"| {1e6 * one['cpu_seconds'] / one['documents']:.1f} | {one['peak_megabytes']:,.0f} |"
        for one in rows
    ]
    lines += ["", "![Time and memory against size](scaling.png)"]
    (HERE / "SCALING.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    plot = [str(OTHERS_PYTHON), str(HERE / "plot.py")]
    subprocess.run([*plot, "scaling", str(path), str(HERE / "scaling.png")], check=True)


if __name__ == "__main__":
    main()
