"""Source, lake and warehouse are compared, and every difference is reported."""

import shutil
from contextlib import closing
from datetime import UTC, datetime, timedelta

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
from worlds import MAIN, data_files_of, extract, load, loaded_lake, read_dump, refresh, write_dump

from aind_etl.client.status import check_health, collection_statuses, warehouse_status
from aind_etl.client.verify import verify_collection, verify_tables, verify_warehouse
from aind_etl.contract import tables
from aind_etl.errors import DataError, SourceError
from aind_etl.lake import Lake
from aind_etl.lake.resharding import reshard
from aind_etl.sources.dump import DumpSource
from aind_etl.warehouse.build import build_warehouse

EXAMPLES_SHOWN = 5


def compare(source, lake, collection=MAIN, *, deep=False):
    """Return the differences of a dump and a lake, and of the lake's tables."""
    return verify_collection(DumpSource(source), lake, collection, deep=deep)[1]


class Copy:
    """A source, a lake and a warehouse that a test may change."""

    def __init__(self, built, folder):
        self.source = built.source
        self.lake = Lake(shutil.copytree(str(built.lake), folder / "lake"))
        self.warehouse = shutil.copy(built.warehouse, folder / "warehouse.duckdb")

    def verify(self):
        """Return all differences, but for warnings about the warehouse."""
        return compare(self.source, self.lake) + self.verify_warehouse()

    def verify_warehouse(self):
        """Return the differences of lake and warehouse, but for warnings."""
        found = verify_warehouse(self.lake, self.warehouse)
        return [one for one in found if not one.is_warning]

    def change_warehouse(self, statement):
        """Run a statement on the warehouse."""
        with closing(duckdb.connect(self.warehouse)) as connection:
            connection.execute(statement)

    def change_table(self, table, change):
        """Rewrite the first file of a table whose rows differ after a change."""
        for path in self.lake.tables.files(table, MAIN):
            rows = pl.read_parquet(path, hive_partitioning=False)
            changed = change(rows)
            if not changed.equals(rows):
                pq.write_table(changed.to_arrow().cast(pq.read_schema(path)), path)
                return
        raise AssertionError("no file differs after the change")


@pytest.fixture
def copy(built, tmp_path):
    return Copy(built, tmp_path)


@pytest.fixture
def dump(built, tmp_path):
    """Return a copy of the source."""
    return shutil.copytree(built.source, tmp_path / "dump")


def first_row(**values):
    """Return a change of the first row of a file."""
    changed = [pl.lit(value).alias(name) for name, value in values.items()]
    return lambda rows: pl.concat([rows[:1].with_columns(changed), rows[1:]])


# --- agreement ------------------------------------------------------------------------------


def test_source_lake_and_warehouse_of_the_sample_agree_and_are_not_changed(built):
    before = data_files_of(built.lake.storage.root)
    source = DumpSource(built.source)
    for collection in source.list_collections():
        count = len(read_dump(built.source, collection))
        progress = []
        for deep in (False, True):
            comparison, differences = verify_collection(
                source, built.lake, collection, deep=deep, progress=progress.append
            )
            assert list(comparison.values()) == [collection, count, count, count, 0]
            assert differences == []
        assert list(verify_tables(built.lake, collection, progress=progress.append)) == []
        assert sum(progress) == 3 * count
    assert list(verify_warehouse(built.lake, built.warehouse)) == []
    assert data_files_of(built.lake.storage.root) == before


def test_a_document_that_the_source_has_twice_counts_once(built, dump):
    documents = read_dump(dump)
    write_dump(dump, [*documents, documents[0] | {"status": "another"}])
    assert compare(dump, built.lake, deep=True) == []


