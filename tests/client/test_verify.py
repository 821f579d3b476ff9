"""Whether source, lake and warehouse agree, and what is said where they do not."""

import shutil
from contextlib import closing
from datetime import UTC, datetime, timedelta

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
from worlds import MAIN, data_files_of, extract, load, read_dump, refresh, write_dump

from aind_etl.client.status import collection_statuses, warehouse_status
from aind_etl.client.verify import Comparison, verify_collection, verify_tables, verify_warehouse
from aind_etl.contract import TABLES, tables
from aind_etl.errors import ConfigurationError, DataError, SourceError
from aind_etl.lake import Lake
from aind_etl.sources.dump import DumpSource
from aind_etl.warehouse.build import build_warehouse

EXAMPLES_SHOWN = 5


class Copy:
    """A source, a lake and a warehouse that a test may tamper with."""

    def __init__(self, built, folder):
        self.source = shutil.copytree(built.source, folder / "dump")
        self.lake = Lake(shutil.copytree(str(built.lake), folder / "lake"))
        self.warehouse = folder / "warehouse.duckdb"
        shutil.copy(built.warehouse, self.warehouse)

    def verify(self, collection=MAIN, *, deep=False):
        """Return what differs, of one collection and in the warehouse, but for warnings."""
        source = DumpSource(self.source)
        _, differences = verify_collection(source, self.lake, collection, deep=deep)
        if deep:
            differences += verify_tables(self.lake, collection)
        in_warehouse = verify_warehouse(self.lake, self.warehouse)
        return [*differences, *(one for one in in_warehouse if not one.is_warning)]

    def change_warehouse(self, statement):
        """Run a statement on the warehouse, as nobody should."""
        with closing(duckdb.connect(self.warehouse)) as connection:
            connection.execute(statement)

    def change_table(self, table, change, collection=MAIN):
        """Rewrite the first file of a table that changes by it."""
        for path in self.lake.tables.files(table, collection):
            rows = pl.read_parquet(path, hive_partitioning=False)
            changed = change(rows)
            if not changed.equals(rows):
                pq.write_table(changed.to_arrow().cast(pq.read_schema(path)), path)
                return
        raise AssertionError("no file changes by it")


@pytest.fixture
def copy(built, tmp_path):
    return Copy(built, tmp_path)


def summary(differences):
    return [(one.between, one.subject) for one in differences]


def first_row(**values):
    """Return a change of the first row of a file."""

    def change(rows):
        is_first = pl.int_range(pl.len()) == 0
        return rows.with_columns(
            pl.when(is_first).then(pl.lit(value)).otherwise(pl.col(name)).alias(name)
            for name, value in values.items()
        )

    return change


# --- agreement ------------------------------------------------------------------------------


def test_source_lake_and_warehouse_of_the_sample_agree(built):
    source = DumpSource(built.source)
    for collection in source.list_collections():
        count = len(read_dump(built.source, collection))
        for deep in (False, True):
            comparison, differences = verify_collection(source, built.lake, collection, deep=deep)
            assert comparison == Comparison(collection, count, count, count, 0)
            assert differences == []
        assert list(verify_tables(built.lake, collection)) == []
    assert list(verify_warehouse(built.lake, built.warehouse)) == []


def test_progress_is_told_document_by_document(built):
    told = []
    verify_collection(DumpSource(built.source), built.lake, MAIN, progress=told.append)
    verify_collection(DumpSource(built.source), built.lake, MAIN, deep=True, progress=told.append)
    assert list(verify_tables(built.lake, MAIN, progress=told.append)) == []
    assert sum(told) == 3 * len(read_dump(built.source))


def test_a_document_that_the_source_gives_twice_counts_once(copy):
    documents = read_dump(copy.source)
    write_dump(copy.source, [*documents, documents[0] | {"status": "a second opinion"}])
    assert copy.verify() == []


