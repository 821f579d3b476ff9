"""The lake: what its files are, who can read them, what is rewritten."""

import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent
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
from places import Places
from worlds import (
    LAKE_TABLES,
    MAIN,
    NOON,
    Built,
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

from aind_etl.changelog.passes import Pass
from aind_etl.contract import Table, tables
from aind_etl.contract.schemas import arrow_schema, polars_schema
from aind_etl.errors import DataError
from aind_etl.lake import Lake
from aind_etl.lake.change_log import record_ids
from aind_etl.lake.parquet import write_parquet
from aind_etl.lake.paths import UNKNOWN_MONTH
from aind_etl.lake.spill import Spill

FILLED = [
    tables.ANALYSES,
    tables.FIT_PARAMETERS,
    tables.CROSS_VALIDATION,
    tables.INPUT_ASSETS,
    tables.ATTRIBUTES,
    tables.DOCUMENTS,
]


def keys(rows: pl.DataFrame, table: Table) -> list[tuple[object, ...]]:
    return sorted(rows.select(table.key).iter_rows())


def partitions(built: Built, table: Table) -> list[Path]:
    return sorted(built.lake.storage.path(table.name).rglob("*.parquet"))


# --- readers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("table", FILLED, ids=lambda table: table.name)
def test_duckdb_reads_a_table_by_its_glob(built: Built, table: Table) -> None:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.sql(
            f"SELECT * FROM read_parquet('{built.lake}/{table.name}/**/*.parquet', "
            "hive_partitioning = true)"
        ).to_arrow_table()
    assert_hive_read(pl.DataFrame(found), built.lake, table)


@pytest.mark.parametrize("table", FILLED, ids=lambda table: table.name)
def test_pyarrow_reads_a_table_as_a_dataset(built: Built, table: Table) -> None:
    dataset = ds.dataset(f"{built.lake}/{table.name}", partitioning="hive")
    assert_hive_read(pl.DataFrame(dataset.to_table()), built.lake, table)


@pytest.mark.parametrize("table", FILLED, ids=lambda table: table.name)
def test_polars_reads_a_table_as_a_folder(built: Built, table: Table) -> None:
    found = pl.scan_parquet(f"{built.lake}/{table.name}/", hive_partitioning=True).collect()
    assert_hive_read(found, built.lake, table)


@pytest.mark.parametrize("table", FILLED, ids=lambda table: table.name)
def test_pandas_reads_a_table_as_a_folder(built: Built, table: Table) -> None:
    found = pd.read_parquet(f"{built.lake}/{table.name}", dtype_backend="pyarrow")
    assert set(found["collection"].astype(str)) == set(found["source_collection"])
    arrow = pa.Table.from_pandas(found[list(table.column_names)], arrow_schema(table))
    rows = pl.DataFrame(arrow)
    assert_same({table.name: rows.sort(rows.columns)}, {table.name: rows_of(built.lake, table)})


def assert_hive_read(found: pl.DataFrame, lake: Lake, table: Table) -> None:
    """Check the rows, and that the folders' names say what the rows say."""
    assert found["collection"].cast(pl.String).equals(found["source_collection"], null_equal=True)
    if "session_date" in table.column_names:
        month = pl.col("session_date").dt.to_string("%Y-%m").fill_null(UNKNOWN_MONTH)
        assert found.select((month == pl.col("session_month").cast(pl.String)).all()).item()
    rows = found.select(table.column_names).cast(dict(polars_schema(table)))
    assert not rows.is_empty()
    assert_same({table.name: rows.sort(rows.columns)}, {table.name: rows_of(lake, table)})


def test_a_reader_of_one_partition_finds_its_rows_only(built: Built) -> None:
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
    assert there["session_date"].dt.to_string("%Y-%m").unique().to_list() == [month]


# --- files ------------------------------------------------------------------------------------


def test_every_partition_is_one_file(built: Built) -> None:
    folders = Counter(
        path.parent
        for table in LAKE_TABLES
        if table is not tables.DOCUMENTS
        for path in partitions(built, table)
    )
    assert folders
    assert set(folders.values()) == {1}


def test_files_lie_where_the_contract_says(built: Built) -> None:
    for table in FILLED:
        for path in partitions(built, table):
            levels = path.relative_to(built.lake.storage.path(table.name)).parts[:-1]
            assert tuple(level.partition("=")[0] for level in levels) == table.partitioning.value


def test_nothing_of_a_run_is_left_in_staging(built: Built) -> None:
    assert list(built.lake.storage.path("_staging").iterdir()) == []


@pytest.mark.parametrize("table", FILLED, ids=lambda table: table.name)
def test_files_have_the_contract_s_types_and_no_other_columns(built: Built, table: Table) -> None:
    for path in partitions(built, table):
        assert pq.read_schema(path).equals(arrow_schema(table), check_metadata=False)


def test_files_have_no_nested_columns_and_only_utc_microseconds(built: Built) -> None:
    moments = 0
    for table in FILLED:
        for field in pq.read_schema(partitions(built, table)[0]):
            assert not pa.types.is_nested(field.type)
            assert not pa.types.is_dictionary(field.type)
            if pa.types.is_timestamp(field.type):
                moments += 1
                assert field.type == pa.timestamp("us", "UTC")
    assert moments > 3


def test_files_are_compressed_with_zstd(built: Built) -> None:
    for table in FILLED:
        metadata = pq.read_metadata(partitions(built, table)[0])
        group = metadata.row_group(0)
        assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}


