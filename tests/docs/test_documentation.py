"""The documentation names only what exists, and the runbook names all that is operated."""

import re
import shlex

import pytest
import typer
import yaml
from containers import CLONE, DOCKER

from aind_etl import Warehouse
from aind_etl.cli.app import app
from aind_etl.orchestration.definitions import build_defs
from aind_etl.settings import Settings
from aind_etl.sources.mongodb import address

PAGES = sorted(
    [*CLONE.glob("*.md"), *CLONE.glob("docs/**/*.md"), *CLONE.glob("docker/*.md")],
    key=lambda path: path.as_posix(),
)
PAGES.remove(CLONE / "CHANGELOG.md")
RUNBOOK = (CLONE / "docs" / "operations.md").read_text()
COMMANDS = typer.main.get_command(app).commands

CREDENTIALS = {
    address.USERNAME_VARIABLE,
    address.PASSWORD_VARIABLE,
    address.PASSWORD_FILE_VARIABLE,
}
SETTINGS = {f"AIND_ETL_{name.upper()}" for name in Settings.model_fields} | CREDENTIALS


def every_page(function):
    return pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)(function)


def code_of(page):
    """Return the code of a page: in lines, and the commands of its blocks."""
    text = page.read_text()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    pieces = [" ".join(piece.split()) for piece in re.findall(r"`([^`]+)`", prose)]
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        # A command continues until its quotes are closed.
        command = ""
        for line in block.splitlines():
            if command or line.startswith("$ "):
                command += f"\n{line}" if command else line.removeprefix("$ ")
                if command.count('"') % 2 == 0:
                    pieces.append(command)
                    command = ""
    return pieces


def calls_of(page):
    """Return the words of each call of the command on a page."""
    calls = []
    for piece in code_of(page):
        if match := re.search(r"(?:^|[ /])aind-etl (?=[a-z]+\b)", piece):
            try:
                words = shlex.split(piece[match.end() :], comments=True)
            except ValueError as error:
                raise AssertionError(f"{page.name}: {piece!r}: {error}") from None
            calls.append(words)
    return calls


@every_page
def test_every_command_and_option_named_exists(page):
    for command, *arguments in calls_of(page):
        assert command in COMMANDS, command
        options = {name for one in COMMANDS[command].params for name in (*one.opts, "--help")}
        for word in arguments:
            if word.startswith("--"):
                assert word.partition("=")[0] in options, f"aind-etl {command} {word}"


@every_page
def test_every_query_shown_can_be_run(page, built):
    warehouse = Warehouse(built.warehouse)
    for command, *arguments in calls_of(page):
        if command == "sql" and arguments and arguments[0] not in {"…", "SHOW TABLES"}:
            warehouse.sql(arguments[0])


@every_page
def test_every_setting_named_exists(page):
    named = set(re.findall(r"AIND_ETL_[A-Z0-9_]*[A-Z0-9]", page.read_text()))
    of_tests = {name for name in named if name.startswith("AIND_ETL_TEST_")}
    assert named <= SETTINGS | of_tests | {"AIND_ETL_REAL_RECORDS"}


@every_page
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        aimed = (page.parent / path).resolve() if path else page
        assert aimed.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", aimed.read_text(), re.MULTILINE)
            assert heading in {anchor(one) for one in headings}, target


def anchor(heading):
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_the_reference_names_every_setting():
    reference = (CLONE / "docs" / "reference.md").read_text()
    assert {name for name in SETTINGS if f"`{name}`" not in reference} == set()


def test_the_readme_is_short():
    assert len((CLONE / "README.md").read_text().splitlines()) <= 120


def test_containers_receive_every_setting():
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    given = {
        name if name.startswith("AIND_ETL_MONGODB") else name.removesuffix("_FILE")
        for name in compose["services"]["code"]["environment"]
        if name.startswith("AIND_ETL_")
    }
    elsewhere = {"AIND_ETL_MONGODB_PASSWORD"}  # only as a file
    assert given == SETTINGS - elsewhere


@pytest.fixture(scope="module")
def definitions():
    return build_defs()


def test_the_runbook_names_every_job_sensor_and_schedule(definitions):
    named = [
        one.name
        for some in (definitions.jobs, definitions.sensors, definitions.schedules)
        for one in some or []
    ]
    assert named
    assert [name for name in named if f"`{name}`" not in RUNBOOK] == []


def test_the_runbook_says_what_to_do_about_every_check(definitions):
    names = {key.name for key in definitions.resolve_asset_graph().asset_check_keys}
    assert len(names) > 20
    families = tuple(re.findall(r"`…(_\w+)`", RUNBOOK))
    unnamed = {name for name in names if f"`{name}`" not in RUNBOOK and not name.endswith(families)}
    assert unnamed == set()


def test_the_runbook_says_of_each_check_whether_it_blocks(definitions):
    graph = definitions.resolve_asset_graph()
    for row in re.findall(r"^\| (`[^|]*`) \| (yes|no) \|", RUNBOOK, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", row[0]):
            keys = [
                key
                for key in graph.asset_check_keys
                if key.name == name or (name[0] == "…" and key.name.endswith(name[1:]))
            ]
            assert keys, name
            for key in keys:
                assert graph.get_check_spec(key).blocking == (row[1] == "yes"), key.name


def test_the_runbook_says_how_dagster_is_configured():
    # The runbook repeats a number of the configuration.
    instance = yaml.safe_load((CLONE / "dagster_home" / "dagster.yaml").read_text())
    assert instance["run_retries"]["max_retries"] == 2
    assert "restarts a run that lost its process, up to twice" in RUNBOOK