def test_rejected_documents_are_no_difference(copy):
    first, *others = read_dump(copy.source)
    write_dump(copy.source, [first | {"processing": None}, *others])
    load(copy.source, copy.lake)
    build_warehouse(copy.lake, copy.warehouse)
    comparison, differences = verify_collection(DumpSource(copy.source), copy.lake, MAIN)
    count = len(others) + 1
    assert comparison == Comparison(MAIN, count, count, count - 1, 1)
    assert differences == []
    assert list(verify_warehouse(copy.lake, copy.warehouse)) == []


# --- the source differs -----------------------------------------------------------------------


def test_a_document_that_the_lake_has_not_is_found(copy):
    new = {"_id": "a new one", "nwb_name": "1_2024-01-01.nwb"}
    write_dump(copy.source, [*read_dump(copy.source), new])
    (difference,) = copy.verify()
    assert (difference.between, difference.subject) == ("source and lake", MAIN)
    assert difference.message == "1 documents in the source but not in the lake: a new one"


def test_documents_that_the_source_has_no_more_are_found_and_some_named(copy):
    documents = read_dump(copy.source)
    write_dump(copy.source, documents[10:])
    (difference,) = copy.verify()
    gone = sorted(one["_id"] for one in documents[:10])
    assert difference.message.startswith("10 documents in the lake but not in the source: ")
    assert difference.message.endswith(f"{', '.join(gone[:EXAMPLES_SHOWN])}, …")


def test_a_document_whose_content_changed_is_found_though_all_counts_agree(copy):
    first, *others = read_dump(copy.source)
    write_dump(copy.source, [first | {"reviewed": True}, *others])
    assert copy.verify() == []
    (difference,) = copy.verify(deep=True)
    assert difference.message == f"1 documents with different contents: {first['_id']}"


def test_a_collection_that_only_one_of_them_has_is_found(copy):
    write_dump(copy.source, [{"_id": "x", "nwb_name": "y"}], "a-new-project")
    assert summary(copy.verify("a-new-project")) == [("source and lake", "a-new-project")]
    (copy.source / f"{MAIN}.jsonl").unlink()
    assert summary(copy.verify(MAIN)) == [("source and lake", MAIN)]


def test_a_source_that_cannot_be_read_to_its_end_is_an_error(copy):
    path = copy.source / f"{MAIN}.jsonl.gz"
    path.write_bytes(b"\x1f\x8b\x08\x00cut off")
    with pytest.raises(SourceError, match="cannot be read to its end"):
        copy.verify()


# --- the lake differs -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table",
    [table for table in TABLES if table.name in {"analyses", "fit_parameters", "attributes"}],
    ids=lambda table: table.name,
)
def test_a_row_that_the_lake_lost_is_found(copy, table):
    copy.change_table(table, lambda rows: rows[1:])
    found = summary(copy.verify())
    assert ("lake and warehouse", f"{table.name} of {MAIN}") in found
    assert (("change log and tables", MAIN) in found) is (table.name == "analyses")


def test_a_value_that_was_changed_in_the_lake_is_found(copy):
    copy.change_table(tables.ANALYSES, first_row(aic=-1.0))
    (difference,) = copy.verify()
    assert difference.between == "lake and warehouse"
    assert "rows in both, with different contents" in difference.message


def test_a_value_edited_by_hand_is_found_by_rebuilding_the_tables(copy):
    copy.change_table(tables.FIT_PARAMETERS, first_row(value=123.0))
    build_warehouse(copy.lake, copy.warehouse)
    (difference,) = copy.verify(deep=True)
    assert difference.between == "lake and change log"
    assert difference.subject.startswith(f"fit_parameters of {MAIN}, 20")
    assert "1 rows do not follow from the change log, and 1 are missing" in difference.message


@pytest.mark.slow
def test_a_partition_that_should_not_be_there_is_found_by_rebuilding_the_tables(copy):
    path = copy.lake.tables.files(tables.INPUT_ASSETS, MAIN)[0]
    shutil.copytree(path.parent, path.parents[1] / "session_month=1999-01")
    build_warehouse(copy.lake, copy.warehouse)
    subjects = {one.subject for one in copy.verify(deep=True)}
    assert {f"input_assets of {MAIN}", f"input_assets of {MAIN}, 1999-01"} <= subjects