def test_a_column_has_a_dictionary_where_its_values_come_again(lake: Lake) -> None:
    schema = polars_schema(tables.FIT_PARAMETERS)
    written = 5_000
    rows = pl.DataFrame(
        {
            "source_collection": ["fits"] * written,
            "record_id": [f"{number:064x}" for number in range(written)],
            "process_index": [0] * written,
            "parameter": ["biasL"] * written,
            "value": [number / 7 for number in range(written)],
            "lower_bound": [-1.0] * written,
            "at_bound": [False] * written,
        }
    )
    complete = rows.with_columns(
        pl.lit(None, kind).alias(name) for name, kind in schema.items() if name not in rows.columns
    ).select(pl.col(name).cast(kind) for name, kind in schema.items())
    for size in (written, 1_000):
        portions = complete.iter_slices(size)
        write_parquet(lake.storage, "file.parquet", tables.FIT_PARAMETERS, portions)
        path = Path(lake.storage.path("file.parquet"))
        assert pl.read_parquet(path).equals(complete)
        file = pq.read_metadata(path)
        group = file.row_group(0)
        columns = [group.column(place) for place in range(file.num_columns)]
        encodings = {one.path_in_schema: set(one.encodings) for one in columns}
        assert "DELTA_LENGTH_BYTE_ARRAY" in encodings["record_id"]
        assert encodings["value"] == {"PLAIN", "RLE"}
        for name in ("process_index", "parameter", "lower_bound"):
            assert "RLE_DICTIONARY" in encodings[name]
        # Readers skip row groups by these.
        assert all(one.statistics is not None for one in columns)


def test_rows_are_sorted_by_their_key_and_no_key_stands_twice(built: Built) -> None:
    for table in FILLED:
        if table is tables.DOCUMENTS:
            continue
        for path in partitions(built, table):
            found = list(pl.read_parquet(path, hive_partitioning=False).select(table.key).rows())
            assert found == sorted(found), table.name
        everything = keys(rows_of(built.lake, table), table)
        assert len(everything) == len(set(everything)), table.name


def test_moments_mean_the_same_to_every_reader(built: Built) -> None:
    path = partitions(built, tables.DOCUMENTS)[0]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'Asia/Kolkata'")
        (moment,) = connection.execute(
            f"SELECT extracted_at FROM read_parquet('{path}') LIMIT 1"
        ).fetchall()[0]
    assert moment == NOON
    assert pq.read_table(path, partitioning=None)["extracted_at"][0].as_py() == NOON
    assert pd.read_parquet(path, partitioning=None)["extracted_at"][0] == NOON


def test_counts_of_rows_are_those_of_the_files(built: Built) -> None:
    for table in LAKE_TABLES:
        assert built.lake.tables.count_rows(table) == rows_of(built.lake, table).height


def test_tables_without_a_file_are_empty_with_their_columns(places: Places) -> None:
    lake = places.new()
    for table in LAKE_TABLES:
        assert lake.tables.scan(table).collect().schema == polars_schema(table)
        assert lake.tables.count_rows(table) == 0
    assert lake.collections() == []
    assert lake.change_log(MAIN).last_batch() == 0
    assert lake.change_log(MAIN).live_documents().is_empty()


# --- what is rewritten ------------------------------------------------------------------------


