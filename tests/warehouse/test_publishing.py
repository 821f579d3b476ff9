"""A warehouse is published only if its checks pass; otherwise readers keep the previous one."""

import shutil
from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl
import pytest
from worlds import MAIN, SMALL, Clock, load, read_dump, write_dump

from aind_etl.contract import tables
from aind_etl.lake import Lake
from aind_etl.orchestration.definitions import build_defs
from aind_etl.orchestration.jobs import PUBLISH
from aind_etl.orchestration.resources import Etl
from aind_etl.results import open_result_store, refresh_result_files
from aind_etl.settings import load_settings
from aind_etl.text import markdown_table
from aind_etl.warehouse.connection import connect
from aind_etl.warehouse.publishing import (
    AGREEMENT_CHECK,
    COLLAPSE_CHECK,
    CONTRACT_CHECK,
    ChecksFailedError,
    publish_checks,
    publish_warehouse,
)

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@pytest.fixture(scope="module")
def made(small, tmp_path_factory):
    """Return a folder with a lake and a warehouse published from it, and where it was made."""
    folder = tmp_path_factory.mktemp("publishing")
    work = folder / "work"
    shutil.copytree(str(small.lake), work / "lake", ignore=shutil.ignore_patterns("_locks"))
    publish_warehouse(Lake(work / "lake"), work / "warehouse.duckdb", max_lost_share=0.2)
    return shutil.move(work, folder / "made"), work


@pytest.fixture
def published(made):
    """Return a lake and a warehouse published from it, for a test to spoil.

    They are where they were made, since a warehouse knows the path of its lake.
    """
    kept, work = made
    shutil.copytree(kept, work)
    yield Lake(work / "lake"), work / "warehouse.duckdb"
    shutil.rmtree(work)


def rows_of(path):
    with connect(path) as connection:
        return connection.execute("SELECT count(*) FROM analyses").fetchall()[0][0]


def repeat_a_row(lake):
    """Repeat the first row of a partition of `analyses`."""
    (path, *_) = lake.tables.files(tables.ANALYSES, SMALL)
    rows = pl.read_parquet(path, hive_partitioning=False)
    pl.concat([rows, rows.head(1)]).write_parquet(path)


def test_every_check_runs_and_passes(published):
    lake, path = published
    found = publish_warehouse(lake, path, max_lost_share=0.2)
    assert [one.check for one in found.outcomes] == publish_checks()
    assert [one.check.name for one in found.outcomes if not one.holds] == []


def test_a_failed_check_leaves_the_previous_warehouse_in_place(published):
    lake, path = published
    before, count = path.stat().st_ino, rows_of(path)
    repeat_a_row(lake)
    with pytest.raises(ChecksFailedError, match="analyses_key_is_unique: 1 rows offend") as error:
        publish_warehouse(lake, path, max_lost_share=0.2)
    failed = {one.check.name: one for one in error.value.outcomes if not one.holds}
    assert "analyses_key_is_unique" in failed
    assert SMALL in failed["analyses_key_is_unique"].details
    assert "left in place" in str(error.value)
    assert (path.stat().st_ino, rows_of(path)) == (before, count)
    assert [one for one in path.parent.iterdir() if "building" in one.name] == []


def test_a_table_that_collapses_is_published_only_if_that_is_allowed(published):
    lake, path = published
    for file in lake.tables.files(tables.CROSS_VALIDATION, SMALL):
        file.unlink()
    with pytest.raises(ChecksFailedError, match=r"cross_validation from .* rows to") as error:
        publish_warehouse(lake, path, max_lost_share=0.2)
    assert COLLAPSE_CHECK in {one.check for one in error.value.outcomes if not one.holds}
    assert "--max-deleted-share 1" in str(error.value)
    with pytest.raises(ChecksFailedError) as error:
        publish_warehouse(lake, path, max_lost_share=1)
    assert COLLAPSE_CHECK not in {one.check for one in error.value.outcomes if not one.holds}


def test_a_column_whose_type_differs_from_the_contract_is_named(published):
    lake, path = published
    file = lake.tables.files(tables.ANALYSES, SMALL)[0]
    rows = pl.read_parquet(file, hive_partitioning=False)
    rows.with_columns(pl.col("n_trials").cast(pl.Float64)).write_parquet(file)
    with pytest.raises(ChecksFailedError) as error:
        publish_warehouse(lake, path, max_lost_share=0.2)
    (found,) = [one for one in error.value.outcomes if one.check == CONTRACT_CHECK]
    assert "| n_trials | int32 | double |" in found.details


