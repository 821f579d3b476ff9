"""Compares aind-etl with other tools (``make bench``), or with another commit (``--against``).

Both sides of a measure run as processes, in turn, so that a machine that slows down slows both.
Before anything is timed both run on a small world, and their answers must agree; in every timed
run they must agree again. A measure that fails is recorded as failed, and the others go on.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measures import Measure, World, Worlds, all_measures, making_worlds
from measuring import FailedError, Figures, conditions, run, summary, table_lines, write_record
from plot import plot_ratios
from revisions import Bench, compare_revisions
from rich.console import Console
from world import Sizes, arguments, server_and_documents

_BEGIN = "<!-- What follows is written by `make bench`. -->"
_END = "<!-- What precedes is written by `make bench`. -->"


def main() -> None:
    """Make the worlds, rehearse, measure, and write the results down."""
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs of each side of a measure")
    parser.add_argument("--share", type=float, default=1.0, help="of the usual sizes")
    parser.add_argument("--only", default="", help="only measures with this text in their name")
    parser.add_argument("--against", metavar="REV", help="measure only this checkout against REV")
    given = parser.parse_args()
    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, style="dim", markup=False)

    sizes = Sizes.of_share(given.share)
    say("Simulating a sample world …")
    with server_and_documents(sizes.documents, given.dump) as (folder, address, documents):
        if given.against:
            bench = Bench(given.against, address, folder / "sides", documents, sizes, given.runs)
            compare_revisions(bench, given.only, say)
            return
        with making_worlds(address, folder, documents[: sizes.documents], sizes, say) as worlds:
            record = {
                "conditions": conditions(),
                "sizes": vars(sizes),
                "runs": given.runs,
                "measures": [],
            }
            chosen = [one for one in all_measures(worlds) if given.only in one.name]
            measure_all(chosen, worlds, record, given, say)
    plot_ratios(record, given.results / "results.png")
    if any("failed" in one for one in record["measures"]):
        sys.exit(1)


def measure_all(
    measures: list[Measure],
    worlds: Worlds,
    record: dict[str, Any],
    given: argparse.Namespace,
    say: Callable[[str], None],
) -> None:
    """Run measures, and write all results down after each."""
    found: dict[str, dict[str, Any]] = {}

    def rank(measure: Measure) -> int:
        # Measures that add documents run after those without them, and dlt, which may use up the
        # machine's memory, runs last.
        return (
            2 * (measure.world == "largest")
            + (not measure.is_rehearsed)
            + 9 * ("dlt" in measure.against)
        )

    for measure in sorted(measures, key=rank):
        say(f"{measure.name} …")
        names = {"name": measure.name, "against": measure.against}
        try:
            found[measure.name] = names | compared(measure, worlds, given.runs, found)
        except FailedError as error:
            found[measure.name] = names | {"failed": str(error)}
        say("    " + " | ".join(row(found[measure.name])[1:]).replace("<br>", "; "))
        record["measures"] = [found[one.name] for one in measures if one.name in found]
        path = write_record(record, given.results, record["sizes"]["large"])
        write_page(record, path.name, given.results / "RESULTS.md")


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
        run_sides(measure, worlds.by_name["rehearsal"], [0, 1])
    taken: tuple[list[Figures], list[Figures]] = ([], [])
    wanted = [runs if count is None else count for count in measure.runs]
    for number in range(max(wanted)):
        due = [side for side in (0, 1) if number < wanted[side]]
        for side, figures in run_sides(measure, worlds.by_name[measure.world], due).items():
            taken[side].append(figures)
    mine = summary(taken[0])
    # Without runs of its own, the other side is an earlier measure.
    theirs = summary(taken[1]) if taken[1] else before.get(measure.against, {}).get("ours")
    if theirs is None:
        raise FailedError(f"`{measure.against}` was not measured")
    return {
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


def run_sides(measure: Measure, world: World, sides: list[int]) -> dict[int, Figures]:
    """Run sides of a measure, 0 for ours and 1 for the other, and compare their answers.

    Raises
    ------
    FailedError
        A side fails, or they do not agree.
    """
    measure.prepare(world)
    commands = measure.commands(world)
    results = {side: run(commands[side]) for side in sides}
    answers = [answer for _, answer in results.values()]
    if measure.has_answers and answers[1:] != answers[:-1]:
        raise FailedError(f"{answers[0]} is not {answers[1]}")
    return {side: figures for side, (figures, _) in results.items()}


def row(found: dict[str, Any]) -> tuple[str, ...]:
    """Return a comparison as a row of the table."""
    if "failed" in found:
        return (found["name"], "", found["against"], "", "failed", "", found["failed"])
    targets = found["targets"]
    return (
        found["name"],
        described(found["ours"]),
        found["against"],
        described(found["theirs"]),
        "<br>".join(f"{one['value']:,.3g}{one['unit']}" for one in targets),
        "<br>".join(one["bound"] for one in targets),
        "<br>".join("yes" if one["is_reached"] else "no" for one in targets),
    )


def described(side: Figures) -> str:
    """Return a side's figures as text."""
    if side["bytes"]:
        return f"{side['bytes'] / 1e6:,.2f} MB"
    # A command that handles no documents is timed from its start.
    wall, cpu = ("wall", "cpu") if side["documents"] else ("process", "process_cpu")
    least, most = side[f"least_{wall}_seconds"], side[f"most_{wall}_seconds"]
    spread = f" ({least:.3g}–{most:.3g})" if least != most else ""
    memory = f", {side['peak_megabytes']:,.0f} MB" if side["peak_megabytes"] else ""
    return f"{side[f'{wall}_seconds']:.3g} s{spread}, cpu {side[f'{cpu}_seconds']:.3g} s{memory}"


def write_page(record: dict[str, Any], name: str, page: Path) -> None:
    """Write the table between the marks of the page; the rest of the page is kept."""
    about = record["conditions"]
    versions = ", ".join(f"{one} {number}" for one, number in about["versions"].items())
    about_figures = (
        f"Documents of the sample world in a real mongod; {about['machine']}, load "
        f"{about['load']:.1f} at the start; Python {about['python']}, {versions}; "
        f"{about['date']} UTC. Medians of {record['runs']} runs in turn (least and most in "
        "brackets; without brackets, one run), processor seconds of the client, and its peak "
        "memory. Seconds are of the compared part, without start-up, except where start-up is "
        "measured. Both sides gave the same answers. Where the load exceeds the number of cores, "
        "wall times say little."
    )
    lines = [
        _BEGIN,
        "",
        about_figures,
        "",
        *table_lines(
            "| measure |  | against |  | ratio | target | reached |\n" + "|---" * 7 + "|",
            *map(row, record["measures"]),
        ),
        "",
        f"Record: [`records/{name}`](records/{name}).",
        "",
        "![Seconds of both sides of each measure](results.png)",
        "",
        _END,
    ]
    present = (
        page.read_text(encoding="utf-8") if page.exists() else f"# Results\n\n{_BEGIN}{_END}\n"
    )
    before, _, rest = present.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text(before + "\n".join(lines) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
