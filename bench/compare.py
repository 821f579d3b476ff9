"""What people do beside what they would otherwise use: ``make bench``.

Both sides of a measure run as processes, in turn, so that a machine that slows down slows both.
Before anything is timed both run on a small world, and what they answer must agree; in every timed
run it must agree again. A measure that fails is written down as such, and the others go on.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from measures import Measure, World, Worlds, all_measures, making_worlds
from measuring import HERE, OTHERS_PYTHON, FailedError, Run, conditions, run, summary
from revisions import Bench, compare_revisions, show_revisions, sides_of
from rich.console import Console
from world import Sizes, originals, read_dump, server, simulate

_BEGIN = "<!-- What follows is written by `make bench`. -->"
_END = "<!-- What precedes is written by `make bench`. -->"


def main() -> None:
    """Make the worlds, rehearse, measure, and write down what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="of each side of a measure")
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the usual sizes, to see that all of it runs"
    )
    parser.add_argument("--only", default="", help="only measures with this text in their name")
    parser.add_argument("--dump", type=Path, help="a collection's .jsonl made before")
    parser.add_argument("--against", metavar="REV", help="measure only this checkout against REV")
    parser.add_argument("--results", type=Path, default=HERE, help="folder for what is written")
    given = parser.parse_args()
    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, style="dim")

    sizes = Sizes.of_share(given.share)
    with (
        TemporaryDirectory(prefix="aind-etl-bench-") as scratch,
        server(Path(scratch) / "mongod") as address,
    ):
        folder = Path(scratch)
        say("Simulating a sample world …")
        documents = (
            read_dump(given.dump) if given.dump else simulate(folder / "world", sizes.documents)
        )
        if given.against:
            sides = sides_of(given.against, folder / "sides")
            base = originals(documents)
            bench = Bench(sides, address, folder / "sides", base, sizes, given.runs)
            try:
                compare_revisions(given.against, bench, given.only, say)
            finally:
                Console().print(show_revisions(sides), soft_wrap=True, markup=False)
            return
        with making_worlds(address, folder, documents[: sizes.documents], sizes, say) as worlds:
            chosen = [one for one in all_measures(worlds) if given.only in one.name]
            record = {
                "conditions": conditions(),
                "sizes": vars(sizes),
                "runs": given.runs,
                "measures": [],
            }
            measure_all(chosen, worlds, record, given, say)
    draw(record, given.results)
    show(record)
    if any("failed" in one for one in record["measures"]):
        sys.exit(1)


def measure_all(
    measures: list[Measure],
    worlds: Worlds,
    record: dict[str, Any],
    given: argparse.Namespace,
    say: Callable[[str], None],
) -> None:
    """Run measures, and write down after each what was measured so far."""
    found: dict[str, dict[str, Any]] = {}
    # What adds documents comes after all that is measured without them, and what may take a
    # machine's memory comes last.
    late = {"largest": 2}
    order = sorted(
        measures,
        key=lambda one: (
            late.get(one.world, 0) + (not one.is_rehearsed) + 9 * ("dlt" in one.against)
        ),
    )
    for measure in order:
        say(f"{measure.name} …")
        try:
            found[measure.name] = compared(measure, worlds, given.runs, found)
        except FailedError as error:
            say(f"Failed: {error}.")
            found[measure.name] = {
                "name": measure.name,
                "against": measure.against,
                "failed": str(error),
            }
        record["measures"] = [found[one.name] for one in measures if one.name in found]
        keep(record, given.results)