@pytest.mark.slow
def test_only_the_partitions_of_a_changed_record_are_rewritten(
    sample_dump: Path, tmp_path: Path
) -> None:
    documents = read_dump(sample_dump)
    dump = tmp_path / "dump"
    write_dump(dump, documents)
    lake = loaded_lake(dump, tmp_path / "lake")
    before = data_files_of(lake.storage.root)
    changed = next(one for one in documents if "analysis_results" in one)
    changed["analysis_results"]["log_likelihood"] -= 1.0
    write_dump(dump, documents)
    report = load(dump, lake).refreshes[MAIN]
    after = data_files_of(lake.storage.root)
    assert report.flattened == 1
    month = changed["session_date"][:7]
    assert {name for name in before if before[name] != after[name]} == {
        f"analyses/collection={MAIN}/session_month={month}/part.parquet",
    }
    assert after.keys() - before.keys() == {f"documents/collection={MAIN}/0000000002.parquet"}
    assert before.keys() <= after.keys()


@pytest.mark.slow
def test_a_record_whose_month_changes_moves(sample_dump: Path, tmp_path: Path) -> None:
    documents = read_dump(sample_dump)
    dump = tmp_path / "dump"
    write_dump(dump, documents)
    lake = loaded_lake(dump, tmp_path / "lake")
    moved = next(one for one in documents if "analysis_results" in one)
    old_month = moved["session_date"][:7]
    moved["session_date"] = "1999-12-31"
    write_dump(dump, documents)
    load(dump, lake)
    for table in (tables.ANALYSES, tables.FIT_PARAMETERS):
        there = lake.tables.read_partition(table, MAIN, "1999-12")
        assert there["record_id"].unique().to_list() == [moved["_id"]]
        left = lake.tables.read_partition(table, MAIN, old_month)
        assert moved["_id"] not in left["record_id"].to_list()
    assert_same(contents_of(lake), contents_of(loaded_lake(dump, tmp_path / "other")))


def test_a_partition_that_loses_its_last_row_disappears_with_its_folder(
    sample_dump: Path, tmp_path: Path
) -> None:
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


def test_a_pass_that_finds_nothing_new_rewrites_nothing(
    sample_dump: Path, sample_lake: Lake
) -> None:
    before = data_files_of(sample_lake.storage.root)
    for pass_kind in Pass:
        load(sample_dump, sample_lake, pass_kind)
    assert data_files_of(sample_lake.storage.root) == before


def test_the_same_rows_again_leave_a_partition_alone(places: Places, built: Built) -> None:
    lake = places.copy(built.lake.storage.root)
    before = lake.storage.marks("", ".parquet")
    for table in (tables.ANALYSES, tables.ATTRIBUTES):
        month = lake.tables.months(table, MAIN)[0]
        rows = lake.tables.read_partition(table, MAIN, month)
        shuffled = rows.sample(fraction=1, shuffle=True, seed=1)
        records = rows.select("record_id").unique()
        assert not lake.tables.replace_rows(table, MAIN, month, without=records, rows=shuffled)
        assert not lake.tables.replace_rows(table, MAIN, month, without=None, rows=shuffled)
    assert lake.storage.marks("", ".parquet") == before


def test_a_damaged_partition_is_an_error_that_names_it(sample_lake: Lake) -> None:
    lake = sample_lake
    path = lake.tables.files(tables.ANALYSES, MAIN)[0]
    path.write_bytes(path.read_bytes()[:100])
    month = lake.tables.months(tables.ANALYSES, MAIN)[0]
    with pytest.raises(DataError, match="is damaged") as raised:
        lake.tables.read_partition(tables.ANALYSES, MAIN, month)
    assert str(path) in str(raised.value)


def test_rows_of_an_older_contract_are_read_with_what_it_lacked_missing(
    built: Built, sample_lake: Lake
) -> None:
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
def test_a_collection_of_any_name_stays_in_the_lake_and_is_found_again(
    tmp_path: Path, sample_dump: Path, name: str
) -> None:
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
    assert {path.name for path in lake.storage.root.iterdir()} <= {
        "_locks",
        "_staging",
        "_state",
        *(table.name for table in LAKE_TABLES),
    }


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_the_name_of_a_collection_is_one_step_of_a_path(name: str) -> None:
    folder = f"collection={quote(name, safe='')}"
    assert Path(folder).parts == (folder,)
    assert "\0" not in folder
    assert os.path.normpath(folder) == folder


@pytest.mark.slow
def test_a_lake_may_lie_in_a_folder_of_any_name(
    built: Built, sample_dump: Path, tmp_path: Path
) -> None:
    lake = loaded_lake(sample_dump, tmp_path / "la[k]e * of? 'Mäuse' %20 a=b")
    assert_same(contents_of(lake), contents_of(built.lake))
    load(sample_dump, lake)
    assert len(log_of(lake)) == len(read_dump(sample_dump))


