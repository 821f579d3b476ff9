"""The Dagster UI, started by `dagster dev` and opened in a browser.

With ``AIND_ETL_WRITE_PICTURES=1`` the tests write the pictures of the documentation.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from shutil import copy

import polars as pl
import pytest
from chromium import chromium_path, opened_chromium
from commands import ask_page, without_settings
from containers import end_group, wait_until
from mongod import mongod_or_skip
from ports import free_port
from pymongo import MongoClient
from worlds import MAIN, read_dump

from aind_etl import Warehouse
from aind_etl.contract import tables
from aind_etl.lake import Lake
from aind_etl.sample import write_world

CLONE = Path(__file__).parents[2]
PICTURES = CLONE / "docs" / "images"
DAGSTER = Path(sys.executable).with_name("dagster")
AUTOMATION_SECONDS = 300

# In one process of pytest-xdist, because they share the page.
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("page")]


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Yield a collection of a MongoDB server with the documents of a small world."""
    folder = tmp_path_factory.mktemp("source")
    write_world(folder, sessions=12, seed=0, formats=("jsonl",), results=False)
    with mongod_or_skip(folder / "mongod") as port, MongoClient("127.0.0.1", port) as client:
        for path in folder.glob("*.jsonl"):
            client["analysis"][path.stem].insert_many(read_dump(folder, path.stem))
        yield client["analysis"][MAIN]


class Served:
    """The Dagster UI and daemon, with a lake."""

    def __init__(self, folder, port):
        self.lake = Lake(folder / "lake")
        self.warehouse = folder / "lake" / "warehouse.duckdb"
        self.address = f"http://127.0.0.1:{port}"
        self._log = folder / "dagster.log"

    def said(self):
        """Return the output of the processes."""
        return self._log.read_text(errors="replace")

    def ask(self, query):
        """Return the answer of the page's GraphQL."""
        return ask_page(self.address, query)

    def wait_for_record(self, record_id):
        """Wait until the warehouse has a record."""
        wait_until(lambda: record_id in self.records(), AUTOMATION_SECONDS, self.said)

    def records(self):
        """Return the ids of the records in the warehouse."""
        if not self.warehouse.exists():
            return set()
        return set(Warehouse(self.warehouse).table("analyses")["record_id"])

    def backfilled(self):
        """Return the number of successful runs of backfills."""
        found = self.ask(
            "{ runsOrError(filter: {statuses: [SUCCESS]}) "
            "{ ... on Runs { results { tags { key } } } } }"
        )
        return sum(
            any(tag["key"] == "dagster/backfill" for tag in run["tags"])
            for run in found["runsOrError"]["results"]
        )

    def failed_publication(self):
        """Return the id of a failed publication, if there is one."""
        found = self.ask(
            '{ runsOrError(filter: {pipelineName: "publish_warehouse", statuses: [FAILURE]}) '
            "{ ... on Runs { results { runId } } } }"
        )
        return next((run["runId"] for run in found["runsOrError"]["results"]), None)


@pytest.fixture(scope="module")
def served(collection, tmp_path_factory):
    """Yield the page, started with the `workspace.yaml` of the clone."""
    folder = tmp_path_factory.mktemp("page")
    home = folder / "home"
    home.mkdir()
    copy(CLONE / "dagster_home" / "dagster.yaml", home)
    port = free_port()
    host, server_port = collection.database.client.address
    environment = without_settings(
        DAGSTER_HOME=str(home),
        AIND_ETL_SOURCE=f"mongodb://{host}:{server_port}/analysis",
        AIND_ETL_LAKE=str(folder / "lake"),
        AIND_ETL_RESULTS_ROOT=str(folder),
        AIND_ETL_SENSOR_INTERVAL_SECONDS="5",
    )
    made = Served(folder, port)
    with (folder / "dagster.log").open("ab") as log:
        process = subprocess.Popen(
            [DAGSTER, "dev", "--workspace", CLONE / "workspace.yaml", "--port", str(port)],
            cwd=CLONE,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        made.wait_for_record(str(collection.find_one()["_id"]))
        yield made
    finally:
        end_group(process, signal.SIGTERM)


@pytest.fixture
def browser():
    if chromium_path() is None:
        pytest.skip("there is no Chromium")
    with opened_chromium() as page:
        page.resize(1200, 1000)
        yield page


@pytest.fixture
def photograph(browser, tmp_path):
    """Return a function that writes a picture of the browser's window."""
    folder = PICTURES if os.environ.get("AIND_ETL_WRITE_PICTURES") else tmp_path

    def photograph(name):
        browser.photograph(folder / f"{name}.png", whole=False)

    return photograph


def test_a_document_inserted_into_the_source_appears_in_the_warehouse(served, collection):
    collection.insert_one(collection.find_one() | {"_id": "inserted"})
    served.wait_for_record("inserted")


def test_assets_are_shown_in_groups_with_their_lineage(served, browser):
    browser.visit(
        f"{served.address}/assets/sessions_with_fits?view=lineage&lineageScope=upstream&lineageDepth=5",
        *("lake", "results", "views", "marts", "documents", "analyses", "latest_analyses"),
        *("model_comparison", "best_models", "sessions"),
    )


def test_the_page_of_an_asset_shows_its_columns_preview_and_pictures(served, browser, photograph):
    browser.visit(
        f"{served.address}/assets/collection_freshness",
        *("Columns", "Median lag of these records", "preview", MAIN),
    )
    browser.click("arrivals a day")
    photograph("metadata")
    browser.click("[Show Markdown]")
    browser.wait_until("document.querySelector('[role=dialog] img')?.naturalWidth > 500")


def test_partitions_can_be_materialized_on_the_page(served, browser):
    browser.visit(f"{served.address}/assets/documents", "Materialize…")
    browser.click("Materialize…")
    browser.wait_until("document.body.innerText.includes('Partition selection')")
    browser.click("All")
    browser.wait_until("document.body.innerText.includes('5 partitions')")
    browser.click("Launch backfill")
    wait_until(lambda: served.backfilled() == 5, AUTOMATION_SECONDS, served.said)


def test_a_failed_check_is_shown_and_the_warehouse_is_kept(served, collection, browser, photograph):
    before = served.warehouse.stat().st_ino
    (path, *_) = served.lake.tables.files(tables.ANALYSES, "dynamic-foraging-nm")
    rows = pl.read_parquet(path, hive_partitioning=False)
    pl.concat([rows, rows.head(1)]).write_parquet(path)
    collection.insert_one(collection.find_one() | {"_id": "not published"})
    run = wait_until(served.failed_publication, AUTOMATION_SECONDS, served.said)
    assert "not published" not in served.records()
    assert served.warehouse.stat().st_ino == before
    browser.visit(
        f"{served.address}/assets/warehouse?view=checks&checkDetail=analyses_key_is_unique",
        "analyses_key_is_unique",
        "Failed",
        "what offends",
    )
    photograph("failed_check")
    browser.visit(f"{served.address}/runs/{run}", "was not published")