def compared(
    measure: Measure, worlds: Worlds, runs: int, before: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Check that both sides agree, then run them in turn.

    Raises
    ------
    FailedError
        A side fails, or they do not agree.
    """
    if measure.is_rehearsed:
        run_both(measure, worlds.by_name["rehearsal"], (True, True))
    taken: tuple[list[Run], list[Run]] = ([], [])
    wanted = [runs if count is None else count for count in measure.runs]
    for number in range(max(wanted)):
        is_due = (number < wanted[0], number < wanted[1])
        for side, one in zip(
            taken, run_both(measure, worlds.by_name[measure.world], is_due), strict=True
        ):
            if one is not None:
                side.append(one)
    mine = summary(taken[0])
    # Some are compared with what was measured before.
    theirs = summary(taken[1]) if taken[1] else before.get(measure.against, {}).get("ours")
    if theirs is None:
        raise FailedError(f"`{measure.against}` was not measured")
    return {
        "name": measure.name,
        "against": measure.against,
        "ours": mine,
        "theirs": theirs,
        "targets": [
            {
                "value": (value := target.of(mine, theirs)),
                "unit": target.unit,
                "bound": target.bound,
                "is_reached": target.is_reached(value),
            }
            for target in measure.targets
        ],
    }


def run_both(measure: Measure, world: World, is_due: tuple[bool, bool]) -> list[Run | None]:
    """Run the sides of a measure that are due, and compare their answers.

    Raises
    ------
    FailedError
        A side fails, or they do not agree.
    """
    measure.prepare(world)
    taken: list[Run | None] = []
    answers = []
    for command, due in zip(measure.commands(world), is_due, strict=True):
        if not due:
            taken.append(None)
            continue
        one, answer = run(command)
        taken.append(one)
        answers.append(answer)
    if measure.has_answers and any(answer != answers[0] for answer in answers):
        raise FailedError(f"{answers[0]} is not {answers[1]}")
    return taken


HEADER = ("measure", "", "against", "", "ratio", "to reach", "reached")


def row(found: dict[str, Any]) -> tuple[str, ...]:
    """Return a comparison as a row of the table."""
    if "failed" in found:
        return (found["name"], "", found["against"], "", "failed", "", found["failed"])
    targets = found["targets"]
    return (
        found["name"],
        told(found["ours"]),
        found["against"],
        told(found["theirs"]),
        "<br>".join(f"{one['value']:,.3g}{one['unit']}" for one in targets),
        "<br>".join(one["bound"] for one in targets),
        "<br>".join("yes" if one["is_reached"] else "no" for one in targets),
    )


def told(side: dict[str, float]) -> str:
    """Return a side's figures for people."""
    if side["bytes"]:
        return f"{side['bytes'] / 1e6:,.2f} MB"
    is_process = not side["documents"]
    wall, least, most, cpu = (
        side[f"{name}_seconds"]
        for name in (
            ("process", "least_process", "most_process", "process_cpu")
            if is_process
            else ("wall", "least_wall", "most_wall", "cpu")
        )
    )
    times = f"{wall:.3g} s ({least:.3g}–{most:.3g})" if least != most else f"{wall:.3g} s"
    memory = f", {side['peak_megabytes']:,.0f} MB" if side["peak_megabytes"] else ""
    return f"{times}, cpu {cpu:.3g} s{memory}"


def keep(record: dict[str, Any], folder: Path) -> None:
    """Write the record and the page; what else stands on the page stays."""
    path = path_of(record, folder)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    about, name = record["conditions"], path.name
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    what = (
        f"Documents of the sample world in a real mongod; {about['machine']}, load "
        f"{about['load']:.1f} at the beginning; Python {about['python']}, {versions}; "
        f"{about['date']} UTC. Medians of {record['runs']} runs in turn (least and most in "
        "brackets; what has none was run once), processor seconds of the client, and the most "
        "memory it held. Seconds are of the part compared, without start-up, but for start-up "
        "itself. Both sides gave the same answers. Where the load is above the number of cores, "
        "wall times say little."
    )
    lines = [
        _BEGIN,
        "",
        what,
        "",
        "| " + " | ".join(HEADER) + " |",
        "|---" * len(HEADER) + "|",
        *("| " + " | ".join(row(found)) + " |" for found in record["measures"]),
        "",
        f"Record: [`records/{name}`](records/{name}).",
        "",
        "![Seconds of both sides of each measure](results.png)",
        "",
        _END,
    ]
    page = folder / "RESULTS.md"
    present = (
        page.read_text(encoding="utf-8") if page.exists() else f"# Results\n\n{_BEGIN}{_END}\n"
    )
    before, _, rest = present.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text(before + "\n".join(lines) + after, encoding="utf-8")


def path_of(record: dict[str, Any], folder: Path) -> Path:
    """Return where a record lies."""
    date, count = record["conditions"]["date"][:10], record["sizes"]["large"]
    return folder / "records" / f"{date}-{count}.json"


def draw(record: dict[str, Any], folder: Path) -> None:
    """Draw the plot of a record."""
    plot = [str(OTHERS_PYTHON), str(HERE / "plot.py"), "ratios"]
    subprocess.run([*plot, str(path_of(record, folder)), str(folder / "results.png")], check=True)


def show(record: dict[str, Any]) -> None:
    """Print the results."""
    for one in record["measures"]:
        name, mine, against, theirs, *reached = (cell.split("<br>") for cell in row(one))
        print(f"\n{name[0]}\n    {mine[0]}\n  beside {against[0]}\n    {theirs[0]}")
        for value, bound, whether in zip(*reached, strict=True):
            print(f"  {value:30}{bound:30}{whether}")


if __name__ == "__main__":
    main()