def test_rejected_documents_are_no_difference(built, tmp_path):
    first, *others = read_dump(built.source)[:8]
    write_dump(tmp_path, [first | {"processing": None}, *others])
    lake = loaded_lake(tmp_path, tmp_path / "lake")
    comparison, differences = verify_collection(DumpSource(tmp_path), lake, MAIN)
    assert comparison == {"collection": MAIN, "source": 8, "lake": 8, "flattened": 7, "rejected": 1}
    assert differences == []
    build_warehouse(lake, tmp_path / "warehouse.duckdb")
    assert list(verify_warehouse(lake, tmp_path / "warehouse.duckdb")) == []


# --- the source differs -----------------------------------------------------------------------


def test_a_document_that_the_lake_lacks_is_found(built, dump):
    new = {"_id": "a new one", "nwb_name": "1_2024-01-01.nwb"}
    write_dump(dump, [*read_dump(dump), new])
    (difference,) = compare(dump, built.lake)
    assert (difference.between, difference.subject) == ("source and lake", MAIN)
    assert difference.message == "1 documents in the source but not in the lake: a new one"


def test_documents_that_the_source_lacks_are_found_and_some_named(built, dump):
    documents = read_dump(dump)
    write_dump(dump, documents[10:])
    (difference,) = compare(dump, built.lake)
    gone = sorted(one["_id"] for one in documents[:10])
    assert difference.message.startswith("10 documents in the lake but not in the source: ")
    assert difference.message.endswith(f"{', '.join(gone[:EXAMPLES_SHOWN])}, …")


def test_a_document_whose_content_changed_is_found_by_a_deep_comparison(built, dump):
    first, *others = read_dump(dump)
    write_dump(dump, [first | {"reviewed": True}, *others])
    assert compare(dump, built.lake) == []
    (difference,) = compare(dump, built.lake, deep=True)
    assert difference.message == f"1 documents with different contents: {first['_id']}"


def test_a_collection_that_only_one_of_them_has_is_found(built, dump):
    write_dump(dump, [{"_id": "x", "nwb_name": "y"}], "a-new-project")
    (dump / f"{MAIN}.jsonl").unlink()
    for collection in ("a-new-project", MAIN):
        (difference,) = compare(dump, built.lake, collection)
        assert (difference.between, difference.subject) == ("source and lake", collection)


def test_a_source_that_cannot_be_read_to_its_end_is_an_error(built, dump):
    (dump / f"{MAIN}.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00cut off")
    with pytest.raises(SourceError, match="cannot be read to its end"):
        compare(dump, built.lake)


# --- the lake differs -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table", [tables.ANALYSES, tables.ATTRIBUTES], ids=lambda table: table.name
)
def test_a_row_that_the_lake_lost_is_found(copy, table):
    copy.change_table(table, lambda rows: rows[1:])
    found = {(one.between, one.subject): one.message for one in copy.verify()}
    assert "rows in the lake" in found["lake and warehouse", f"{table.name} of {MAIN}"]
    lost = found.get(("change log and tables", MAIN), "")
    assert ("in the change log but not in the tables" in lost) is (table is tables.ANALYSES)


def test_a_value_that_was_changed_in_the_lake_is_found(copy):
    copy.change_table(tables.ANALYSES, first_row(aic=-1.0))
    (difference,) = copy.verify()
    assert difference.between == "lake and warehouse"
    assert "rows in both, with different contents" in difference.message


def test_a_value_edited_by_hand_is_found_by_deriving_the_tables_again(copy):
    copy.change_table(tables.FIT_PARAMETERS, first_row(value=123.0))
    assert compare(copy.source, copy.lake, deep=True) == []
    (difference,) = verify_tables(copy.lake, MAIN)
    assert difference.between == "lake and change log"
    assert difference.subject.startswith(f"fit_parameters of {MAIN}, 20")
    assert "1 rows do not follow from the change log, and 1 are missing" in difference.message


def test_a_partition_that_should_not_be_there_is_found(copy):
    path = copy.lake.tables.files(tables.INPUT_ASSETS, MAIN)[0]
    shutil.copytree(path.parent, path.parents[1] / "session_month=1999-01")
    assert [one.subject for one in compare(copy.source, copy.lake)] == [f"input_assets of {MAIN}"]
    (difference,) = verify_tables(copy.lake, MAIN)
    assert difference.subject == f"input_assets of {MAIN}, 1999-01"


