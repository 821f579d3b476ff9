"""A warehouse is published only if its checks hold; readers keep the one before."""

import shutil
from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl
import pytest
from worlds import MAIN, Clock, load, read_dump, write_dump

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
def made(built, tmp_path_factory):
    """Return a folder with the sample's lake and a warehouse published from it, and a copy."""
    folder = tmp_path_factory.mktemp("publishing")
    shutil.copytree(built.lake.storage.root, folder / "work" / "lake")
    lake = Lake(folder / "work" / "lake")
    publish_warehouse(lake, folder / "work" / "warehouse.duckdb", max_lost_share=0.2)
    return shutil.move(folder / "work", folder / "made"), folder / "work"


@pytest.fixture
def published(made):
    """Return the sample's lake, and a warehouse published from it, for a test to spoil.

    They lie where they were made: a warehouse knows its lake by its place.
    """
    kept, work = made
    shutil.copytree(kept, work)
    yield Lake(work / "lake"), work / "warehouse.duckdb"
    shutil.rmtree(work)


def rows_of(path):
    with connect(path) as connection:
        return connection.execute("SELECT count(*) FROM analyses").fetchall()[0][0]


def twice(lake):
    """Put the first row of a partition of `analyses` in it a second time."""
    (path, *_) = lake.tables.files(tables.ANALYSES, MAIN)
    rows = pl.read_parquet(path, hive_partitioning=False)
    pl.concat([rows, rows.head(1)]).write_parquet(path)


def test_every_check_holds_for_the_sample(published):
    lake, path = published
    found = publish_warehouse(lake, path, max_lost_share=0.2)
    assert [one.check for one in found.outcomes] == publish_checks()
    assert [one.check.name for one in found.outcomes if not one.holds] == []


def test_what_a_check_refuses_is_not_published_and_readers_keep_what_they_have(published):
    lake, path = published
    before, count = path.stat().st_ino, rows_of(path)
    twice(lake)
    with pytest.raises(ChecksFailedError, match="analyses_key_is_unique: 1 rows offend") as error:
        publish_warehouse(lake, path, max_lost_share=0.2)
    failed = {one.check.name: one for one in error.value.outcomes if not one.holds}
    assert "analyses_key_is_unique" in failed
    assert MAIN in failed["analyses_key_is_unique"].details
    assert "left in place" in str(error.value)
    assert (path.stat().st_ino, rows_of(path)) == (before, count)
    assert [one for one in path.parent.iterdir() if "building" in one.name] == []


def test_a_table_that_collapses_is_not_published_unless_it_is_meant_to(published):
    lake, path = published
    for file in lake.tables.files(tables.CROSS_VALIDATION, MAIN):
        file.unlink()
    with pytest.raises(ChecksFailedError, match=r"cross_validation from .* rows to") as error:
        publish_warehouse(lake, path, max_lost_share=0.2)
    assert COLLAPSE_CHECK in {one.check.name for one in error.value.outcomes if not one.holds}
    assert "--max-deleted-share 1" in str(error.value)
    with pytest.raises(ChecksFailedError) as error:
        publish_warehouse(lake, path, max_lost_share=1)
    assert COLLAPSE_CHECK not in {one.check.name for one in error.value.outcomes if not one.holds}


def test_a_file_with_another_type_than_the_contracts_is_named(published):
    lake, path = published
    file = lake.tables.files(tables.ANALYSES, MAIN)[0]
    rows = pl.read_parquet(file, hive_partitioning=False)
    rows.with_columns(pl.col("n_trials").cast(pl.Float64)).write_parquet(file)
    with pytest.raises(ChecksFailedError) as error:
        publish_warehouse(lake, path, max_lost_share=0.2)
    (found,) = [one for one in error.value.outcomes if one.check.name == CONTRACT_CHECK]
    assert "| n_trials | int32 | double |" in found.details


