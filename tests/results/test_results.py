"""The tables of the result folders, from a real S3 endpoint with and without faults."""

import asyncio
import errno
import inspect
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pytest
from disk import Disk, Killed
from result_endpoint import PAGE, SLOW_DOWN, Endpoint, Fault, endpoint_before, error
from worlds import (
    MAIN,
    NOON,
    Built,
    Clock,
    assert_same,
    load,
    read_dump,
    rows_of,
    tables_of,
    write_dump,
)

from aind_etl.contract import tables
from aind_etl.errors import ConfigurationError, SourceError
from aind_etl.lake import Lake
from aind_etl.lake.tables import Tables
from aind_etl.results import (
    inventory,
    open_result_store,
    refresh_result_files,
    refresh_trials,
    refresh_unclaimed_folders,
    result_json,
    trial_rows,
    trials,
)
from aind_etl.results import store as results_store
from aind_etl.results.folders import LARGEST_FILE_BYTES, FileRequest, FolderListing, StoredFile
from aind_etl.results.store import ResultStore
from aind_etl.settings import load_settings
from aind_etl.warehouse.checks import run_checks
from aind_etl.warehouse.connection import connect
from aind_etl.warehouse.sql_files import Kind, read_sql_files

PROTOTYPE_BUCKET = "aind-dynamic-foraging-analysis-prod-o5171v"
RESULT_JSON = "docDB_mle_fitting.json"
FRAMEWORK_FOLDERS = "aind-analysis-prod-o5171v/dynamic-foraging-model-fitting"
FRAMEWORK_RESULT_JSON = "original_results_mle_fitting.json"
RESULT_TABLES = (
    tables.RESULT_FOLDERS,
    tables.RESULT_FILES,
    tables.TRIALS,
    tables.ANALYSES_LATENTS,
    tables.OTHER_LATENTS,
    tables.REJECTED_RESULTS,
    tables.UNCLAIMED_FOLDERS,
)
Outcomes = dict[str, tuple[str, str | None]]


@pytest.fixture(scope="session")
def sample_results(sample_world: Path) -> Path:
    """Return the folder with the result folders of the sample world, which no test may change."""
    return sample_world / "results"


@pytest.fixture(scope="session")
def sample_endpoint(sample_results: Path) -> Iterator[Endpoint]:
    """Serve the result folders of the sample world."""
    with endpoint_before(sample_results, is_still=True) as endpoint:
        yield endpoint


def store_at(
    place: Endpoint | Path | str, concurrency: int = 16, silence: float = 20.0
) -> ResultStore:
    """Return the store of an endpoint, a folder or a URL; waits between attempts are short."""
    where = {"results_root": "s3://", "s3_endpoint_url": getattr(place, "url", place)}
    if isinstance(place, Path):
        where = {"results_root": str(place)}
    store = open_result_store(load_settings(**where, s3_concurrency=concurrency))
    store._retries.first_wait_seconds = 0.001
    store._retries.longest_silence_seconds = silence
    return store


def refresh_results(
    lake: Lake,
    place: Endpoint | Path,
    *,
    now: Clock | None = None,
    look_back: timedelta = timedelta(days=7),
    collections: list[str] | None = None,
) -> dict[str, tuple[Any, Any]]:
    """Bring the result tables of a lake up to date; return the reports by collection."""
    now = now or Clock()
    with store_at(place) as store:
        return {
            name: (
                refresh_result_files(lake, store, name, now=now, look_back=look_back),
                refresh_trials(lake, store, name, now=now),
            )
            for name in collections or lake.collections()
        }


def results_of(lake: Lake) -> dict[str, pl.DataFrame]:
    """Return the result tables of a lake without the times of looking."""
    times = ("checked_at", "extracted_at", "last_modified", "etag")
    return {table.name: rows_of(lake, table).drop(times, strict=False) for table in RESULT_TABLES}


@pytest.fixture(scope="session")
def with_results(
    built: Built, sample_endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory
) -> Lake:
    """Return the lake of the sample world with everything of its results, for reading only."""
    lake = Lake(shutil.copytree(built.lake.storage.root, tmp_path_factory.mktemp("results") / "l"))
    sample_endpoint.forget()
    refresh_results(lake, sample_endpoint)
    return lake


# --- the whole sample -------------------------------------------------------------------------


def test_every_successful_fit_ends_loaded_or_without_a_file(with_results: Lake):
    fits = rows_of(with_results, tables.ANALYSES).filter(
        (pl.col("outcome") == "success") & pl.col("n_trials").is_not_null()
    )
    loaded = rows_of(with_results, tables.ANALYSES_LATENTS)
    key = ["source_collection", "record_id", "process_index"]
    files = rows_of(with_results, tables.RESULT_FILES).filter(
        pl.col("file_name").str.contains("results_mle|docDB_mle|docDB_record")
    )
    assert fits.join(loaded, on=key, how="anti").join(files, on=key, how="semi").is_empty()
    assert loaded.height > 250
    assert rows_of(with_results, tables.REJECTED_RESULTS).is_empty()


