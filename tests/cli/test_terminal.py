"""What users see at a terminal: the command runs in a pseudo-terminal."""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from pathlib import Path

import pyte
import pytest
from commands import execute, without_settings
from worlds import MAIN

from aind_etl.text import printable

pytestmark = pytest.mark.slow

CLONE = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).with_name("aind-etl"))
LINES = 200
INTERRUPT = b"\x03"


def at_a_terminal(folder, *arguments, columns=100, interrupt_after=None, seconds=180):
    """Run the command at a terminal.

    Returns
    -------
    code : int
        Its exit code.
    written : str
        Its whole output, including control sequences.
    screen : list of str
        The lines on the screen at the end.
    """
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        environment = without_settings(TERM="xterm-256color")
        environment.pop("AIND_ETL_RESULTS_ROOT", None)  # The sample has result folders of its own.
        os.execve(COMMAND, [COMMAND, *arguments], environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
    written = b""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not select.select([terminal], [], [], 0.2)[0]:
            continue
        try:
            piece = os.read(terminal, 1 << 16)
        except OSError:
            break  # On Linux, because the other side has closed.
        if not piece:
            break
        written += piece
        if interrupt_after is not None and interrupt_after in written:
            os.write(terminal, INTERRUPT)
            interrupt_after = None
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    screen = pyte.Screen(columns, LINES)
    pyte.ByteStream(screen).feed(written)
    return code, written.decode(), [line.rstrip() for line in screen.display]


def piped(folder, *arguments, **settings):
    """Run the command without a terminal, and return the ended process."""
    return execute(COMMAND, *arguments, cwd=folder, env=without_settings(**settings))


def readme_output():
    """Return the output of `make run` in the README, with the installed command.

    It shows some tables; "…" stands for the others.
    """
    text = (CLONE / "README.md").read_text()
    shown = re.search(r"\$ make run\n(.*?)```", text, re.DOTALL)[1]
    return shown.replace(".venv/bin/aind-etl", "aind-etl").rstrip().splitlines()


def unfolded(lines):
    """Return the characters of lines without blanks, independent of folding."""
    return "".join("".join(lines).split())


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """Return the folder of a run in a narrow terminal, all that it wrote, and the screen."""
    folder = tmp_path_factory.mktemp("first-run")
    code, written, screen = at_a_terminal(folder, "run", columns=80)
    assert code == 0, screen
    return folder, written, screen


def tables_shown(screen):
    """Return the part of a screen from the table of what was built."""
    return screen[screen.index("Built") :]


@pytest.fixture(scope="module")
def wide_screen(first_run):
    """Return the screen of a further run in a wide terminal."""
    code, _, screen = at_a_terminal(first_run[0], "run", columns=200)
    assert code == 0
    return screen


def test_the_screen_after_a_run_is_that_of_the_readme(first_run, wide_screen):
    _, written, screen = first_run
    left = "\n".join(screen).rstrip().splitlines()
    begin = readme_output().index("Built")
    assert left[:begin] == readme_output()[:begin]
    assert len(left) < 70
    # Columns are folded, and the words of several columns are mixed.
    for line in tables_shown(left):
        assert unfolded([line]) in unfolded(tables_shown(wide_screen)), line
    for never in ("/?", "0/0", "of 0 ", "0:00:00 left"):
        assert never not in written
    assert re.search(r"4 of 5: flatten dynamic-foraging-model\S+", written)
    assert re.search(r"\d+ of 302 folders", written)


def test_a_wide_terminal_shows_the_tables_of_the_readme(first_run, wide_screen):
    for line in tables_shown(readme_output()):
        assert line == "…" or unfolded([line]) in unfolded(tables_shown(wide_screen)), line
    # A terminal of 100 characters breaks only the suggested command.
    code, _, screen = at_a_terminal(first_run[0], "run", columns=100)
    assert code == 0
    assert unfolded(tables_shown(screen)) == unfolded(tables_shown(wide_screen))


def test_the_interrupt_key_ends_a_run_with_a_message(tmp_path):
    code, _, screen = at_a_terminal(tmp_path, "run", interrupt_after=b"4 of 5: flatten")
    left = "\n".join(screen).rstrip().splitlines()
    assert code == 130, left
    assert left == [
        "architecture_example_v2: 4 new",
        "dynamic-foraging-analysis: 11 new",
        "dynamic-foraging-lifetime: 4 new",
        "dynamic-foraging-model-fitting: 340 new",
        "Interrupted. Everything written is complete; run again to continue.",
    ]


def test_progress_is_shown_only_on_a_terminal(tmp_path, built, lake):
    arguments = ("verify", "--source", str(built.source), "--lake", lake[0], "--warehouse", lake[1])
    code, written, screen = at_a_terminal(tmp_path, *arguments)
    assert code == 0
    assert f"compare {MAIN}" in written
    assert not any("compare" in line for line in screen)
    ended = piped(tmp_path, *arguments)
    assert ended.returncode == 0
    assert "compare" not in ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def lake(built):
    return str(built.lake.storage.root), str(built.warehouse)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_data_are_printed_literally(tmp_path, lake, is_terminal):
    values = ["root:x:0", ":smile:", "[bold]x[/]", "[link=x]", "a\\[b", "1e5 'x' http://x.y"]
    columns = ", ".join(f'$${value}$$ AS "{value}"' for value in values)
    arguments = ("sql", f"SELECT {columns}", "--warehouse", lake[1])
    if is_terminal:
        code, written, screen = at_a_terminal(tmp_path, *arguments)
        assert "\x1b[3" not in written, "nothing is coloured"
        lines = [line for line in screen if line]
    else:
        ended = piped(tmp_path, *arguments)
        code, lines = ended.returncode, ended.stdout.splitlines()
    assert code == 0
    assert [re.split(" {2,}", line) for line in lines] == [values, values]


def test_control_characters_are_escaped(tmp_path, lake):
    query = "SELECT chr(27) || '[31mred' || chr(10) || chr(7) AS x"
    _, _, screen = at_a_terminal(tmp_path, "sql", query, "--warehouse", lake[1])
    assert [line for line in screen if line] == ["x", "\\x1b[31mred\\n\\x07"]
    assert printable("a\tü\ud800\x7f", keep="\t") == "a\tü\\ud800\\x7f"


def test_an_error_shows_a_name_literally(tmp_path):
    ended = piped(tmp_path, "status", "--lake", "[red]:x:\x1b[1m")
    assert "[red]:x:\\x1b[1m" in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("verify",),
        ("sql", "FROM analyses LIMIT 3"),
        ("sql", "SELECT agent_alias, NULL AS x FROM analyses"),
        ("ddl", "--dialect", "trino"),
        ("--help",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_line_of_a_pipe_has_trailing_blanks(tmp_path, built, lake, arguments):
    settings = {"AIND_ETL_LAKE": lake[0], "AIND_ETL_WAREHOUSE": lake[1]}
    ended = piped(tmp_path, *arguments, AIND_ETL_SOURCE=str(built.source), **settings)
    lines = (ended.stdout + ended.stderr).splitlines()
    assert lines
    assert [line for line in lines if line != line.rstrip()] == []


def test_parquet_is_not_written_to_a_terminal(tmp_path, lake):
    arguments = ("sql", "SELECT 1", "--format", "parquet", "--warehouse", lake[1])
    code, _, screen = at_a_terminal(tmp_path, *arguments)
    assert code == 2
    assert "Give --output FILE" in " ".join(screen)