def test_documents_come_into_the_warehouse_with_their_analyses_and_never_before(published):
    """As while another run stands between reading and flattening."""
    lake, path = published
    row = lake.tables.scan(tables.DOCUMENTS, MAIN).head(1).collect()
    lake.change_log(MAIN).append(row.with_columns(record_id=pl.lit("waiting")))
    outcomes = publish_warehouse(lake, path, max_lost_share=0.2).outcomes
    assert [one.check.name for one in outcomes if not one.holds] == []
    assert AGREEMENT_CHECK in {one.check.name for one in outcomes}
    with connect(path) as connection:
        found = connection.execute("FROM documents WHERE record_id = 'waiting'").fetchall()
    assert found == []


def test_the_first_warehouse_is_not_published_either(sample_lake, tmp_path):
    twice(sample_lake)
    with pytest.raises(ChecksFailedError, match="none exists yet"):
        publish_warehouse(sample_lake, tmp_path / "new.duckdb", max_lost_share=0.2)
    assert not (tmp_path / "new.duckdb").exists()


def test_dagster_shows_each_check_and_the_run_that_was_refused_fails(published, tmp_path):
    lake, path = published
    twice(lake)
    settings = load_settings(lake=lake.storage.root, warehouse=path)
    job = build_defs({"etl": Etl(settings)}).resolve_job_def(PUBLISH)
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        result = job.execute_in_process(instance=instance, run_config=QUIET, raise_on_error=False)
        assert not result.success
        made = {one.asset_key.to_user_string() for one in result.get_asset_materialization_events()}
        assert made == {"unclaimed_folders"}, "of the warehouse, nothing"
        found = {one.check_name: one for one in result.get_asset_check_evaluations()}
    assert found.keys() >= {check.name for check in publish_checks()}
    failed = found["analyses_key_is_unique"]
    assert (failed.passed, failed.blocking, failed.severity) == (
        False,
        True,
        dg.AssetCheckSeverity.ERROR,
    )
    assert MAIN in failed.metadata["what offends"].value


def test_examples_are_shown_as_a_table_that_no_value_can_break():
    assert markdown_table(("a", "b"), [("x|y\nz", None), ("w" * 100, 1)]).splitlines() == [
        "| a | b |",
        "| --- | --- |",
        "| x\\|y z |  |",
        f"| {'w' * 59}… | 1 |",
    ]


WARNINGS = {
    # What is amiss: where, and what the check shows of it.
    "collections_are_fresh": ("documents", MAIN),
    "no_document_is_rejected": ("rejected_documents", "unknown_format"),
    "no_value_is_rejected": ("rejected_values", "analysis_results"),
    "no_attribute_is_new": ("attributes", "a_new_attribute"),
    "no_result_file_is_missing": ("result_files", "result_json"),
}


@pytest.fixture(scope="module")
def warned(sample_dump, tmp_path_factory):
    """Return how each check went on a lake of which everything may be said that is a warning."""
    folder = tmp_path_factory.mktemp("warned")
    lake = Lake(folder / "lake")
    documents = read_dump(sample_dump)[:20]
    clock = Clock(datetime.now(UTC) - timedelta(days=4))
    write_dump(folder / "dump", documents)
    load(folder / "dump", lake, now=clock)
    # A day ago somebody began to write something new, and something broken; then nobody looked.
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
    job = build_defs({"etl": Etl(settings)}).resolve_job_def(PUBLISH)
    with dg.DagsterInstance.ephemeral(tempdir=str(folder)) as instance:
        result = job.execute_in_process(instance=instance, run_config=QUIET)
        return {one.check_name: one for one in result.get_asset_check_evaluations()}


@pytest.mark.parametrize("name", WARNINGS)
def test_what_should_be_looked_at_is_a_warning_and_keeps_nothing_from_being_published(warned, name):
    asset, shown = WARNINGS[name]
    found = warned[name]
    assert found.asset_key == dg.AssetKey(asset)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert shown in found.metadata["to look at"].value
