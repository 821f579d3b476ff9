"""The report shows the numbers of the marts, needs no network, and works in a browser."""

import errno
import json
import os
import re
import shutil
from importlib.metadata import version
from pathlib import Path
from statistics import median

import duckdb
import pytest
from chromium import chromium_path, opened_chromium
from typer.testing import CliRunner

from aind_etl.cli.app import app
from aind_etl.client.report import write_report, writing
from aind_etl.client.report.data import TRAJECTORY_VALUES
from aind_etl.client.report.figures import FIGURES
from aind_etl.errors import ConfigurationError
from aind_etl.lake import Lake
from aind_etl.warehouse.build import build_warehouse
from aind_etl.warehouse.connection import connect

MEGABYTE = 1_000_000
REAL_NUMBER_OF_FITS = 145_000


@pytest.fixture(scope="module")
def page(built, tmp_path_factory):
    """Return the report on the sample world."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(built.warehouse, path)
    return path


@pytest.mark.parametrize("cached", [None, "cut off", "\udcff", "a folder"])
def test_the_charts_library_is_bundled_once_and_a_damaged_cache_is_replaced(
    tmp_path, monkeypatch, cached
):
    library = writing._library
    whole = library()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = tmp_path / "aind-etl" / f"vega-{version('vl-convert-python')}.js"
    if cached == "a folder":
        file.mkdir(parents=True)
    elif cached is not None:
        file.parent.mkdir()
        file.write_text(cached, errors="surrogateescape")
    bundle = whole.rpartition("\n")[0]
    monkeypatch.setattr(writing.vl_convert, "javascript_bundle", lambda _snippet: bundle)
    assert library.__wrapped__() == whole
    if cached != "a folder":
        assert file.read_text() == whole
        monkeypatch.setattr(writing.vl_convert, "javascript_bundle", None)
    assert library.__wrapped__() == whole


@pytest.fixture(scope="module")
def browser():
    """Return a page of a headless Chromium."""
    if chromium_path() is None:
        pytest.skip("there is no Chromium; Debian's package is called chromium")
    with opened_chromium() as opened:
        yield opened


def show(browser, page):
    """Open a page, and fail if it asks the network for anything or logs a warning or error."""
    browser.complaints.clear()
    browser.open(page.as_uri())
    assert browser.complaints == []


@pytest.fixture
def shown(browser, page):
    """Give the browser with the report, opened again if a test opened another page."""
    if not browser.ask("location.href").startswith(page.as_uri()):
        show(browser, page)
    yield browser
    assert browser.complaints == []


def payload(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="payload">(.*?)</script>', text, re.DOTALL)[1])


def rows(page, figure):
    data = payload(page)["data"][figure]
    return [dict(zip(data["columns"], row, strict=True)) for row in data["rows"]]


def ask(warehouse, query):
    with connect(warehouse) as connection:
        return connection.execute(query).fetchall()


def test_the_headlines_are_counts_of_the_marts(built, tmp_path):
    headlines = write_report(built.warehouse, tmp_path / "report.html")
    names = ("subjects", "fitted_sessions", "fits", "newest_session", "documents")
    assert [tuple(headlines[name] for name in names)] == ask(
        built.warehouse,
        "SELECT count(DISTINCT subject_id), count(DISTINCT session_key), count(*), "
        "max(session_date), (SELECT sum(live_documents) FROM collections) FROM model_comparison",
    )
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f'data-headline="fits">{headlines["fits"]:,}<' in text


@pytest.mark.parametrize("criterion", ["aic", "bic", "lpt_aic", "cv_accuracy"])
def test_the_sessions_won_are_those_of_best_models(built, page, criterion):
    fair = "" if criterion not in {"aic", "bic"} else "AND NOT n_trials_differ"
    won = ask(
        built.warehouse,
        f"SELECT agent_alias, count(DISTINCT session_key) FROM best_models "
        f"WHERE criterion = '{criterion}' AND margin IS NOT NULL {fair} GROUP BY ALL",
    )
    drawn = [row for row in rows(page, "best") if row["criterion"] == criterion]
    assert won
    assert {row["agent_alias"]: row["sessions"] for row in drawn} == dict(won)
    fitted = ask(
        built.warehouse,
        "SELECT agent_alias, count(DISTINCT session_key) FROM model_comparison "
        f"WHERE {criterion} IS NOT NULL AND session_key IN (SELECT session_key FROM best_models "
        f"WHERE criterion = '{criterion}' AND margin IS NOT NULL {fair}) GROUP BY ALL",
    )
    assert {row["agent_alias"]: row["compared"] for row in drawn}.items() <= dict(fitted).items()


def test_a_session_with_fits_of_one_agent_is_not_won(built, tmp_path):
    warehouse = shutil.copy(built.warehouse, tmp_path / "warehouse.duckdb")
    with duckdb.connect(warehouse) as connection:
        connection.execute("UPDATE best_models SET n_agents = 1 WHERE criterion = 'bic'")
    write_report(warehouse, tmp_path / "report.html")
    won = {row["criterion"] for row in rows(tmp_path / "report.html", "best")}
    assert won == {"aic", "lpt", "lpt_aic", "lpt_bic", "cv_accuracy"}


def test_the_coverage_adds_up_to_that_of_the_mart(built, page):
    counts = ("sessions", "fitted", "skipped", "failed", "unknown", "missing")
    (summed,) = ask(
        built.warehouse,
        f"SELECT {', '.join(f'sum(n_{count})' for count in counts)} FROM fit_coverage",
    )
    drawn = rows(page, "coverage")
    assert tuple(sum(row[count] for row in drawn) for count in counts) == summed
    assert all((row["band"] == "all") == (row["fitted"] == row["sessions"]) for row in drawn)
    assert all((row["band"] == "none") == (row["fitted"] == 0) for row in drawn)


def test_the_differences_and_accuracies_are_those_of_model_comparison(built, page):
    drawn = {row["agent_alias"]: row for row in rows(page, "delta_aic")}
    differences = ask(
        built.warehouse,
        "SELECT agent_alias, list(delta_aic) FROM model_comparison WHERE n_agents > 1 "
        "AND NOT n_trials_differ AND delta_aic IS NOT NULL GROUP BY ALL",
    )
    assert len(differences) == len(drawn)
    for agent, deltas in differences:
        row = drawn[agent]
        assert row["sessions"] == len(deltas)
        assert row["median"] == pytest.approx(median(deltas), rel=1e-5)
        assert row["p5"] <= row["p25"] <= row["median"] <= row["p75"] <= row["p95"]
    ((validated,),) = ask(
        built.warehouse, "SELECT count(*) FROM model_comparison WHERE cv_accuracy IS NOT NULL"
    )
    assert sum(row["sessions"] for row in rows(page, "accuracy")) == validated
    assert sum(row["fits"] for row in rows(page, "accuracy_sessions")) == validated


def test_the_trajectories_are_those_of_the_mart(built, page):
    drawn = {
        (one["subject"], agent, parameter, number): value
        for one in payload(page)["trajectories"]
        for agent, parameters in one["agents"].items()
        for parameter, points in parameters.items()
        for number, _day, value, _at_bound in points
    }
    agents = {agent for _, agent, _, _ in drawn}
    expected = ask(
        built.warehouse,
        "SELECT subject_id, agent_alias, parameter, session_number, value "
        f"FROM parameter_trajectories WHERE is_fitted AND agent_alias IN {tuple(agents)}",
    )
    assert len(agents) == 4
    assert "QLearning_L2F1_softmax" in agents
    assert drawn == pytest.approx({tuple(row[:4]): row[4] for row in expected}, rel=1e-5)


def test_agreement_and_arrivals_add_up_to_those_of_the_marts(built, page):
    assert ask(built.warehouse, "SELECT count(*) FROM pipeline_agreement") == [
        (sum(row["pairs"] for row in rows(page, "agreement")),)
    ]
    arrived, lags = rows(page, "arrivals"), rows(page, "lag")
    assert ask(built.warehouse, "SELECT sum(n_arrived), sum(n_lags) FROM collection_freshness") == [
        (sum(row["arrived"] for row in arrived), sum(row["analyses"] for row in lags))
    ]


def test_every_figure_is_drawn_or_says_that_it_is_empty(browser, page):
    show(browser, page)
    assert browser.ask("document.querySelectorAll('.chart svg').length") == sum(
        figure.chart is not None for figure in FIGURES
    ) + browser.ask("document.querySelectorAll('#parameters > div').length")
    empty = "[...document.querySelectorAll('.empty:not([hidden])')]"
    assert browser.ask(f"{empty}.map(one => one.closest('section').id)") == [
        "by-trial",
        "disagreements",
        "rejected_values",
        "rejected",
    ]


def draw_parameters(shown, subject, agent, mark):
    """Choose a subject and an agent; return the number of marks drawn for each parameter."""
    shown.choose("#subject", subject)
    shown.choose("#agent", agent)
    shown.wait_until(f"document.getElementById('parameters').dataset.drawn === '{subject} {agent}'")
    return shown.ask(
        "Object.fromEntries([...document.querySelectorAll('#parameters > div')].map(place => "
        f"[place.dataset.parameter, place.querySelectorAll('{mark}').length]))"
    )


def test_the_chosen_subject_and_agent_are_drawn(shown, page):
    trajectories = payload(page)["trajectories"]
    longest = max(trajectories, key=lambda one: max(map(_points, one["agents"].values())))
    agent, parameters = max(longest["agents"].items(), key=lambda item: _points(item[1]))
    drawn = draw_parameters(shown, longest["subject"], agent, ".mark-symbol.role-mark path")
    assert drawn == {parameter: len(points) for parameter, points in parameters.items()}
    # The address keeps the choice.
    address = shown.ask("location.href")
    assert f"subject={longest['subject']}" in address


def test_bounds_are_named_and_those_near_the_values_are_drawn(shown, page):
    agent = "QLearning_L2F1_softmax"
    learn_rate = {"agent_alias": agent, "parameter": "learn_rate_rew", "lower": 0, "upper": 1}
    assert learn_rate in rows(page, "bounds")
    drawn = draw_parameters(shown, "652175", agent, ".mark-rule.role-mark line")
    headings = shown.ask("[...document.querySelectorAll('#parameters h3')].map(h => h.textContent)")
    assert "learn_rate_rew bounds 0 to 1" in headings
    assert "softmax_inverse_temperature bounds 0 to 100" in headings
    assert drawn["learn_rate_rew"] > 0
    assert drawn["softmax_inverse_temperature"] < 2, "100 is far from every value"


def test_a_session_is_drawn_trial_by_trial_with_a_link_to_its_figure(browser, world, tmp_path):
    page = tmp_path / "report.html"
    write_report(world / "warehouse.duckdb", page)
    sessions = rows(page, "by_trial")
    assert len(sessions) == 6, "the newest of each subject"
    for one in sessions:
        ((n_trials, rewards),) = ask(
            world / "warehouse.duckdb",
            "SELECT count(*), count(*) FILTER (reward) FROM trials "
            "JOIN latest_analyses USING (source_collection, record_id, process_index) "
            f"WHERE session_key = '{one['session']}' AND agent_alias = '{one['agent']}' "
            "AND choice IS NOT NULL",
        )
        assert len(one["trials"]) == n_trials > 50
        assert sum(reward for _, _, reward, *_ in one["trials"]) == rewards
    show(browser, page)
    chart = "document.querySelector('#by-trial .chart')"
    for one in (sessions[-1], sessions[0]):
        browser.choose("#session", one["session"])
        browser.wait_until(f"{chart}.dataset.drawn === '{one['session']}'")
        ticks = browser.ask(f"{chart}.querySelectorAll('.mark-rule.role-mark line').length")
        assert ticks == len(one["trials"])
        assert browser.ask(f"{chart}.querySelectorAll('.mark-line.role-mark path').length") == 2
    assert any(one["figure"] for one in sessions)
    link = browser.ask("document.getElementById('session-figure').href")
    assert (link or None) == (sessions[0]["figure"] or None)
    assert browser.complaints == []


def test_the_criterion_can_be_chosen(shown, page):
    bars = "document.querySelectorAll('#best .mark-rect.role-mark path').length"
    for criterion in ("bic", "cv_accuracy", "aic"):
        expected = sum(row["criterion"] == criterion for row in rows(page, "best"))
        shown.choose("#best select", criterion)
        shown.wait_until(f"{bars} === {expected}")


def test_sessions_are_found_by_subject(shown, built):
    ((subject, session),) = ask(
        built.warehouse,
        "SELECT subject_id, max(session_key) FROM model_comparison GROUP BY 1 ORDER BY 1 LIMIT 1",
    )
    shown.choose("#find", subject)
    found = shown.ask(
        "[...document.querySelectorAll('#sessions tbody tr')].map(row => row.cells[0].innerText)"
    )
    assert session in found
    assert all(one.startswith(subject) for one in found)
    shown.choose("#find", "no such mouse")
    assert "No session" in shown.ask("document.querySelector('#sessions .table').innerText")
    shown.choose("#find", "")


def test_a_figure_shows_its_numbers_on_demand(shown, page):
    shown.ask("document.querySelector('#coverage details').open = true")
    shown.wait_until("document.querySelector('#coverage details table') !== null")
    assert shown.ask("document.querySelectorAll('#coverage details tbody tr').length") == len(
        rows(page, "coverage")
    )


def test_colours_follow_the_users_preference_and_print_is_white(shown):
    def paper():
        return shown.ask("getComputedStyle(document.querySelector('section')).backgroundColor")

    light = paper()
    shown.prefer("dark")
    dark = paper()
    shown.prefer("dark", media="print")
    printed = paper()
    shown.prefer("light")
    assert light == printed == "rgb(255, 255, 255)" != dark


def test_the_page_fits_a_small_laptop_and_a_phone_and_session_numbers_are_integers(shown):
    for width in (390, 1280):
        shown.resize(width, 800)
        shown.wait_until(
            "[...document.querySelectorAll('.chart svg')].every(one => "
            "one.getBoundingClientRect().right <= innerWidth) && "
            "document.documentElement.scrollWidth <= innerWidth"
        )
    table = "document.querySelector('#sessions .table')"
    shown.wait_until(f"{table}.scrollWidth <= {table}.clientWidth")
    axes = ".multiples .mark-group.role-axis[aria-label^='X-axis'] .role-axis-label text"
    labels = shown.ask(f"[...document.querySelectorAll({axes!r})].map(one => one.textContent)")
    assert [one for one in labels if one.isdecimal()]
    assert [one for one in labels if one and not one.isdecimal()] == []
    shown.resize(1440, 900)


def test_an_empty_warehouse_gives_a_page_that_says_so(browser, tmp_path):
    warehouse = tmp_path / "warehouse.duckdb"
    build_warehouse(Lake(tmp_path / "lake"), warehouse)
    headlines = write_report(warehouse, tmp_path / "report.html")
    assert (headlines["fits"], headlines["newest_session"]) == (0, None)
    show(browser, tmp_path / "report.html")
    assert browser.ask("document.querySelectorAll('svg').length") == 0
    assert "No session has been fitted yet" in browser.ask("document.body.innerText")


def test_texts_of_documents_are_never_markup(browser, built, tmp_path):
    hostile = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)>"
    warehouse = shutil.copy(built.warehouse, tmp_path / "warehouse.duckdb")
    with duckdb.connect(warehouse) as connection:
        for table in ("model_comparison", "best_models", "fit_coverage", "parameter_trajectories"):
            connection.execute(
                f"UPDATE {table} SET agent_alias = ? WHERE agent_alias = 'QLearning_L2F1_softmax'",
                [hostile],
            )
        connection.execute("UPDATE model_comparison SET reference_agent = ?", [hostile])
        connection.execute(
            "INSERT INTO rejected_documents SELECT source_collection, record_id, ?, ?, ?, "
            "content_hash, changed_at FROM analyses LIMIT 3",
            [hostile] * 3,
        )
    write_report(warehouse, tmp_path / "report.html")
    show(browser, tmp_path / "report.html")
    assert browser.ask("document.title") != "taken"
    assert browser.ask("document.querySelectorAll('img').length") == 0
    assert hostile in browser.ask("document.getElementById('rejected').innerText")


@pytest.mark.slow
def test_a_page_of_145000_fits_has_a_few_megabytes(browser, built, tmp_path):
    warehouse = shutil.copy(built.warehouse, tmp_path / "warehouse.duckdb")
    with duckdb.connect(warehouse) as connection:
        ((fits,),) = connection.execute("SELECT count(*) FROM model_comparison").fetchall()
        times = REAL_NUMBER_OF_FITS // fits
        made_unique = {
            "model_comparison": ("subject_id", "session_key", "record_id"),
            "best_models": ("subject_id", "session_key"),
            "parameter_trajectories": ("subject_id", "session_key"),
            "analyses": ("subject_id", "session_key", "record_id"),
        }
        for table, columns in made_unique.items():
            replaced = ", ".join(f"{name} || '-' || n AS {name}" for name in columns)
            connection.execute(
                f"INSERT INTO {table} SELECT old.* REPLACE ({replaced}) "
                f"FROM {table} AS old, range({times}) AS t(n)"
            )
    page = tmp_path / "report.html"
    assert write_report(warehouse, page)["fits"] >= REAL_NUMBER_OF_FITS
    assert page.stat().st_size < 8 * MEGABYTE
    points = sum(
        _points(parameters) * len(parameters)
        for one in payload(page)["trajectories"]
        for parameters in one["agents"].values()
    )
    assert points <= TRAJECTORY_VALUES
    show(browser, page)


def test_a_report_that_cannot_be_drawn_leaves_the_old_one(built, tmp_path, monkeypatch):
    page = tmp_path / "report.html"
    page.write_text("yesterday's")
    with pytest.raises(ConfigurationError, match="There is no warehouse"):
        write_report(tmp_path / "warehouse.duckdb", page)
    with pytest.raises(ConfigurationError, match="is a folder; name a file"):
        write_report(built.warehouse, tmp_path)
    with pytest.raises(ConfigurationError, match="there is no folder"):
        write_report(built.warehouse, tmp_path / "screen" / "report.html")
    assert not (tmp_path / "screen").exists()
    other = tmp_path / "other.duckdb"
    with duckdb.connect(other) as connection:
        connection.execute("CREATE TABLE something AS SELECT 1 AS one")
    with pytest.raises(ConfigurationError, match="is not one of aind-etl"):
        write_report(other, page)
    monkeypatch.setattr(writing.Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_report(built.warehouse, page)
    assert page.read_text() == "yesterday's"
    assert [one.name for one in tmp_path.glob(".*")] == []


def test_the_error_for_a_folder_without_permission_names_the_page(built, tmp_path, monkeypatch):
    make = os.mkdir

    def refuse(path, *mode):
        if Path(path).parent == tmp_path:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        make(path, *mode)

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(PermissionError, match=r"report\.html"):
        write_report(built.warehouse, tmp_path / "report.html")


def test_the_command_writes_the_page(built, tmp_path):
    page = tmp_path / "report.html"
    result = CliRunner().invoke(
        app, ["report", "--warehouse", str(built.warehouse), "--output", str(page)]
    )
    assert result.exit_code == 0, result.output
    assert page.stat().st_size > MEGABYTE / 2
    assert "fits of" in result.output


def _points(parameters):
    return max(len(points) for points in parameters.values())
