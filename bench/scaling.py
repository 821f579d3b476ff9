"""How cost grows with size: loads and passes over a collection that grows: ``make bench-scaling``.

One collection is filled up to each size in turn, and loaded anew.
"""

import argparse
import json
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from measuring import HERE, OTHERS_PYTHON, FailedError, conditions, others, ours, run
from world import insert, originals, read_dump, server, simulate

SIZES = (10_000, 50_000, 145_000, 500_000)
ORIGINALS = 20_000
ADDED = 100


def main() -> None:
    """Measure each size once, and write down what was measured after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--dump", type=Path, help="a collection's .jsonl made before")
    parser.add_argument("--results", type=Path, default=HERE, help="folder for what is written")
    given = parser.parse_args()
    sizes = sorted(given.sizes)
    rows: list[dict[str, float | str]] = []
    about = conditions()
    with (
        TemporaryDirectory(prefix="aind-etl-bench-") as scratch,
        server(Path(scratch) / "mongod") as address,
    ):
        folder = Path(scratch)
        wanted = min(ORIGINALS, sizes[-1])
        documents = read_dump(given.dump) if given.dump else simulate(folder / "world", wanted)
        base = originals(documents[:wanted])
        source, filled, new = f"{address}growing", 0, sizes[-1]
        for size in sizes:
            # What was added as new to a smaller size counts.
            insert(source, base, filled, size - (new - sizes[-1]))
            filled = size - (new - sizes[-1])
            lake = folder / "lake"
            for step, command in {
                "reading raw BSON, doing nothing": others("raw", source, "-"),
                "full load without warehouse": ours("analyses", source, lake),
                "warehouse": ours("warehouse", "-", lake),
                "full pass, nothing changed": ours("full_pass", source, lake),
                "listing the ids": others("ids", source, "-"),
                "new pass, nothing new": ours("new_pass", source, lake),
                f"new pass, {ADDED} new": ours("new_documents", source, lake),
            }.items():
                if step == f"new pass, {ADDED} new":
                    insert(source, base, new, new + ADDED)
                    new += ADDED
                rows.append({"documents": size, "step": step, **measured(command)})
                print(json.dumps(rows[-1]), flush=True)
            shutil.rmtree(lake)
            keep({"conditions": about, "sizes": rows}, given.results)
    if any("failed" in row for row in rows):
        raise SystemExit(1)


def measured(command: list[str]) -> dict[str, float | str]:
    """Run one side of a measure; return what it took, or why it failed."""
    try:
        taken, _ = run(command)
    except FailedError as error:
        return {"failed": str(error)}
    return {
        "seconds": taken.wall_seconds,
        "cpu_seconds": taken.cpu_seconds,
        "peak_megabytes": taken.peak_megabytes,
    }


def keep(record: dict[str, object], folder: Path) -> None:
    """Write the record, the page and the plot."""
    about, rows = record["conditions"], record["sizes"]
    assert isinstance(about, dict)
    assert isinstance(rows, list)
    path = folder / "records" / f"{about['date'][:10]}-scaling.json"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    what = (
        f"{about['machine']}, load {about['load']:.1f} at the beginning; {about['date']} UTC. "
        "Written by `make bench-scaling`: one run each, seconds of the part measured, without "
        f"start-up; memory of the whole process. Record: [`records/{path.name}`]"
        f"(records/{path.name})."
    )
    header = ["documents", "step", "s", "cpu s", "µs of cpu a document", "peak MB"]
    lines = [
        "# How cost grows with size",
        "",
        what,
        "",
        "| " + " | ".join(header) + " |",
        "|---:|---|" + "---:|" * 4,
    ]
    for one in rows:
        begin = f"| {one['documents']:,} | {one['step']} | "
        if "failed" in one:
            lines.append(f"{begin}{one['failed']} | | | |")
            continue
        lines.append(
            f"{begin}{one['seconds']:.2f} | {one['cpu_seconds']:.2f} "
            f"| {1e6 * one['cpu_seconds'] / one['documents']:.1f} | {one['peak_megabytes']:,.0f} |"
        )
    lines += ["", "![Time and memory against size](scaling.png)"]
    (folder / "SCALING.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    plot = [str(OTHERS_PYTHON), str(HERE / "plot.py"), "scaling", str(path)]
    subprocess.run([*plot, str(folder / "scaling.png")], check=True)


if __name__ == "__main__":
    main()