def test_a_document_is_published_only_with_its_analyses(published):
    """A run may publish while another has read documents and not flattened them yet."""
    lake, path = published
    row = lake.tables.scan(tables.DOCUMENTS, SMALL).head(1).collect()
    lake.change_log(SMALL).append(row.with_columns(record_id=pl.lit("waiting")))
    outcomes = publish_warehouse(lake, path, max_lost_share=0.2).outcomes
    assert [one.check.name for one in outcomes if not one.holds] == []
    assert AGREEMENT_CHECK in {one.check for one in outcomes}
    with connect(path) as connection:
        found = connection.execute("FROM documents WHERE record_id = 'waiting'").fetchall()
    assert found == []


def test_a_first_warehouse_that_fails_a_check_is_not_published(published, tmp_path):
    lake, _ = published
    repeat_a_row(lake)
    with pytest.raises(ChecksFailedError, match="none exists yet"):
        publish_warehouse(lake, tmp_path / "new.duckdb", max_lost_share=0.2)
    assert not (tmp_path / "new.duckdb").exists()


def test_dagster_shows_each_check_and_the_run_fails(published, tmp_path):
    lake, path = published
    repeat_a_row(lake)
    settings = load_settings(lake=lake.storage.root, warehouse=path)
    job = build_defs(Etl(settings)).resolve_job_def(PUBLISH)
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        result = job.execute_in_process(instance=instance, run_config=QUIET, raise_on_error=False)
        assert not result.success
        made = {one.asset_key.to_user_string() for one in result.get_asset_materialization_events()}
        assert made == {"unclaimed_folders"}, "nothing of the warehouse"
        found = {one.check_name: one for one in result.get_asset_check_evaluations()}
    assert found.keys() >= {check.name for check in publish_checks()}
    failed = found["analyses_key_is_unique"]
    assert (failed.passed, failed.blocking) == (False, True)
    assert failed.severity == dg.AssetCheckSeverity.ERROR
    assert SMALL in failed.metadata["what offends"].value


def test_no_value_can_break_the_table_of_examples():
    assert markdown_table(("a", "b"), [("x|y\nz", None), ("w" * 100, 1)]).splitlines() == [
        "| a | b |",
        "| --- | --- |",
        "| x\\|y z |  |",
        f"| {'w' * 59}… | 1 |",
    ]


WARNINGS = {
    # The check: its table, and a part of what it shows.
    "collections_are_fresh": ("documents", MAIN),
    "no_document_is_rejected": ("rejected_documents", "unknown_format"),
    "no_value_is_rejected": ("rejected_values", "analysis_results"),
    "no_attribute_is_new": ("attributes", "a_new_attribute"),
    "no_result_file_is_missing": ("result_files", "result_json"),
}


@pytest.fixture(scope="module")
def warned(sample_dump, tmp_path_factory):
    """Return the checks of a publication from a lake for which every check warns."""
    folder = tmp_path_factory.mktemp("warned")
    lake = Lake(folder / "lake")
    documents = read_dump(sample_dump)[:20]
    clock = Clock(datetime.now(UTC) - timedelta(days=4))
    write_dump(folder / "dump", documents)
    load(folder / "dump", lake, now=clock)
    # Then something new and something broken is written, and no pass follows for a day.
    clock.move(hours=66)
    documents[0]["analysis_results"] = "none"
    documents[1]["a_new_attribute"] = 1
    documents[2] = {"_id": documents[2]["_id"]}
    write_dump(folder / "dump", documents)
    load(folder / "dump", lake, now=clock)
    (folder / "results").mkdir()
    settings = load_settings(lake=lake.storage.root, results_root=str(folder / "results"))
    with open_result_store(settings) as store:
        refresh_result_files(lake, store, MAIN)
    job = build_defs(Etl(settings)).resolve_job_def(PUBLISH)
    with dg.DagsterInstance.ephemeral(tempdir=str(folder)) as instance:
        result = job.execute_in_process(instance=instance, run_config=QUIET)
        return {one.check_name: one for one in result.get_asset_check_evaluations()}


@pytest.mark.parametrize("name", WARNINGS)
def test_a_warning_does_not_stop_a_publication(warned, name):
    asset, shown = WARNINGS[name]
    found = warned[name]
    assert found.asset_key == dg.AssetKey(asset)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert shown in found.metadata["to look at"].value