@pytest.mark.parametrize("name", STRANGE_NAMES)
@pytest.mark.parametrize("places", ["object store"], indirect=True)
def test_on_an_object_store_too_a_collection_of_any_name_is_found_again(
    places: Places, name: str
) -> None:
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


def test_batches_are_numbered_in_order_and_never_written_again(places: Places) -> None:
    lake = places.new()
    assert [lake.change_log("x").append(versions("a")) for _ in range(3)] == [1, 2, 3]
    assert lake.change_log("y").append(versions("a")) == 1
    assert lake.change_log("x").last_batch() == 3
    assert [
        batch["batch_id"].unique().to_list() for batch in lake.change_log("x").read_batches(1)
    ] == [
        [2],
        [3],
    ]
    assert lake.change_log("x").versions(after=2).collect()["batch_id"].to_list() == [3]


def test_the_last_version_says_whether_a_document_is_live(places: Places) -> None:
    lake = places.new()
    lake.change_log("x").append(versions("a", "b", "c"))
    lake.change_log("x").append(versions("a", "b", operation="delete"))
    lake.change_log("x").append(versions("a"))
    assert sorted(lake.change_log("x").live_documents()["record_id"]) == ["a", "c"]


def test_a_state_survives_and_only_what_is_changed_changes(places: Places) -> None:
    lake = places.new()
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    lake.update_state("x", {"source": "there", "last_full_pass_at": moment})
    lake.update_state("x", {"flattened_through": 7})
    state = Lake(lake.storage.root).state("x")
    assert (state.source, state.last_full_pass_at, state.flattened_through) == ("there", moment, 7)
    assert lake.collections() == ["x"]


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"collection": 5}', b"\xff\xfe"])
def test_a_state_that_cannot_be_read_costs_work_and_no_data(
    sample_dump: Path, sample_lake: Lake, content: bytes
) -> None:
    lake = sample_lake
    before = tables_of(lake)
    files = data_files_of(lake.storage.root)
    lake.storage.path(f"_state/collection={MAIN}.json").write_bytes(content)
    assert load(sample_dump, lake).extracts[MAIN].unchanged == len(read_dump(sample_dump))
    assert_same(tables_of(lake), before)
    assert data_files_of(lake.storage.root) == files


def test_a_state_of_a_later_version_is_understood(places: Places) -> None:
    lake = places.new()
    lake.update_state("x", {"source": "there"})
    path = lake.storage.path("_state/collection=x.json")
    path.write_text(path.read_text().replace("{", '{"invented_later": [1],', 1))
    assert lake.state("x").source == "there"


# --- spilling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0, 2_000, 1 << 30])
def test_rows_come_back_from_the_disk_as_from_memory(
    built: Built, tmp_path: Path, budget: int
) -> None:
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
        assert spill.months(table) == ["2024-10", UNKNOWN_MONTH]
        for month in spill.months(table):
            found = spill.rows(table, month)
            expected = frame.filter(pl.col("session_month") == month).drop("session_month")
            assert_same({"rows": found.sort(found.columns)}, {"rows": expected.sort(found.columns)})
    assert spill.months(tables.INPUT_ASSETS) == []
    assert spill.rows(tables.INPUT_ASSETS, "2024-10").is_empty()


# --- locks ------------------------------------------------------------------------------------

HOLD = dedent("""\
    import sys, time
    from pathlib import Path
    from aind_etl.lake import Lake

    with Lake(Path(sys.argv[1])).lock(sys.argv[2]):
        print("held", flush=True)
        time.sleep(600)
""")


@pytest.mark.slow
def test_two_runs_never_write_one_collection_and_may_write_two(
    sample_dump: Path, lake: Lake
) -> None:
    command = [sys.executable, "-c", HOLD, str(lake), MAIN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with lake.lock("another"):
            pass
        with pytest.raises(DataError, match=f"process {holder.pid}") as refused:
            load(sample_dump, lake)
        assert repr(MAIN) in str(refused.value)
        assert MAIN not in lake.collections()
        holder.kill()
        holder.wait()
    load(sample_dump, lake)
    assert len(log_of(lake)) == len(read_dump(sample_dump))


def test_records_are_a_column_of_texts_even_if_there_are_none() -> None:
    assert record_ids([]).schema == {"record_id": pl.String()}
    assert record_ids(iter(["a"])).rows() == [("a",)]
