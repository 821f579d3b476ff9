"""The lake: its files, their readers, and what is rewritten."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import content
from worlds import (
    LAKE_TABLES,
    MAIN,
    NOON,
    assert_same,
    contents_of,
    data_files_of,
    live_documents_of,
    load,
    loaded_lake,
    log_of,
    read_dump,
    rows_of,
    tables_of,
    write_dump,
)

from aind_etl.contract import Table, tables
from aind_etl.contract.schemas import arrow_schema, polars_schema
from aind_etl.errors import DataError
from aind_etl.lake import Lake
from aind_etl.lake.change_log import record_ids
from aind_etl.lake.parquet import write_parquet
from aind_etl.lake.paths import UNKNOWN_MONTH, encode_name
from aind_etl.lake.spill import Spill
from aind_etl.lake.state import SourceHealth

FILLED = [
    tables.ANALYSES,
    tables.FIT_PARAMETERS,
    tables.CROSS_VALIDATION,
    tables.INPUT_ASSETS,
    tables.ATTRIBUTES,
    tables.DOCUMENTS,
]


# --- readers ----------------------------------------------------------------------------------


def read_by_duckdb(folder: str) -> pl.DataFrame:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.sql(
            f"SELECT * FROM read_parquet('{folder}/**/*.parquet', hive_partitioning = true)"
        )
        return pl.DataFrame(found.to_arrow_table())


def read_by_pyarrow(folder: str) -> pl.DataFrame:
    return pl.DataFrame(ds.dataset(folder, partitioning="hive").to_table())


def read_by_polars(folder: str) -> pl.DataFrame:
    return pl.scan_parquet(f"{folder}/", hive_partitioning=True).collect()


@pytest.mark.parametrize("read", [read_by_duckdb, read_by_pyarrow, read_by_polars])
def test_others_read_a_table_by_its_folder(built, read):
    for table in FILLED:
        assert_hive_read(read(f"{built.lake}/{table.name}"), built.lake, table)


def test_pandas_reads_a_table_by_its_folder(built):
    for table in FILLED:
        found = pd.read_parquet(f"{built.lake}/{table.name}", dtype_backend="pyarrow")
        assert set(found["collection"].astype(str)) == set(found["source_collection"])
        arrow = pa.Table.from_pandas(found[list(table.column_names)], arrow_schema(table))
        rows = pl.DataFrame(arrow)
        assert_same({table.name: rows.sort(rows.columns)}, {table.name: rows_of(built.lake, table)})


def assert_hive_read(found: pl.DataFrame, lake: Lake, table: Table) -> None:
    """Check the rows, and that the folders' names agree with them."""
    assert found["collection"].cast(pl.String).equals(found["source_collection"], null_equal=True)
    if "session_date" in table.column_names:
        month = pl.col("session_date").dt.to_string("%Y-%m").fill_null(UNKNOWN_MONTH)
        assert found.select((month == pl.col("session_month").cast(pl.String)).all()).item()
    rows = found.select(table.column_names).cast(dict(polars_schema(table)))
    assert not rows.is_empty()
    assert_same({table.name: rows.sort(rows.columns)}, {table.name: rows_of(lake, table)})


def test_a_reader_of_one_partition_gets_only_its_rows(built):
    month = built.lake.tables.months(tables.ANALYSES, MAIN)[0]
    with duckdb.connect() as connection:
        found = connection.execute(
            f"SELECT record_id FROM read_parquet('{built.lake}/analyses/**/*.parquet', "
            "hive_partitioning = true, hive_types_autocast = false) "
            "WHERE collection = ? AND session_month = ?",
            [MAIN, month],
        ).fetchall()
    there = built.lake.tables.read_partition(tables.ANALYSES, MAIN, month)
    assert sorted(found) == sorted(there.select("record_id").rows())
    assert built.lake.tables.scan(tables.ANALYSES, MAIN, month).collect().equals(there)
    assert there["session_date"].dt.to_string("%Y-%m").unique().to_list() == [month]


# --- files ------------------------------------------------------------------------------------