def test_rows_of_an_older_content_are_found(copy):
    copy.change_table(tables.ANALYSES, first_row(content_hash="0" * 64))
    found = {one.between: one.message for one in compare(copy.source, copy.lake)}
    assert "1 documents with different contents" in found["change log and tables"]


def test_a_missing_file_of_the_lake_is_found(copy):
    copy.lake.tables.files(tables.ANALYSES, MAIN)[0].unlink()
    messages = [one.message for one in copy.verify()]
    assert any("in the change log but not in the tables" in message for message in messages)
    assert any("rows in the lake" in message for message in messages)


def test_a_missing_change_log_is_found(copy):
    for path in copy.lake.tables.files(tables.DOCUMENTS, MAIN):
        path.unlink()
    messages = [one.message for one in compare(copy.source, copy.lake)]
    assert any("in the source but not in the lake" in message for message in messages)
    assert any("in the tables but not in the change log" in message for message in messages)


def test_a_document_both_flattened_and_rejected_is_found(copy):
    live = copy.lake.change_log(MAIN).live_documents().head(1)
    rejected = live.with_columns(
        source_collection=pl.lit(MAIN), reason=pl.lit("x"), path=pl.lit(""), message=pl.lit("x")
    )
    copy.lake.tables.replace_rows(
        tables.REJECTED_DOCUMENTS, MAIN, None, without=live.select("record_id"), rows=rejected
    )
    found = {one.between: one.message for one in compare(copy.source, copy.lake)}
    assert found["flattened and rejected"] == f"1 documents are both: {live['record_id'].item()}"


@pytest.mark.parametrize("table", [tables.ANALYSES, tables.DOCUMENTS], ids=lambda table: table.name)
def test_a_damaged_file_of_the_lake_is_an_error_that_says_what_to_do(copy, table):
    path = copy.lake.tables.files(table, MAIN)[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="is damaged"):
        compare(copy.source, copy.lake)
    with pytest.raises(DataError, match="is damaged"):
        collection_statuses(copy.lake)
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
    differences = compare(copy.source, copy.lake)
    found = {one.subject: one.message for one in differences if one.between == "lake"}
    assert "in the partition of another month" in found[f"{table.name} of {MAIN}"]


def test_an_analysis_in_two_files_of_a_wrong_month_is_counted_once(copy):
    reshard(copy.lake, MAIN, 2)
    file = copy.lake.tables.files(tables.FIT_PARAMETERS, MAIN)[0]
    wrong = file.parents[1] / "session_month=1999-01"
    wrong.mkdir()
    for number in (1, 2):
        shutil.copy(file, wrong / f"part-{number}-of-2.parquet")
    count = pq.read_table(file).group_by(["record_id", "process_index"]).aggregate([]).num_rows
    found = {one.subject: one.message for one in compare(copy.source, copy.lake)}
    assert found[f"fit_parameters of {MAIN}"].startswith(f"{count} analyses have rows in")