def test_trials_are_what_the_result_files_say(with_results: Lake, sample_results: Path):
    """As read by the json module alone, for every file of one collection."""
    trials = rows_of(with_results, tables.TRIALS, MAIN)
    assert not any(column.is_nan().any() for column in trials.select(pl.col(pl.Float64)))
    locations = rows_of(with_results, tables.RESULT_FOLDERS, MAIN)
    latents = rows_of(with_results, tables.ANALYSES_LATENTS, MAIN)
    from_files = latents.filter(pl.col("source_file") != "document").sample(40, seed=1)
    for record_id, process, file in from_files.select(
        "record_id", "process_index", "source_file"
    ).iter_rows():
        rows = trials.filter(record_id=record_id, process_index=process).sort("trial")
        (location,) = locations.filter(record_id=record_id)["location"].unique()
        content = json.loads((sample_results / location.removeprefix("s3://") / file).read_text())
        fit = content.get("analysis_results", content)
        n = fit["n_trials"]
        assert rows["trial"].to_list() == list(range(n + 1))
        choices = [int(side) for side in fit["fit_settings"]["fit_choice_history"]]
        assert rows["choice"].to_list() == [*choices, None]
        latents = fit["fitted_latent_variables"]
        assert rows["choice_prob_left"].to_list() == [*latents["choice_prob"][0], None]
        kernel = [None if math.isnan(value) else value for value in latents["choice_kernel"][1]]
        assert rows["choice_kernel_right"].to_list() == kernel
        if "q_value" in latents:
            rewards = fit["fit_settings"]["fit_reward_history"]
            expected = [
                reward - latents["q_value"][side][trial]
                for trial, (side, reward) in enumerate(zip(choices, rewards, strict=True))
            ]
            assert rows["rpe"].to_list() == [*expected, None]


def test_untrimmed_documents_without_a_file_are_read_from_the_change_log(
    sample_lake: Lake, tmp_path: Path
):
    (tmp_path / "nothing").mkdir()
    refresh_results(sample_lake, tmp_path / "nothing")
    loaded = rows_of(sample_lake, tables.ANALYSES_LATENTS)
    assert loaded.height > 0
    assert set(loaded["source_file"]) == {"document"}
    assert rows_of(sample_lake, tables.TRIALS)["choice"].drop_nulls().is_in([0, 1]).all()


def test_the_endpoint_saw_only_reads(with_results: Lake, sample_endpoint: Endpoint):
    assert {method for method, _ in sample_endpoint.requests} == {"GET"}
    assert len(sample_endpoint.requests) > 250


def test_all_checks_pass_and_the_views_list_what_is_missing(
    world: Path, with_results: Lake, sample_results: Path
):
    with connect(world / "warehouse.duckdb") as warehouse:
        checked = run_checks(warehouse, read_sql_files(Kind.CHECK))
        assert [check.name for check, found in checked if found] == []
        orphans = warehouse.sql("SELECT location FROM orphan_result_folders").pl()["location"]
        missing = warehouse.execute(
            "SELECT missing, folder_status, location FROM missing_result_files"
        ).fetchall()
        (analyses, with_trials, with_figures) = warehouse.execute(
            "SELECT count(*), count(*) FILTER (has_trials), count(figure_url) "
            "FROM analyses_with_files"
        ).fetchone()
    claimed = set(rows_of(with_results, tables.ANALYSES)["result_location"])
    there = {
        f"s3://{path.parent.relative_to(sample_results).as_posix()}"
        for path in sample_results.rglob("forager.pkl")
    }
    assert set(orphans) == there - claimed
    assert len(orphans) == 2
    for what, status, location in missing:
        folder = sample_results / location.removeprefix("s3://")
        assert folder.exists() == (status == "listed")
        pattern = "fitted_session.png" if what == "figure" else "*_mle_fitting.json"
        assert not list(folder.glob(pattern))
    assert {what for what, _, _ in missing} == {"figure", "result_json"}
    assert analyses == with_results.tables.count_rows(tables.ANALYSES)
    assert with_trials == with_results.tables.count_rows(tables.ANALYSES_LATENTS)
    assert 0 < with_figures <= with_trials + len(missing)


def test_addresses_of_files_are_https(with_results: Lake):
    urls = rows_of(with_results, tables.RESULT_FILES)["url"]
    assert urls.str.contains(r"^https://[a-z0-9-]+\.s3\.amazonaws\.com/.+/.+$").all()


def test_a_second_run_requests_and_writes_nothing(
    with_results: Lake, sample_endpoint: Endpoint, tmp_path: Path
):
    lake = Lake(shutil.copytree(with_results.storage.root, tmp_path / "again"))
    before = tables_of(lake)
    sample_endpoint.forget()
    # Past the age limit, so that missing files are no longer awaited.
    day_later = Clock(NOON + timedelta(days=1))
    reports = refresh_results(lake, sample_endpoint, now=day_later, look_back=timedelta(0))
    assert sample_endpoint.requests == []
    assert_same(before, tables_of(lake))
    assert {report.partitions_written for pair in reports.values() for report in pair} == {0}


def test_a_folder_and_an_object_store_give_the_same_tables(with_results: Lake, world: Path):
    # The world was read from a folder.
    assert_same(results_of(with_results), results_of(Lake(world / "lake")))