def test_comparing_deeply_changes_nothing(copy):
    before = data_files_of(copy.lake.storage.root)
    copy.verify(deep=True)
    assert data_files_of(copy.lake.storage.root) == before


def test_rows_of_an_older_content_are_found(copy):
    copy.change_table(tables.ANALYSES, first_row(content_hash="0" * 64))
    found = {one.between: one.message for one in copy.verify()}
    assert "1 documents with different contents" in found["change log and tables"]


def test_a_missing_file_of_the_lake_is_found(copy):
    copy.lake.tables.files(tables.ANALYSES, MAIN)[0].unlink()
    messages = [one.message for one in copy.verify()]
    assert any("in the change log but not in the tables" in message for message in messages)
    assert any("rows in the lake" in message for message in messages)


def test_a_missing_change_log_is_found(copy):
    for path in copy.lake.tables.files(tables.DOCUMENTS, MAIN):
        path.unlink()
    messages = [one.message for one in copy.verify()]
    assert any("in the source but not in the lake" in message for message in messages)
    assert any("in the tables but not in the change log" in message for message in messages)


def test_a_document_both_flattened_and_rejected_is_found(copy):
    document = read_dump(copy.source)[0]
    live = (
        copy.lake.change_log(MAIN).live_documents().filter(pl.col("record_id") == document["_id"])
    )
    verdict = live.with_columns(
        source_collection=pl.lit(MAIN), reason=pl.lit("x"), path=pl.lit(""), message=pl.lit("x")
    )
    copy.lake.tables.replace_rows(
        tables.REJECTED_DOCUMENTS, MAIN, None, without=live.select("record_id"), rows=verdict
    )
    found = {one.between: one.message for one in copy.verify()}
    assert found["flattened and rejected"] == f"1 documents are both: {document['_id']}"


@pytest.mark.parametrize("table", [tables.ANALYSES, tables.DOCUMENTS], ids=lambda table: table.name)
def test_a_damaged_file_of_the_lake_is_an_error_that_says_what_to_do(copy, table):
    path = copy.lake.tables.files(table, MAIN)[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="is damaged"):
        copy.verify()
    with pytest.raises(DataError, match="is damaged"):
        collection_statuses(copy.lake.storage.root)
    build = copy.warehouse.with_name("another.duckdb")
    with pytest.raises(DataError, match=f"The table '{table.name}' of the lake cannot be read"):
        build_warehouse(copy.lake, build)
    assert not build.exists()


@pytest.mark.parametrize(
    "table", [tables.ANALYSES, tables.ATTRIBUTES], ids=lambda table: table.name
)
def test_partitions_that_were_swapped_are_found(copy, table):
    one, other = copy.lake.tables.files(table, MAIN)[:2]
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    found = {one.subject: one.message for one in copy.verify() if one.between == "lake"}
    assert "in the partition of another month" in found[f"{table.name} of {MAIN}"]


# --- the warehouse differs --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "place", "words"),
    [
        (
            "DELETE FROM analyses WHERE outcome = 'failed'",
            f"analyses of {MAIN}",
            "rows in the lake",
        ),
        ("UPDATE analyses SET aic = aic + 1e-9", f"analyses of {MAIN}", "different contents"),
        (
            "INSERT INTO input_assets VALUES ('mine', 'x', 0, 0, 's3://bucket')",
            "input_assets of mine",
            "0 rows in the lake, 1 in the warehouse",
        ),
        (
            "UPDATE documents SET document = '{}' WHERE starts_with(record_id, '1')",
            "documents of ",
            "different contents",
        ),
        ("INSERT INTO sessions VALUES ('x', '1', NULL)", "sessions", "0 rows in the lake"),
    ],
)
def test_a_table_of_the_warehouse_that_differs_is_found(copy, statement, place, words):
    copy.change_warehouse(statement)
    found = [one for one in copy.verify() if one.between == "lake and warehouse"]
    assert found
    assert any(one.subject.startswith(place) and words in one.message for one in found)
    assert all("'aind-etl run' publishes the lake's" in one.message for one in found)


