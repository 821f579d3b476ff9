"""Progress on a terminal."""

import io

from rich.console import Console

from aind_etl.cli.progress_bars import TerminalProgress


def shown(*, is_terminal: bool) -> str:
    """Return the output for a step that is half done."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=is_terminal, width=120)
    with TerminalProgress(console) as progress:
        progress.stage(2, 5)
        progress.step("read trials")
        progress.expect(100, unit="records")
        for _ in range(5):
            progress.advance(10)
        progress._bars.refresh()
    return screen.getvalue()


def test_a_step_shows_how_much_is_done_how_fast_and_for_how_long():
    line = shown(is_terminal=True)
    for part in ("2 of 5: read trials", "50 of 100 records", "/s", "0:00:0"):
        assert part in line


def test_an_unknown_total_is_not_shown():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    with TerminalProgress(console) as progress:
        progress.step("extract [x] :smile:")
        progress.expect(0, unit="records")
        progress._bars.refresh()
        progress.advance(3)
        progress._bars.refresh()
    assert "extract [x] :smile:" in screen.getvalue()
    assert "3 records" in screen.getvalue()
    for part in ("/0", "of 0", "/?", "━"):
        assert part not in screen.getvalue()


def test_nothing_is_shown_without_a_terminal():
    assert shown(is_terminal=False).strip() == ""