@pytest.mark.slow
def test_listing_folder_by_folder_finds_the_same_as_listing_everything(
    with_results: Lake,
    sample_lake: Lake,
    sample_endpoint: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(ResultStore, "list_everything", lambda *_args, **_more: None)
    refresh_results(sample_lake, sample_endpoint)
    expected, found = results_of(with_results), results_of(sample_lake)
    for name in ("result_folders", "result_files", "trials"):
        assert found[name].equals(expected[name])


# --- a few records ----------------------------------------------------------------------------


@dataclass
class Few:
    """A dozen records with their folders in a bucket of their own."""

    folder: Path
    documents: list[dict[str, Any]]
    lake: Lake
    clock: Clock

    def result(self, number: int) -> Path:
        """Return the result file of a record."""
        bucket = self.folder / "results" / PROTOTYPE_BUCKET
        return bucket / self.documents[number]["_id"] / RESULT_JSON

    def address(self, path: Path) -> str:
        """Return the address of the folder in which a file lies."""
        return f"s3://{path.parent.relative_to(self.folder / 'results').as_posix()}"

    def load(self) -> None:
        """Bring the lake up to date with the documents."""
        write_dump(self.folder / "dump", self.documents)
        load(self.folder / "dump", self.lake, now=self.clock)

    def refresh(self, **more: Any) -> tuple[Any, Any]:
        """Bring the result tables up to date with the folders."""
        root = more.pop("place", self.folder / "results")
        return refresh_results(self.lake, root, now=self.clock, **more)[MAIN]

    def outcomes(self) -> Outcomes:
        """Return the state of each record: loaded, missing or rejected, with the reason."""
        ids = {document["_id"]: ("nowhere", None) for document in self.documents}
        for one in rows_of(self.lake, tables.RESULT_FOLDERS).iter_rows(named=True):
            if one["status"] != "listed":
                ids[one["record_id"]] = (one["status"], one["message"])
        for one in rows_of(self.lake, tables.ANALYSES_LATENTS).iter_rows(named=True):
            ids[one["record_id"]] = ("loaded", None)
        for one in rows_of(self.lake, tables.REJECTED_RESULTS).iter_rows(named=True):
            ids[one["record_id"]] = ("rejected", one["reason"])
        return ids


@pytest.fixture(scope="session")
def template(
    sample_dump: Path, sample_results: Path, tmp_path_factory: pytest.TempPathFactory
) -> Few:
    """Return a dozen successful prototype records, each with a result file and a figure."""
    folder = tmp_path_factory.mktemp("few")
    chosen = []
    for document in read_dump(sample_dump):
        location = str(document.get("s3_location")).removeprefix("s3://")
        files = {path.name for path in (sample_results / location).glob("*")}
        trimmed = "fitted_latent_variables" not in json.dumps(document)
        if document.get("status") == "success" and trimmed and RESULT_JSON in files:
            shutil.copytree(sample_results / location, folder / "results" / location)
            chosen.append(document)
        if len(chosen) == 12:
            break
    few = Few(folder, chosen, Lake(folder / "lake"), Clock())
    few.load()
    return few


@pytest.fixture
def few(template: Few, tmp_path: Path) -> Few:
    """Return a dozen records that a test may change."""
    shutil.copytree(template.folder, tmp_path, dirs_exist_ok=True)
    return Few(tmp_path, deepcopy(template.documents), Lake(tmp_path / "lake"), Clock())


def test_a_record_that_is_deleted_loses_its_rows_in_every_table(few: Few):
    few.refresh()
    gone = few.documents.pop(0)["_id"]
    few.load()
    _, report = few.refresh()
    assert report.removed == 1
    for table in RESULT_TABLES:
        if "record_id" in table.column_names:
            assert gone not in set(rows_of(few.lake, table)["record_id"])
    assert rows_of(few.lake, tables.ANALYSES_LATENTS).height == 11


def test_a_record_whose_session_moves_takes_its_rows_to_another_month(few: Few):
    few.refresh()
    before = rows_of(few.lake, tables.TRIALS)
    few.documents[0] |= {"session_date": "2031-01-05"}
    few.load()
    few.refresh()
    assert "2031-01" in few.lake.tables.months(tables.TRIALS, MAIN)
    assert rows_of(few.lake, tables.TRIALS).equals(before)


def test_only_files_with_another_etag_are_read_again(few: Few):
    few.refresh()
    content = json.loads(few.result(3).read_text())
    fit = content["analysis_results"]
    del fit["n_trials"]
    n = len(fit["fit_settings"]["fit_choice_history"])
    fit["fitted_latent_variables"]["novel"] = [7.0] * n
    few.result(3).write_text(json.dumps(content))
    few.clock.move(days=8)
    files, trials = few.refresh()
    assert (files.listed, trials.read, trials.loaded) == (12, 1, 1)
    others = rows_of(few.lake, tables.OTHER_LATENTS)
    assert others.height == n
    assert others["name"].unique().to_list() == ["novel"]


def test_the_empty_folder_of_a_recent_record_is_checked_again(few: Few):
    late = few.result(0).parent
    shutil.move(late, few.folder / "late")
    few.refresh()
    assert few.outcomes()[few.documents[0]["_id"]] == ("missing", None)
    few.clock.move(days=1)
    files, _ = few.refresh()
    assert (files.listed, files.missing) == (1, 1)
    shutil.move(few.folder / "late", late)
    files, trials = few.refresh()
    assert (files.listed, files.present, trials.loaded) == (1, 1, 1)
    few.clock.move(days=1)
    assert few.refresh()[0].listed == 0


def test_the_empty_folder_of_an_old_record_is_not_checked_again(few: Few):
    shutil.rmtree(few.result(0).parent)
    few.refresh()
    few.clock.move(days=3)
    assert few.refresh(look_back=timedelta(days=2))[0].listed == 0
    assert few.outcomes()[few.documents[0]["_id"]] == ("missing", None)


def test_a_folder_that_lacks_its_figure_is_incomplete(few: Few):
    (few.result(0).parent / "fitted_session.png").unlink()
    few.refresh()
    assert few.refresh()[0].listed == 1


def test_a_folder_is_checked_again_if_its_files_were_not_written(
    few: Few, monkeypatch: pytest.MonkeyPatch
):
    late = few.documents.pop()
    few.load()
    few.refresh()
    few.documents.append(late)
    few.load()
    replace_rows = Tables.replace_rows

    def interrupted(self: Tables, table: tables.Table, *partition: Any, **rows: Any) -> bool:
        if table is tables.RESULT_FILES:
            raise KeyboardInterrupt
        return replace_rows(self, table, *partition, **rows)

    with monkeypatch.context() as patch:
        patch.setattr(Tables, "replace_rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            few.refresh()
    few.clock.move(days=1)
    assert few.refresh(look_back=timedelta(0))[0].listed == 1
    assert few.outcomes()[late["_id"]] == ("loaded", None)


def test_the_folder_of_a_changed_record_is_checked_again(few: Few):
    few.refresh()
    few.clock.move(days=1)
    few.documents[0] |= {"analysis_time_spent_in_sec": 1.0}
    few.load()
    few.clock.move(hours=1)
    assert few.refresh()[0].listed == 1


def test_two_collections_may_name_the_same_folder(few: Few):
    write_dump(few.folder / "dump", few.documents[:4], "dynamic-foraging-analysis")
    few.load()
    few.refresh()
    trials = rows_of(few.lake, tables.TRIALS)
    both = trials.filter(pl.col("source_collection") == "dynamic-foraging-analysis")
    same = trials.filter(pl.col("source_collection") == MAIN).join(both, on="record_id", how="semi")
    assert both.drop("source_collection").equals(same.drop("source_collection"))
    assert rows_of(few.lake, tables.UNCLAIMED_FOLDERS).is_empty()


def test_only_what_no_collection_claims_is_unclaimed_once_all_are_loaded(few: Few):
    orphan = few.result(0).parents[1] / ("0" * 64) / "forager.pkl"
    orphan.parent.mkdir()
    orphan.write_bytes(b"left by a job that ended early")
    lake = Lake(few.folder / "one after the other")
    for name, documents in (("first", few.documents[:5]), ("second", few.documents[5:])):
        write_dump(few.folder / "both", documents, name)
        load(few.folder / "both", lake, now=few.clock)
        refresh_results(lake, few.folder / "results", now=few.clock, collections=[name])
    assert set(rows_of(lake, tables.UNCLAIMED_FOLDERS)["location"]) > {few.address(orphan)}
    assert refresh_unclaimed_folders(lake) == 2
    rows = rows_of(lake, tables.UNCLAIMED_FOLDERS)
    unclaimed = rows.select("source_collection", "location").rows()
    assert set(unclaimed) == {(name, few.address(orphan)) for name in ("first", "second")}
    before = tables_of(lake)
    refresh_unclaimed_folders(lake)
    assert_same(before, tables_of(lake))


def test_an_untrimmed_document_that_changed_and_changed_back_is_read_once(few: Few):
    file = few.result(0)
    few.documents[0] |= json.loads(file.read_text())
    file.unlink()
    for comment in ("first", "second", "first"):
        few.documents[0]["comment"] = comment
        few.load()
    _, report = few.refresh()
    assert (report.read, report.loaded) == (11, 12)
    assert report.rows == rows_of(few.lake, tables.TRIALS).height


def test_a_file_of_another_fit_than_the_document_is_rejected_until_they_agree(few: Few):
    few.refresh()
    few.documents[0]["analysis_results"]["n_trials"] += 1
    few.load()
    few.refresh()
    record_id = few.documents[0]["_id"]
    assert few.outcomes()[record_id] == ("rejected", "wrong_length")
    assert few.refresh()[1].read == 0
    few.documents[0]["analysis_results"]["n_trials"] -= 1
    few.clock.move(days=1)
    few.load()
    few.refresh()
    assert few.outcomes()[record_id] == ("loaded", None)


def test_rejected_files_are_read_again_when_the_reader_changes(
    few: Few, monkeypatch: pytest.MonkeyPatch
):
    few.result(0).write_text("{}")
    few.refresh()
    assert few.refresh()[1].read == 0
    monkeypatch.setattr("aind_etl.results.trials.reader_version", lambda: "later")
    assert few.refresh()[1].read == 1


@pytest.mark.parametrize("decides", [result_json.read_result, trial_rows.ParsedResults])
def test_the_version_of_the_reader_covers_the_code_that_rejects_files(
    decides: Callable[..., object], monkeypatch: pytest.MonkeyPatch
):
    module = Path(inspect.getfile(decides))
    before = trials.reader_version()
    read_bytes = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: b"changed" if path == module else read_bytes(path)
    )
    assert trials.reader_version.__wrapped__() != before


def test_a_month_of_many_records_is_written_in_parts_that_add_up(
    few: Few, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    few.refresh()
    expected = results_of(few.lake)
    monkeypatch.setattr("aind_etl.results.trials._BATCH_RECORDS", 5)
    monkeypatch.setattr("aind_etl.results.inventory._BATCH_FOLDERS", 5)
    again = Few(few.folder, few.documents, Lake(tmp_path / "again"), few.clock)
    again.load()
    again.refresh()
    assert_same(expected, results_of(again.lake))


@pytest.fixture
def framework_document(sample_dump: Path, sample_results: Path) -> dict[str, Any]:
    """Return a document of the framework that has a result file, with three processes."""
    folders = sample_results / FRAMEWORK_FOLDERS
    document = next(
        one
        for one in read_dump(sample_dump)
        if (folders / one["_id"] / FRAMEWORK_RESULT_JSON).is_file()
    )
    (process,) = document["processing"]["data_processes"]
    document["processing"]["data_processes"] = [deepcopy(process) for _ in range(3)]
    return document


def test_the_processes_of_a_record_stay_together_even_in_two_months(
    framework_document: dict[str, Any],
    sample_results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    document = framework_document
    outputs = document["processing"]["data_processes"][0]["output_parameters"]
    outputs["session_date"] = "2001-01-05"
    outputs["fitting_results"]["n_trials"] += 1
    between = deepcopy(document) | {"_id": "between"}
    for process in between["processing"]["data_processes"]:
        process["output_parameters"]["session_date"] = "2002-01-05"
    few = Few(tmp_path, [document, between], Lake(tmp_path / "lake"), Clock())
    few.load()
    monkeypatch.setattr(trials, "_BATCH_RECORDS", 1)
    few.refresh(place=sample_results)
    latents = rows_of(few.lake, tables.ANALYSES_LATENTS).filter(record_id=document["_id"])
    rejected = rows_of(few.lake, tables.REJECTED_RESULTS).filter(record_id=document["_id"])
    assert sorted(latents["process_index"]) == [1, 2]
    assert rejected["process_index"].to_list() == [0]


def test_all_processes_of_a_record_whose_folder_is_awaited_keep_their_rows(
    framework_document: dict[str, Any],
    sample_results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    document = framework_document
    place = FRAMEWORK_FOLDERS, document["_id"]
    results = tmp_path / "results"
    shutil.copytree(sample_results.joinpath(*place), results.joinpath(*place))
    results.joinpath(*place, inventory.FIGURE).unlink()
    outputs = document["processing"]["data_processes"][1]["output_parameters"]
    del outputs["fitting_results"]["n_trials"]
    few = Few(tmp_path, [document], Lake(tmp_path / "lake"), Clock())
    few.load()
    monkeypatch.setattr(inventory, "_BATCH_FOLDERS", 1)
    for _ in range(2):
        assert few.refresh()[0].listed == 1
        folders = rows_of(few.lake, tables.RESULT_FOLDERS)
        assert sorted(folders["process_index"]) == [0, 1, 2]


# --- faults -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def few_served(template: Few) -> Iterator[Endpoint]:
    """Serve the folders of a dozen records, and copies of them in a bucket of that name."""
    served = template.folder.with_name("few-served")
    shutil.copytree(template.folder / "results", served)
    shutil.copytree(template.folder / "results", served / "copies")
    with endpoint_before(served, is_still=True) as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(few_served: Endpoint) -> Endpoint:
    """Return an endpoint with the folders of a dozen records, which fails on request."""
    few_served.forget()
    return few_served


def on_file(few: Few, number: int, fault: Fault, times: int = 10**9) -> Callable[..., Fault | None]:
    """Return faults that spoil the first answers for one record's result file."""
    record_id = few.documents[number]["_id"]

    def faults(path: str, asked: int) -> Fault | None:
        return fault if f"/{record_id}/{RESULT_JSON}" in path and asked < times else None

    return faults


LASTING = {
    "gone": (error(404, "NoSuchKey"), "gone"),
    "refused": (error(403, "AccessDenied"), "refused"),
    "failing": (error(500, "InternalError"), "unreachable"),
    "throttled": (Fault(503, SLOW_DOWN), "unreachable"),
    "cut": (Fault(cut=True), "unreachable"),
    "a page": (Fault(body=PAGE, headers={"Content-Type": "text/html"}), "not_json"),
    "no JSON": (Fault(body='{"analysis_results": {'), "not_json"),
    "other JSON": (Fault(body='["nothing", "of", "this"]'), "wrong_type"),
    "empty": (Fault(body=b""), "empty"),
}


def test_each_record_ends_loaded_or_rejected_whatever_the_store_answers(
    few: Few, endpoint: Endpoint
):
    faults = [on_file(few, number, fault) for number, (fault, _) in enumerate(LASTING.values())]
    endpoint.faults = lambda path, asked: next(
        (found for one in faults if (found := one(path, asked))), None
    )
    _, report = few.refresh(place=endpoint)
    outcomes = list(few.outcomes().values())
    assert outcomes == [
        *(("rejected", reason) for _, reason in LASTING.values()),
        *[("loaded", None)] * 3,
    ]
    assert (report.loaded, report.rejected, report.unreachable) == (3, 4, 5)
    for row in rows_of(few.lake, tables.REJECTED_RESULTS).iter_rows(named=True):
        assert row["message"].endswith(("again.", "again when its content changes."))

    endpoint.forget()
    _, report = few.refresh(place=endpoint)
    assert (report.read, report.loaded) == (5, 5)
    assert rows_of(few.lake, tables.REJECTED_RESULTS).height == 4


@pytest.mark.parametrize(
    "fault",
    [
        error(500, "InternalError"),
        Fault(503, SLOW_DOWN),
        Fault(503, SLOW_DOWN, {"Retry-After": "0.01"}),
        Fault(429, ""),
        Fault(cut=True),
    ],
    ids=["500", "slow down", "retry after", "429", "cut"],
)
def test_a_burst_of_faults_changes_nothing(few: Few, endpoint: Endpoint, fault: Fault):
    endpoint.faults = lambda _path, asked: fault if asked < 3 else None
    few.refresh(place=endpoint)
    assert set(few.outcomes().values()) == {("loaded", None)}


def test_the_wait_that_a_store_asks_for_is_kept(
    few: Few, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
):
    waited = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        waited.append(seconds)
        await sleep(0)

    endpoint.faults = on_file(few, 0, Fault(503, SLOW_DOWN, {"Retry-After": "7"}), times=2)
    monkeypatch.setattr("aind_etl.results.store.asyncio.sleep", note)
    few.refresh(place=endpoint)
    assert sum(seconds >= 7 for seconds in waited) == 2


@pytest.mark.slow
def test_a_file_larger_than_the_limit_is_not_read(few: Few):
    with few.result(0).open("wb") as file:
        file.truncate(LARGEST_FILE_BYTES + 1)
    with endpoint_before(few.folder / "results") as endpoint:
        # Another one has grown since it was listed.
        endpoint.faults = on_file(few, 1, Fault(body=bytes(LARGEST_FILE_BYTES + 1)))
        few.refresh(place=endpoint)
        asked = [path for _, path in endpoint.requests if few.documents[0]["_id"] in path]
    outcomes = few.outcomes()
    for document in few.documents[:2]:
        assert outcomes.pop(document["_id"]) == ("rejected", "too_large")
    assert set(outcomes.values()) == {("loaded", None)}
    assert not [path for path in asked if RESULT_JSON in path]


@pytest.mark.parametrize(
    ("fault", "status"),
    [(error(403, "AccessDenied"), "refused"), (error(500, "InternalError"), "unreachable")],
)
def test_a_folder_that_cannot_be_listed_has_the_reason_as_its_status(
    few: Few, endpoint: Endpoint, fault: Fault, status: str
):
    record_id = few.documents[0]["_id"]
    endpoint.faults = lambda path, _asked: (
        fault if "prefix=" in path and (record_id in path or "prefix=&" in path) else None
    )
    few.refresh(place=endpoint)
    outcomes = few.outcomes()
    assert outcomes[record_id][0] == status
    assert "again" in outcomes[record_id][1]
    endpoint.forget()
    few.refresh(place=endpoint)
    assert few.outcomes()[record_id] == ("loaded", None)


def test_an_address_of_a_whole_bucket_is_not_listed_to_its_end(
    few: Few, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(results_store, "MOST_FILES", 5)
    few.documents[0]["s3_location"] = f"s3://{PROTOTYPE_BUCKET}"
    few.load()
    few.refresh()
    outcomes = few.outcomes()
    status, message = outcomes.pop(few.documents[0]["_id"])
    assert status == "too_many_files"
    assert "expected the folder of one record" in message
    assert set(outcomes.values()) == {("loaded", None)}


def test_a_bucket_that_is_removed_while_a_folder_is_listed_leaves_no_part_of_it(tmp_path: Path):
    async def page(_location: str, _bounds: object, token: str) -> tuple[list[StoredFile], str]:
        if token:
            raise FileNotFoundError("NoSuchBucket")
        return [StoredFile("first.json", 1, "e", NOON)], "next"

    with store_at(tmp_path) as store:
        store._backend.page = page
        assert list(store.list_folders(["s3://b/one"])) == [FolderListing("s3://b/one")]


def test_a_file_name_that_is_not_utf_8_is_shown_escaped(few: Few):
    (few.result(0).parent / os.fsdecode(b"\xff.txt")).write_text("x")
    few.refresh()
    assert r"\xff.txt" in set(rows_of(few.lake, tables.RESULT_FILES)["file_name"])
    assert set(few.outcomes().values()) == {("loaded", None)}


def test_a_folder_on_a_disk_holds_no_links_and_a_file_holds_nothing(few: Few):
    file = few.result(0)
    file.with_name("link.json").symlink_to(few.result(1))
    folder = few.address(file)
    with store_at(few.folder / "results") as store:
        (of_folder,) = store.list_folders([folder])
        (of_file,) = store.list_folders([f"{folder}/{file.name}"])
    names = {one.name for one in of_folder.files}
    assert file.name in names
    assert "link.json" not in names
    assert of_file.files == ()


def test_a_folder_on_a_disk_that_fails_is_not_taken_for_an_empty_one(
    few: Few, monkeypatch: pytest.MonkeyPatch
):
    failing = few.result(0).parent
    scandir = os.scandir

    def scan_or_fail(path: Any) -> Any:
        if Path(path) == failing:
            raise OSError(errno.EIO, "Input/output error")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan_or_fail)
    with store_at(few.folder / "results") as store:
        (listing,) = store.list_folders([few.address(few.result(0))])
        assert store.list_everything(f"s3://{PROTOTYPE_BUCKET}", most_pages=100) is None
    assert listing.problem.reason == "unreachable"


@pytest.mark.parametrize("location", ["memory://", "memory://folder"])
def test_files_at_any_address_that_fsspec_knows_are_read(location: str):
    near = f"{location}/table.parquea"
    fsspec.filesystem("memory").pipe({near: b"", f"{location}/table.parquet": b"content"})
    with open_result_store(load_settings(), location) as store:
        assert store.find_etag(location, "table.parquet").startswith("7-")
        assert store.find_etag(location, "table.parque") == ""
        (answer,) = store.read_files([FileRequest(location, "table.parquet", 0)])
    assert answer.content == b"content"


def test_a_store_that_does_not_answer_ends_the_run_with_advice(few: Few):
    store = store_at("http://127.0.0.1:9", concurrency=2)
    with store, pytest.raises(SourceError, match=r"127\.0\.0\.1 does not answer .*--no-results"):
        refresh_result_files(few.lake, store, MAIN)


def test_a_bucket_that_lies_elsewhere_is_found_there(few: Few, endpoint: Endpoint):
    elsewhere = error(301, "PermanentRedirect", x_amz_bucket_region="eu-west-1")
    endpoint.faults = lambda _path, _asked: elsewhere if len(endpoint.requests) == 1 else None
    requests = [FileRequest(one["s3_location"], RESULT_JSON, 100) for one in few.documents]
    with store_at(endpoint, concurrency=1) as store:
        answers = list(store.read_files(requests))
    assert [one.content for one in answers] == [few.result(n).read_bytes() for n in range(12)]
    # It is looked for once, not for every file.
    assert len(endpoint.requests) == 1 + 12


@contextmanager
def a_listener_that_hangs_up() -> Iterator[tuple[str, list[int]]]:
    """Give the URL of a listener that ends every connection, and how many there were."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        count = [0]

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    server.accept()[0].close()
                    count[0] += 1

        thread = threading.Thread(target=hang_up)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", count
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_silent_store_is_soon_given_up(few: Few):
    with a_listener_that_hangs_up() as (url, connections):
        store = store_at(url, concurrency=4, silence=0.0)
        with store, pytest.raises(SourceError, match=r"cannot be reached .*--no-results") as raised:
            refresh_result_files(few.lake, store, MAIN)
    # No retries for each folder, and not even for each request under way.
    assert connections[0] <= 2 * 4
    assert "the next run continues from there" in str(raised.value)
    few.refresh()
    assert set(few.outcomes().values()) == {("loaded", None)}


def test_no_error_shows_credentials(few: Few, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "TESTER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of no value")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-session-of-theirs")
    monkeypatch.setenv("AIND_ETL_S3_ANON", "false")
    request = FileRequest(few.documents[0]["s3_location"], RESULT_JSON, 100)
    with a_listener_that_hangs_up() as (url, _), store_at(url, silence=100.0) as store:
        (answer,) = store.read_files([request])
    assert answer.problem.reason == "unreachable"
    assert url in answer.problem.message
    for secret in ("TESTER", "a-session-of-theirs", "Signature"):
        assert secret not in answer.problem.message


def test_one_file_that_never_arrives_does_not_stop_the_others(few: Few, endpoint: Endpoint):
    endpoint.faults = on_file(few, 0, Fault(cut=True))
    with store_at(endpoint, silence=0.0) as store:
        refresh_result_files(few.lake, store, MAIN)
        refresh_trials(few.lake, store, MAIN)
    assert few.outcomes()[few.documents[0]["_id"]] == ("rejected", "unreachable")
    assert sum(outcome == ("loaded", None) for outcome in few.outcomes().values()) == 11


def test_a_run_that_is_killed_is_completed_by_the_next(
    few: Few, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    few.refresh()
    expected = results_of(few.lake)
    lake = Lake(tmp_path / "killed")
    load(few.folder / "dump", lake, now=few.clock)
    monkeypatch.setattr(trials, "_BATCH_RECORDS", 3)
    monkeypatch.setattr(inventory, "_BATCH_FOLDERS", 3)
    kills = 0
    # Each run gets a little further before it is killed at another of its operations on the disk.
    for operation in (1, 4, 9, 6, 11, 7, 12):
        with pytest.MonkeyPatch.context() as patch, suppress(Killed):
            disk = Disk(patch, killed_at=operation)
            refresh_results(lake, few.folder / "results", now=few.clock)
        kills += disk.is_dead
    assert kills >= 5
    refresh_results(lake, few.folder / "results", now=few.clock)
    assert_same(expected, results_of(lake))


REFRESH = f"""
import json, os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from aind_etl.lake import Lake
from aind_etl.results import open_result_store, refresh_result_files, refresh_trials
from aind_etl.results import trials, inventory
from aind_etl.settings import load_settings
trials._BATCH_RECORDS = inventory._BATCH_FOLDERS = 3
lake, settings, renames_left = Lake(Path(sys.argv[1])), json.loads(sys.argv[2]), int(sys.argv[3])
# Not the time to list everything: folder by folder.
lake.update_state({MAIN!r}, {{"results_listed_at": datetime.now(UTC)}})
def rename_or_die(*paths, rename=os.replace):
    global renames_left
    if renames_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    renames_left -= 1
    rename(*paths)
os.replace = rename_or_die
with open_result_store(load_settings(**settings)) as store:
    refresh_result_files(lake, store, {MAIN!r})
    refresh_trials(lake, store, {MAIN!r})
"""


def command_to_refresh(few: Few, renames: int = -1, **settings: str) -> list[Any]:
    """Return the command of a run in batches of three, which kills itself before a rename."""
    lake = few.lake.storage.root
    return [sys.executable, "-c", REFRESH, lake, json.dumps(settings), str(renames)]


@pytest.mark.slow
def test_a_run_whose_process_is_killed_three_times_is_completed_by_the_next(
    few: Few, tmp_path: Path
):
    undisturbed = Few(few.folder, few.documents, Lake(tmp_path / "undisturbed"), few.clock)
    undisturbed.load()
    undisturbed.refresh()
    root = str(few.folder / "results")
    # Each run gets a little further: the last one has the trials of a batch, but not its latents.
    for renames in (1, 4, 8):
        killed = subprocess.run(command_to_refresh(few, renames, results_root=root), check=False)
        assert killed.returncode == -signal.SIGKILL
    few.refresh()
    assert_same(results_of(undisturbed.lake), results_of(few.lake))


@pytest.mark.slow
@pytest.mark.parametrize("asked_for", ["prefix=", RESULT_JSON], ids=["listing", "reading"])
def test_an_interruption_loses_at_most_the_current_batch(
    few: Few, endpoint: Endpoint, asked_for: str
):
    asked: list[str] = []
    started = threading.Event()

    def interrupt(path: str, _times: int) -> None:
        if asked_for in path:
            asked.append(path)
            if len(asked) == 8:
                started.wait()
                process.send_signal(signal.SIGINT)

    endpoint.faults = interrupt
    command = command_to_refresh(few, results_root="s3://", s3_endpoint_url=endpoint.url)
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        started.set()
        _, output = process.communicate()
    assert process.returncode == -signal.SIGINT, output
    assert output.strip().endswith(b"KeyboardInterrupt")
    before = list(asked)
    known = tables.RESULT_FOLDERS if asked_for == "prefix=" else tables.ANALYSES_LATENTS
    kept = set(rows_of(few.lake, known)["record_id"])
    assert 6 <= len(kept) < 12
    endpoint.faults = lambda path, _times: asked.append(path) if asked_for in path else None
    few.refresh(place=endpoint)
    after = asked[len(before) :]
    assert len(before) <= 9
    assert len(after) == 12 - len(kept)
    assert not [path for path in after if any(record_id in path for record_id in kept)]
    assert set(few.outcomes().values()) == {("loaded", None)}


# --- the store --------------------------------------------------------------------------------


@pytest.mark.parametrize(("is_anonymous", "signer"), [("true", None), ("false", "TESTER")])
def test_requests_are_signed_only_if_the_settings_say_so(
    few: Few,
    endpoint: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    is_anonymous: str,
    signer: str | None,
):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "TESTER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of no value")
    monkeypatch.setenv("AIND_ETL_S3_ANON", is_anonymous)
    folder = few.documents[0]["s3_location"]
    with store_at(endpoint) as store:
        (listing,) = store.list_folders([folder])
        (answer,) = store.read_files([FileRequest(folder, RESULT_JSON, 100)])
    assert listing.problem is None
    assert answer.content == few.result(0).read_bytes()
    assert endpoint.signers == [signer, signer]


def test_pages_of_any_size_hold_the_same_files(endpoint: Endpoint):
    home = f"s3://{PROTOTYPE_BUCKET}"
    with store_at(endpoint) as store:
        whole = store.list_everything(home, most_pages=100)
    small = store_at(endpoint)
    small._backend._page_files = 3
    with small:
        paged = small.list_everything(home, most_pages=10_000)
        assert small.list_everything(home, most_pages=5) is None
    order = ["location", "file_name"]
    assert paged.sort(order).equals(whole.sort(order))


@pytest.mark.slow
def test_untaken_answers_hold_back_requests(few: Few, endpoint: Endpoint):
    locations = [document["s3_location"] for document in few.documents] * 2
    with store_at(endpoint, concurrency=2) as store:
        answers = store.list_folders(locations)
        next(answers)
        for _ in range(100):
            if len(endpoint.requests) >= 9:
                break
            signal.sigtimedwait([], 0.05)
        signal.sigtimedwait([], 0.2)
        assert len(endpoint.requests) <= 9
        assert len(list(answers)) == len(locations) - 1


def test_a_folder_that_replaces_the_store_must_exist(tmp_path: Path):
    store = open_result_store(load_settings(results_root=str(tmp_path / "nowhere")))
    with pytest.raises(ConfigurationError, match="AIND_ETL_RESULTS_ROOT"):
        store.__enter__()


def test_a_root_of_another_kind_is_refused():
    with pytest.raises(
        ConfigurationError, match="'ftp://somewhere'; expected a folder or an s3://"
    ):
        open_result_store(load_settings(results_root="ftp://somewhere"))


def test_a_prefix_may_replace_all_buckets(few: Few, endpoint: Endpoint):
    settings = load_settings(results_root="s3://copies", s3_endpoint_url=endpoint.url)
    with open_result_store(settings) as store:
        report = refresh_result_files(few.lake, store, MAIN, now=few.clock)
    assert report.present == 12
    assert all("copies" in path for _, path in endpoint.requests)


@pytest.mark.parametrize("location", ["s3://", "s3://bucket/../other", "/etc", "s3://../etc"])
def test_an_address_that_leads_elsewhere_is_not_followed(location: str, tmp_path: Path):
    with store_at(tmp_path) as store:
        (listing,) = store.list_folders([location])
    assert listing.problem.reason == "refused"


def test_the_sample_has_its_own_result_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AIND_ETL_RESULTS_ROOT", raising=False)
    settings = load_settings(source="sample:?sessions=1", lake=tmp_path)
    with open_result_store(settings) as store:
        assert str(tmp_path / "_sample_results") in store.name
        listed = store.list_everything("s3://aind-analysis-prod-o5171v/dynamic-foraging-nm", 10)
    assert isinstance(listed, pl.DataFrame)


def test_the_name_of_a_store_shows_no_password():
    settings = load_settings(
        results_root="s3://", s3_endpoint_url="https://me:secret@store.org:9000"
    )
    assert open_result_store(settings).name == "s3:// at store.org"
    assert "secret" not in repr(settings)