def test_a_check_that_fails_is_found_with_what_must_hold(copy):
    copy.change_warehouse("UPDATE collections SET live_documents = live_documents + 1")
    (difference,) = copy.verify()
    assert difference.between == "check collections_add_up"
    assert "rows offend (the query is sql/checks/collections_add_up.sql)" in difference.message


@pytest.mark.slow
def test_what_is_odd_in_the_documents_themselves_is_a_warning(copy):
    first, *others = read_dump(copy.source)
    odd = next(one for one in others if one.get("status") == "success")
    odd["analysis_results"]["AIC"] += 1
    write_dump(copy.source, [first, *others])
    load(copy.source, copy.lake)
    build_warehouse(copy.lake, copy.warehouse)
    (difference,) = verify_warehouse(copy.lake, copy.warehouse)
    assert difference.is_warning
    assert difference.between == "check fit_criteria_agree_with_log_likelihood"
    assert copy.verify() == []


def test_a_missing_warehouse_is_an_error(copy):
    copy.warehouse.unlink()
    with pytest.raises(ConfigurationError, match="There is no warehouse"):
        copy.verify()


# --- status -----------------------------------------------------------------------------------


def test_the_status_of_a_collection_counts_documents(built):
    statuses = {one.collection: one for one in collection_statuses(built.lake.storage.root)}
    assert list(statuses) == built.lake.collections()
    for collection, status in statuses.items():
        assert status.live == len(read_dump(built.source, collection))
        assert (status.rejected, status.waiting) == (0, 0)
        assert status.source == str(built.source)
        assert status.last_new_pass == "never"
        newest = built.lake.tables.scan(tables.ANALYSES, collection).select(
            pl.col("finished_at").max()
        )
        assert status.newest_finished == f"{newest.collect().item():%Y-%m-%d %H:%M}"


def test_documents_extracted_and_not_flattened_yet_are_waiting(copy):
    new = {"_id": "a new one"}
    write_dump(copy.source, [*read_dump(copy.source), new])
    extract(copy.source, copy.lake)
    (status,) = [
        one for one in collection_statuses(copy.lake.storage.root) if one.collection == MAIN
    ]
    assert (status.rejected, status.waiting) == (0, 1)
    refresh(copy.lake)
    (status,) = [
        one for one in collection_statuses(copy.lake.storage.root) if one.collection == MAIN
    ]
    assert (status.rejected, status.waiting) == (1, 0)


@pytest.mark.parametrize(
    ("ago", "words"),
    [
        (timedelta(seconds=5), "just now"),
        (timedelta(minutes=5, seconds=1), "5 min ago"),
        (timedelta(hours=30), "1 d ago"),
        (timedelta(hours=3, minutes=59), "3 h ago"),
        (timedelta(days=-1), "just now"),
    ],
)
def test_how_long_ago_a_pass_was_is_said_in_words(copy, ago, words):
    copy.lake.update_state(MAIN, {"last_new_pass_at": datetime.now(UTC) - ago})
    (status,) = [
        one for one in collection_statuses(copy.lake.storage.root) if one.collection == MAIN
    ]
    assert status.last_new_pass == words


def test_the_last_moment_of_the_calendar_is_shown(lake, tmp_path):
    late = {"_id": "a", "nwb_name": "b", "analysis_datetime": "9999-12-31T23:59:59Z"}
    write_dump(tmp_path / "dump", [late])
    load(tmp_path / "dump", lake)
    (status,) = collection_statuses(lake.storage.root)
    assert status.newest_finished == "9999-12-31 23:59"


def test_an_empty_lake_has_no_status(tmp_path):
    assert collection_statuses(tmp_path / "nothing") == []


def test_a_warehouse_is_described_in_a_sentence(built, tmp_path):
    sentence = warehouse_status(built.warehouse)
    assert sentence.startswith(f"Warehouse {built.warehouse}, built ")
    assert f"DuckDB {duckdb.__version__}" in sentence
    assert warehouse_status(tmp_path / "nothing").startswith("There is no warehouse at")
    (tmp_path / "foreign").write_text("not one")
    assert "is not a warehouse of aind-etl" in warehouse_status(tmp_path / "foreign")