def test_every_partition_is_one_file_in_its_folder(built):
    for table in LAKE_TABLES:
        paths = built.lake.tables.files(table)
        for path in paths:
            levels = path.relative_to(built.lake.storage.path(table.name)).parts[:-1]
            assert tuple(level.partition("=")[0] for level in levels) == table.partitioning.value
        if table is not tables.DOCUMENTS:
            assert len({path.parent for path in paths}) == len(paths), table.name
    assert built.lake.tables.files(tables.ANALYSES)
    assert list(built.lake.storage.path("_staging").iterdir()) == []


def test_files_have_the_contract_s_columns_and_types(built):
    times = 0
    for table in FILLED:
        for path in built.lake.tables.files(table):
            assert pq.read_schema(path).equals(arrow_schema(table), check_metadata=False)
        for field in arrow_schema(table):
            assert not pa.types.is_nested(field.type)
            assert not pa.types.is_dictionary(field.type)
            if pa.types.is_timestamp(field.type):
                times += 1
                assert field.type == pa.timestamp("us", "UTC")
        group = pq.read_metadata(built.lake.tables.files(table)[0]).row_group(0)
        assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}
    assert times > 3


def test_a_column_whose_values_repeat_has_a_dictionary(lake):
    schema = polars_schema(tables.FIT_PARAMETERS)
    numbers = range(5_000)
    values = {
        "source_collection": "fits",
        "record_id": pl.Series([f"{number:064x}" for number in numbers]),
        "process_index": 0,
        "parameter": "biasL",
        "value": pl.Series([number / 7 for number in numbers]),
        "lower_bound": -1.0,
        "at_bound": False,
    }
    complete = pl.select(
        pl.lit(values.get(name)).cast(kind).alias(name) for name, kind in schema.items()
    )
    for size in (len(numbers), 1_000):
        portions = complete.iter_slices(size)
        write_parquet(lake.storage, "file.parquet", tables.FIT_PARAMETERS, portions)
        path = Path(lake.storage.path("file.parquet"))
        assert pl.read_parquet(path).equals(complete)
        group = pq.read_metadata(path).row_group(0)
        columns = [group.column(place) for place in range(group.num_columns)]
        encodings = {one.path_in_schema: set(one.encodings) for one in columns}
        assert "DELTA_LENGTH_BYTE_ARRAY" in encodings["record_id"]
        assert encodings["value"] == {"PLAIN", "RLE"}
        for name in ("process_index", "parameter", "lower_bound"):
            assert "RLE_DICTIONARY" in encodings[name]
        # Readers skip row groups by these.
        assert all(one.statistics is not None for one in columns)


def test_rows_are_sorted_by_their_key_and_every_key_is_unique(built):
    for table in FILLED:
        if table is tables.DOCUMENTS:
            continue
        for path in built.lake.tables.files(table):
            found = list(pl.read_parquet(path, hive_partitioning=False).select(table.key).rows())
            assert found == sorted(found), table.name
        assert rows_of(built.lake, table).select(table.key).is_unique().all(), table.name


def test_every_reader_gets_the_same_time(built):
    path = built.lake.tables.files(tables.DOCUMENTS)[0]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'Asia/Kolkata'")
        (moment,) = connection.execute(
            f"SELECT extracted_at FROM read_parquet('{path}') LIMIT 1"
        ).fetchall()[0]
    assert moment == NOON
    assert pq.read_table(path, partitioning=None)["extracted_at"][0].as_py() == NOON
    assert pd.read_parquet(path, partitioning=None)["extracted_at"][0] == NOON


def test_rows_are_counted_by_the_files_metadata(built):
    for table in LAKE_TABLES:
        assert built.lake.tables.count_rows(table) == rows_of(built.lake, table).height


def test_tables_without_a_file_are_empty_with_their_columns(places):
    lake = places.new()
    for table in LAKE_TABLES:
        assert lake.tables.scan(table).collect().schema == polars_schema(table)
        assert lake.tables.count_rows(table) == 0
    assert lake.collections() == []
    assert lake.change_log(MAIN).last_batch() == 0
    assert lake.change_log(MAIN).live_documents().is_empty()


# --- what is rewritten ------------------------------------------------------------------------


