"""What a person at a terminal sees of work under way."""

import io

from rich.console import Console

from aind_etl.progress import TerminalProgress


def shown(*, is_terminal: bool) -> str:
    """Return what is shown of a step that is half done."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=is_terminal, width=120)
    with TerminalProgress(console) as progress:
        progress.step("read trials")
        progress.expect(100, unit="records")
        for _ in range(5):
            progress.advance(10)
        progress._bars.refresh()
    return screen.getvalue()


def test_a_step_shows_how_much_is_done_how_fast_and_how_long_it_will_take():
    line = shown(is_terminal=True)
    for part in ("read trials", " 50/100", "records", "/s", "left"):
        assert part in line


def test_nothing_moves_where_nobody_watches():
    assert shown(is_terminal=False).strip() == ""
