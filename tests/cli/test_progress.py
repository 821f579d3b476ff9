"""Progress on a terminal."""

import io

from rich.console import Console

from aind_etl.cli.progress_bars import TerminalProgress


def shown(name, expected, *, is_terminal=True):
    """Return the output for a step of which 50 records are done."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=is_terminal, width=120, color_system=None)
    progress = TerminalProgress(console)
    with progress.bars:
        progress.stage(2, 5)
        progress.step(name)
        progress.expect(expected, unit="records")
        for _ in range(5):
            progress.advance(10)
        progress.bars.refresh()
    return screen.getvalue()


def test_a_step_shows_how_much_is_done_how_fast_and_for_how_long():
    line = shown("read trials", 100)
    for part in ("2 of 5: read trials", "50 of 100 records", "/s", "0:00:0", "━"):
        assert part in line


def test_an_unknown_total_is_not_shown():
    line = shown("extract [x] :smile:", 0)
    for part in ("extract [x] :smile:", "50 records"):
        assert part in line
    for part in ("/0", "of 0", "/?", "━"):
        assert part not in line


def test_nothing_is_shown_without_a_terminal():
    assert shown("read trials", 100, is_terminal=False).strip() == ""