@pytest.mark.slow
def test_only_the_partitions_of_a_changed_record_are_rewritten(sample_dump, sample_lake, tmp_path):
    documents = read_dump(sample_dump)
    before = data_files_of(sample_lake.storage.root)
    changed = next(one for one in documents if "analysis_results" in one)
    changed["analysis_results"]["log_likelihood"] -= 1.0
    dump = shutil.copytree(sample_dump, tmp_path / "dump")
    write_dump(dump, documents)
    assert load(dump, sample_lake).refreshes[MAIN].flattened == 1
    after = data_files_of(sample_lake.storage.root)
    month = changed["session_date"][:7]
    assert {name for name in before if before[name] != after[name]} == {
        f"analyses/collection={MAIN}/session_month={month}/part.parquet",
    }
    assert after.keys() - before.keys() == {f"documents/collection={MAIN}/0000000002.parquet"}
    assert before.keys() <= after.keys()


def test_a_partition_that_loses_its_last_row_disappears_with_its_folder(sample_dump, tmp_path):
    documents = [one for one in read_dump(sample_dump) if one.get("session_date")]
    months = sorted({one["session_date"][:7] for one in documents})
    dump = tmp_path / "dump"
    write_dump(dump, documents)
    lake = loaded_lake(dump, tmp_path / "lake")
    assert lake.tables.months(tables.ANALYSES, MAIN) == months
    write_dump(dump, [one for one in documents if not one["session_date"].startswith(months[0])])
    load(dump, lake)
    assert lake.tables.months(tables.ANALYSES, MAIN) == months[1:]
    assert not list(lake.storage.root.rglob(f"session_month={months[0]}"))
    write_dump(dump, [])
    load(dump, lake)
    assert sorted(path.name for path in lake.storage.root.iterdir() if path.name[0] != "_") == [
        "documents"
    ]
    assert lake.collections() == [MAIN]


def test_the_same_rows_leave_a_partition_as_it_is(places, built):
    lake = places.copy(built.lake.storage.root)
    before = lake.storage.files("", ".parquet")
    for table in (tables.ANALYSES, tables.ATTRIBUTES):
        month = lake.tables.months(table, MAIN)[0]
        rows = lake.tables.read_partition(table, MAIN, month)
        shuffled = rows.sample(fraction=1, shuffle=True, seed=1)
        records = rows.select("record_id").unique()
        assert not lake.tables.replace_rows(table, MAIN, month, without=records, rows=shuffled)
        assert not lake.tables.replace_rows(table, MAIN, month, without=None, rows=shuffled)
    assert lake.storage.files("", ".parquet") == before


def test_a_damaged_partition_is_an_error_that_names_it(sample_lake):
    lake = sample_lake
    path = lake.tables.files(tables.ANALYSES, MAIN)[0]
    path.write_bytes(path.read_bytes()[:100])
    month = lake.tables.months(tables.ANALYSES, MAIN)[0]
    with pytest.raises(DataError, match="is damaged") as raised:
        lake.tables.read_partition(tables.ANALYSES, MAIN, month)
    assert str(path) in str(raised.value)


def test_files_of_an_older_contract_are_read_with_null_in_later_columns(built, sample_lake):
    path = sample_lake.tables.files(tables.ANALYSES, MAIN)[0]
    older = pq.read_table(path, partitioning=None).drop_columns(["cv_folds"])
    pq.write_table(older.append_column("retired", pa.nulls(len(older), pa.string())), path)
    rows = rows_of(sample_lake, tables.ANALYSES)
    assert rows.schema == polars_schema(tables.ANALYSES)
    rest = rows_of(built.lake, tables.ANALYSES).drop("cv_folds")
    assert_same({"rest": rows.drop("cv_folds")}, {"rest": rest})


# --- names ------------------------------------------------------------------------------------

STRANGE_NAMES = [
    "../../x",
    "..",
    ".",
    "a/b",
    "a b",
    "100%",
    "%2e%2e%2f",
    "a=b",
    "collection=x",
    "x'y\"z",
    "[a-z]*?",
    "mäuse 🐭",
    "new\nline",
    "x" * 200,
]