# --- the warehouse differs --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "place", "words"),
    [
        ("DELETE FROM analyses WHERE aic IS NULL", f"analyses of {MAIN}", "rows in the lake"),
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
    found = [one for one in copy.verify_warehouse() if one.between == "lake and warehouse"]
    assert found
    assert any(one.subject.startswith(place) and words in one.message for one in found)
    assert all("'aind-etl run' publishes the lake's" in one.message for one in found)


def test_a_check_that_fails_is_found_with_what_must_hold(copy):
    copy.change_warehouse("UPDATE collections SET live_documents = live_documents + 1")
    (difference,) = copy.verify_warehouse()
    assert difference.between == "check collections_add_up"
    assert "rows offend (the query is sql/checks/collections_add_up.sql)" in difference.message


def test_an_oddity_of_the_documents_themselves_is_a_warning(built, tmp_path):
    odd = next(one for one in read_dump(built.source) if one.get("status") == "success")
    odd["analysis_results"]["AIC"] += 1
    write_dump(tmp_path, [odd])
    lake = loaded_lake(tmp_path, tmp_path / "lake")
    build_warehouse(lake, tmp_path / "warehouse.duckdb")
    (difference,) = verify_warehouse(lake, tmp_path / "warehouse.duckdb")
    assert difference.is_warning
    assert difference.between == "check fit_criteria_agree_with_log_likelihood"


# --- status -----------------------------------------------------------------------------------


def test_the_status_of_a_collection_counts_documents(built):
    statuses = {one["collection"]: one for one in collection_statuses(built.lake)}
    assert list(statuses) == built.lake.collections()
    for collection, status in statuses.items():
        assert status["live"] == len(read_dump(built.source, collection))
        assert (status["rejected"], status["waiting"]) == (0, 0)
        assert status["source"] == str(built.source)
        assert status["last_new_pass"] == "never"
        analyses = built.lake.tables.scan(tables.ANALYSES, collection).collect()
        assert status["newest_finished"] == f"{analyses['finished_at'].max():%Y-%m-%d %H:%M}"


def status_of(lake):
    (status,) = [one for one in collection_statuses(lake) if one["collection"] == MAIN]
    return status


def test_documents_extracted_and_not_flattened_yet_are_waiting(lake, tmp_path):
    write_dump(tmp_path, [{"_id": "a new one"}])
    extract(tmp_path, lake)
    assert (status_of(lake)["rejected"], status_of(lake)["waiting"]) == (0, 1)
    refresh(lake)
    assert (status_of(lake)["rejected"], status_of(lake)["waiting"]) == (1, 0)


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
def test_the_age_of_a_pass_is_written_out(lake, tmp_path, ago, words):
    write_dump(tmp_path, [{"_id": "a"}])
    extract(tmp_path, lake)
    lake.update_state(MAIN, {"last_new_pass_at": datetime.now(UTC) - ago})
    assert status_of(lake)["last_new_pass"] == words


def test_the_last_moment_of_the_calendar_is_shown(lake, tmp_path):
    late = {"_id": "a", "nwb_name": "b", "analysis_datetime": "9999-12-31T23:59:59Z"}
    write_dump(tmp_path / "dump", [late])
    load(tmp_path / "dump", lake)
    assert status_of(lake)["newest_finished"] == "9999-12-31 23:59"


def test_an_empty_lake_has_no_status(lake):
    assert collection_statuses(lake) == []


def test_problems_are_described_in_sentences(lake, tmp_path):
    began = datetime.now(UTC) - timedelta(hours=2)
    lake.update_source_health({"failing_since": began, "error": "No answer."})
    for reached_at, words in ((None, "never"), (began - timedelta(hours=1), "3 h ago")):
        lake.update_source_health({"reached_at": reached_at})
        assert check_health(lake, tmp_path / "none.duckdb", "publish, 2026-01-01,") == (
            f"Source last reached {words}",
            [
                "The source cannot be read, for the first time 2 h ago: No answer.",
                "The last run of publish, 2026-01-01, failed.",
                "There is no warehouse.",
            ],
        )
    lake.update_source_health({"reached_at": datetime.now(UTC)})
    reached, problems = check_health(lake, tmp_path / "none.duckdb", "")
    assert (reached, problems) == ("Source last reached just now", ["There is no warehouse."])


def test_a_warehouse_is_described_in_a_sentence(built, tmp_path):
    sentence = warehouse_status(built.warehouse)
    assert sentence.startswith(f"Warehouse {built.warehouse}, built ")
    assert f"DuckDB {duckdb.__version__}" in sentence
    assert warehouse_status(tmp_path / "nothing").startswith("There is no warehouse at")
    (tmp_path / "foreign").write_text("not one")
    assert "is not a warehouse of aind-etl" in warehouse_status(tmp_path / "foreign")