@pytest.mark.slow
@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_a_collection_of_any_name_stays_in_the_lake_and_is_found_again(tmp_path, sample_dump, name):
    documents = read_dump(sample_dump)[:2]
    dump = tmp_path / "dump"
    file_name = quote(name, safe="").replace(".", "%2E")
    write_dump(dump, documents, file_name)
    lake = Lake(tmp_path / "deep" / "lake")
    load(dump, lake)
    assert lake.collections() == [name]
    assert lake.state(name).collection == name
    assert live_documents_of(lake)["source_collection"].to_list() == [name, name]
    assert rows_of(lake, tables.ANALYSES)["source_collection"].unique().to_list() == [name]
    write_dump(dump, documents[:1], file_name)
    assert load(dump, lake).extracts[name].deleted == 1
    assert rows_of(lake, tables.ANALYSES, name)["record_id"].to_list() == [documents[0]["_id"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "dump"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["lake"]
    expected = {"_locks", "_staging", "_state", *(table.name for table in LAKE_TABLES)}
    assert {path.name for path in lake.storage.root.iterdir()} <= expected


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_the_encoded_name_of_a_collection_is_one_part_of_a_path(name):
    folder = f"collection={encode_name(name)}"
    assert Path(folder).parts == (folder,)
    assert "\0" not in folder
    assert os.path.normpath(folder) == folder


@pytest.mark.slow
def test_a_lake_can_be_in_a_folder_of_any_name(built, sample_dump, tmp_path):
    lake = loaded_lake(sample_dump, tmp_path / "la[k]e * of? 'Mäuse' %20 a=b")
    assert_same(contents_of(lake), contents_of(built.lake))
    load(sample_dump, lake)
    assert len(log_of(lake)) == len(read_dump(sample_dump))


@pytest.mark.parametrize("name", STRANGE_NAMES)
@pytest.mark.parametrize("places", ["object store"], indirect=True)
def test_a_collection_of_any_name_is_found_again_on_an_object_store(places, name):
    lake = places.new()
    lake.change_log(name).append(versions("a"))
    lake.update_state(name, {"source": "there"})
    assert lake.collections() == [name]
    assert lake.state(name).collection == name
    assert lake.change_log(name).live_documents()["record_id"].to_list() == ["a"]
    assert all(file.count("/") == 2 for file in lake.storage.files("documents", ""))


# --- the change log and the state --------------------------------------------------------------


def versions(*ids: str, operation: str = "upsert") -> pl.DataFrame:
    return pl.DataFrame(
        {
            "record_id": ids,
            "document": [f'{{"_id":"{one}"}}' for one in ids],
            "content_hash": ids,
            "operation": operation,
            "extracted_at": NOON,
        }
    ).with_columns(pl.col("extracted_at").cast(pl.Datetime("us", "UTC")))


def test_batches_are_numbered_in_order_and_never_rewritten(places):
    lake = places.new()
    log = lake.change_log("x")
    assert [log.append(versions("a")) for _ in range(3)] == [1, 2, 3]
    assert lake.change_log("y").append(versions("a")) == 1
    assert log.last_batch() == 3
    assert [batch["batch_id"].to_list() for batch in log.read_batches(1)] == [[2], [3]]
    assert log.versions(after=2).collect()["batch_id"].to_list() == [3]


def test_a_state_is_kept_but_for_changed_fields_and_ignores_unknown_ones(places):
    lake = places.new()
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    lake.update_state("x", {"source": "there", "last_full_pass_at": moment})
    lake.update_state("x", {"flattened_through": 7})
    path = lake.storage.path("_state/collection=x.json")
    path.write_text(path.read_text().replace("{", '{"invented_later": [1],', 1))
    state = Lake(lake.storage.root).state("x")
    assert (state.source, state.last_full_pass_at, state.flattened_through) == ("there", moment, 7)
    assert lake.collections() == ["x"]


@pytest.mark.slow
def test_a_state_that_cannot_be_read_costs_work_and_no_data(sample_dump, sample_lake):
    lake = sample_lake
    before = tables_of(lake)
    files = data_files_of(lake.storage.root)
    for invalid in (b"", b"{", b"[]", b'{"collection": 5}', b"\xff\xfe"):
        lake.storage.path(f"_state/collection={MAIN}.json").write_bytes(invalid)
        assert load(sample_dump, lake).extracts[MAIN].unchanged == len(read_dump(sample_dump))
        assert_same(tables_of(lake), before)
        assert data_files_of(lake.storage.root) == files


def test_the_source_s_health_is_kept_but_for_changed_fields(places):
    lake = places.new()
    assert lake.source_health() == SourceHealth()
    lake.update_source_health({"reached_at": NOON, "error": "→ no answer"})
    lake.update_source_health({"is_alerted": True})
    expected = SourceHealth(reached_at=NOON, error="→ no answer", is_alerted=True)
    assert lake.source_health() == expected
    assert lake.storage.read("_state/source.health") == expected.model_dump_json().encode()
    for invalid in (b"", b"{", b"[]", b'{"error": 5}', b"\xff\xfe"):
        lake.storage.write("_state/source.health", content(invalid))
        assert lake.source_health() == SourceHealth()
    lake.update_source_health({"error": "no answer"})
    assert lake.source_health() == SourceHealth(error="no answer")


# --- scratch ----------------------------------------------------------------------------------


def test_scratch_of_killed_runs_is_removed_also_that_of_an_earlier_version(tmp_path):
    left = {f"{kind}-{name}" for kind in ("extract", "recognise", "refresh") for name in "xy"}
    for name in left:
        (tmp_path / "_staging" / name).mkdir(parents=True)
    lake = Lake(tmp_path)
    with lake.lock("x"), lake.scratch("raw-hashes", "y"):
        lake.clear_staging("x")
        kept = {path.name for path in (tmp_path / "_staging").iterdir()}
    assert kept == {"extract-y", "recognise-y", "refresh-y", "raw-hashes-y"}


# --- spilling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0, 2_000, 1 << 30])
def test_rows_are_returned_from_the_disk_as_from_memory(built, tmp_path, budget):
    spill = Spill(tmp_path, budget)
    rows = {table: rows_of(built.lake, table) for table in (tables.ANALYSES, tables.ATTRIBUTES)}
    filed = {
        table: frame.with_columns(
            session_month=pl.when(pl.col("record_id") < "8")
            .then(pl.lit("2024-10"))
            .otherwise(pl.lit(UNKNOWN_MONTH))
        )
        for table, frame in rows.items()
    }
    for table, frame in filed.items():
        for part in frame.iter_slices(50):
            spill.add(table, part)
        spill.add(table, frame.clear())
    assert bool(list(tmp_path.iterdir())) == (budget < 1 << 30)
    for table, frame in filed.items():
        assert spill.partitions(table) == ["2024-10", UNKNOWN_MONTH]
        for month in spill.partitions(table):
            found = spill.rows(table, month)
            expected = frame.filter(pl.col("session_month") == month).drop("session_month")
            assert_same({"rows": found.sort(found.columns)}, {"rows": expected.sort(found.columns)})
    assert spill.partitions(tables.INPUT_ASSETS) == []
    assert spill.rows(tables.INPUT_ASSETS, "2024-10").is_empty()


def test_threads_get_all_rows_of_spilled_partitions(tmp_path):
    spill = Spill(tmp_path, budget_bytes=1 << 30, key="name")
    names = [f"partition {number:02}" for number in range(40)]
    ids = pl.DataFrame({"record_id": map(str, range(5_000))})
    for _ in range(5):
        spill.add(tables.ATTRIBUTES, ids.join(pl.DataFrame({"name": names}), how="cross"))
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda name: spill.rows(tables.ATTRIBUTES, name).height, names)
        assert list(found) == [25_000] * len(names)


# --- locks ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_runs_can_write_two_collections_but_not_one(sample_dump, lake):
    with lake.lock(MAIN), ThreadPoolExecutor(1) as other_run:
        with pytest.raises(DataError, match=f"process {os.getpid()}") as refused:
            other_run.submit(load, sample_dump, lake).result()
        assert repr(MAIN) in str(refused.value)
        assert lake.collections()
        assert MAIN not in lake.collections()
    load(sample_dump, lake)
    assert len(log_of(lake)) == len(read_dump(sample_dump))


def test_record_ids_are_a_column_of_texts_even_if_there_are_none():
    assert record_ids([]).schema == {"record_id": pl.String()}
    assert record_ids(iter(["a"])).rows() == [("a",)]
