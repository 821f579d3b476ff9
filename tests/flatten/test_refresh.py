"""The analysis tables follow the change log, and what does not fit is kept with a reason."""

import json
import math
import os
import shutil
from collections.abc import Callable
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import bson
import polars as pl
import pytest
from worlds import (
    LAKE_TABLES,
    MAIN,
    NOON,
    Built,
    Clock,
    JsonDocument,
    assert_same,
    contents_of,
    data_files_of,
    extract,
    files_of,
    live_documents_of,
    load,
    loaded_lake,
    read_dump,
    refresh,
    rows_of,
    tables_of,
    write_dump,
)

import aind_etl.flatten.refresh
from aind_etl.contract import ANALYSIS_TABLES, FLATTENED_TABLES, Table, tables
from aind_etl.errors import DataError
from aind_etl.flatten import Flattened, flatten_documents
from aind_etl.flatten.refresh import RefreshReport, refresh_analyses
from aind_etl.lake import Lake
from aind_etl.lake.tables import Tables
from aind_etl.sources.canonical import UNREADABLE_PREFIX, WITHOUT_ID_PREFIX
from aind_etl.warehouse.build import build_warehouse
from aind_etl.warehouse.connection import connect


def changed(document: JsonDocument, path: str, value: object) -> JsonDocument:
    """Return a document with another value at a path, under an id that says so."""
    copy = deepcopy(document)
    at: Any = copy
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in way:
        at = at[step]
    at[last] = value
    if path != "_id":
        copy["_id"] = f"{document['_id'][:8]} {path}={value!r:.30}"
    return copy


Rows = dict[Table, pl.DataFrame]


def load_documents(
    documents: list[JsonDocument], dump: Path, lake: Lake, **options: Any
) -> RefreshReport:
    """Load a dump with these documents, and return the report on their collection."""
    write_dump(dump, documents)
    return load(dump, lake, **options).refreshes[MAIN]


def assert_nothing_is_lost(lake: Lake) -> None:
    """Check that every live document is either flattened or rejected."""
    for collection in lake.collections():
        live = set(live_documents_of(lake).filter(source_collection=collection)["record_id"])
        flattened = set(rows_of(lake, tables.ANALYSES, collection)["record_id"])
        rejected = rows_of(lake, tables.REJECTED_DOCUMENTS, collection)["record_id"].to_list()
        assert len(rejected) == len(set(rejected))
        assert flattened.isdisjoint(rejected)
        assert flattened | set(rejected) == live


# --- every kind of bad document -----------------------------------------------------------------

NOT_DOCUMENTS = {
    b"oops": "not_json",
    b'{"_id": "cut off", "x": [1,': "not_json",
    b'{"_id": "\xff\xfe is no UTF-8"}': "not_json",
    b'{"_id": "half a pair \\ud800"}': "not_json",
    b"{'_id': 'single quotes'}": "not_json",
    b'{"x":' * 5_000 + b"1" + b"}" * 5_000: "not_json",
    b"5": "not_an_object",
    b"null": "not_an_object",
    b'"a text"': "not_an_object",
    b'[{"_id": "in a list"}]': "not_an_object",
    b"{}": "missing_id",
    b'{"_id": null, "nwb_name": "x"}': "missing_id",
    b'{"nwb_name": "no id", "status": "success"}': "missing_id",
    b'{"_id": "of no format"}': "unknown_format",
    b'{"_id": "p1", "processing": null}': "no_process",
    b'{"_id": "p2", "processing": []}': "no_process",
    b'{"_id": "p3", "processing": {"data_processes": []}}': "no_process",
    b'{"_id": "p4", "processing": {"data_processes": {"0": 1}}}': "no_process",
    b'{"_id": "p5", "processing": {"data_processes": [5]}}': "no_process",
    b'{"_id": "p6", "object_type": "Metadata"}': "no_process",
}

FIT = "analysis_results"
# As a value of a document, it is nested as deeply as the canonical form can be.
DEEPEST = json.loads('{"x":' * 252 + '{"$numberDouble":"NaN"}' + "}" * 252)
WRONG_VALUES: list[tuple[str, object, str]] = [
    ("subject_id", 5.5, "wrong_type"),
    ("nwb_name", ["a", "list"], "wrong_type"),
    ("status", [True], "wrong_type"),
    ("status", DEEPEST, "wrong_type"),
    ("session_date", 20241024, "wrong_type"),
    ("session_date", "yesterday", "wrong_value"),
    ("session_date", "2024-13-45", "wrong_value"),
    ("analysis_datetime", "2024-10-24T25:61:00", "wrong_value"),
    ("analysis_spec", "a text", "wrong_type"),
    ("analysis_spec.analysis_args", [1], "wrong_type"),
    (FIT, "a text", "wrong_type"),
    (FIT, [1, 2], "wrong_type"),
    (f"{FIT}.log_likelihood", "very likely", "wrong_type"),
    (f"{FIT}.AIC", {"of": 1}, "wrong_type"),
    (f"{FIT}.n_trials", "many", "wrong_type"),
    (f"{FIT}.n_trials", 12.5, "wrong_value"),
    (f"{FIT}.n_trials", 2**40, "wrong_value"),
    (f"{FIT}.n_trials", 10**30, "wrong_value"),
    (f"{FIT}.n_trials", math.inf, "wrong_value"),
    (f"{FIT}.n_trials", math.nan, "wrong_value"),
    (f"{FIT}.success", 1, "wrong_type"),
    (f"{FIT}.params", [0.5], "wrong_type"),
    (f"{FIT}.params", {"biasL": "left"}, "wrong_type"),
    (f"{FIT}.fit_settings.fit_names", ["one"], "lengths_differ"),
    (f"{FIT}.cross_validation.prediction_accuracy_test", "all", "wrong_type"),
    (f"{FIT}.cross_validation.prediction_accuracy_test", [0.5] * 9 + ["half"], "wrong_type"),
    (f"{FIT}.cross_validation", {"prediction_accuracy_test": [0.5] * 40_000}, "wrong_value"),
]

STRANGE_VALUES: list[tuple[str, object]] = [
    ("_id", "../../../etc/'passwd\" \\ ; DROP TABLE analyses; --\n\0"),
    ("_id", ""),
    ("_id", 17),
    ("subject_id", 744040),
    ("status", True),
    (f"{FIT}.log_likelihood", "-212.5"),
    ("_id", {"$oid": "65f0c0ffee65f0c0ffee65f0"}),
    ("_id", {"session": 1, "agent": "x"}),
    (FIT, None),
    (f"{FIT}.log_likelihood", math.nan),
    (f"{FIT}.log_likelihood", -math.inf),
    (f"{FIT}.log_likelihood", None),
    (f"{FIT}.params", {"biasL": math.inf, "epsilon": math.nan, "": None}),
    (f"{FIT}.params", {}),
    (f"{FIT}.n_trials", 400.0),
    (f"{FIT}.note", "x" * (16 << 20)),
    (f"{FIT}.note", {"": {".": [{"[0]": 10**30}, [[], {}], "\0", math.inf]}}),
    ("status", ""),
    ("status", "a status that nobody ever wrote"),
    ("nwb_name", "no name at all"),
    ("session_date", "9999-12-31"),
    ("analysis_datetime", "2024-10-24T09:30:00.123456789+05:30"),
    ("note", DEEPEST),
    ("x" * 10_000, 1),
]


@pytest.fixture(scope="module")
def bad_dump(
    sample_dump: Path, fit: JsonDocument, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a dump with bad and strange documents of every kind among good ones."""
    folder = tmp_path_factory.mktemp("bad") / "deep" / "er" / "dump"
    path = write_dump(folder, read_dump(sample_dump)[:20])
    odd = [changed(fit, *one) for one in STRANGE_VALUES]
    odd += [changed(fit, where, value) for where, value, _ in WRONG_VALUES]
    lines = [json.dumps(one).encode() for one in (*odd, *read_dump(sample_dump)[20:40])]
    with path.open("ab") as file:
        file.writelines(line + b"\n" for line in (*NOT_DOCUMENTS, *lines))
    write_dump(folder, [fit], "..%2F..%2F..%2Fx")
    return folder


@pytest.fixture(scope="module")
def bad_lake(bad_dump: Path) -> Lake:
    return loaded_lake(bad_dump, bad_dump.parent / "lake")


@pytest.fixture(scope="module")
def bad_tables(bad_lake: Lake) -> Rows:
    """Return the tables of the collection with the bad documents."""
    return {table: rows_of(bad_lake, table, MAIN) for table in FLATTENED_TABLES}


@pytest.fixture(scope="module")
def fit(fits: dict[str, JsonDocument]) -> JsonDocument:
    """Return a prototype document with a fit, not to be changed."""
    return fits["prototype"]


def test_every_kind_of_bad_document_is_loaded_or_rejected_and_none_is_lost(bad_lake: Lake) -> None:
    assert_nothing_is_lost(bad_lake)
    documents = live_documents_of(bad_lake).filter(source_collection=MAIN)
    assert documents.height == 40 + len(NOT_DOCUMENTS) + len(WRONG_VALUES) + len(STRANGE_VALUES)
    hashes = documents.select("record_id", "content_hash")
    for table in (tables.ANALYSES, tables.REJECTED_DOCUMENTS, tables.REJECTED_VALUES):
        rows = rows_of(bad_lake, table, MAIN)
        assert rows.join(hashes, on=hashes.columns, how="anti").is_empty()


def test_bad_documents_do_not_affect_others(
    bad_tables: Rows, sample_dump: Path, tmp_path: Path
) -> None:
    good = read_dump(sample_dump)[:40]
    write_dump(tmp_path / "good", good)
    clean = tables_of(loaded_lake(tmp_path / "good", tmp_path / "lake"))
    ids = {one["_id"] for one in good}
    among = {
        table.name: bad_tables[table].filter(pl.col("record_id").is_in(ids))
        for table in ANALYSIS_TABLES
    }
    assert_same(among, {name: clean[name] for name in among})


def test_what_is_not_a_document_is_rejected_with_a_reason(bad_tables: Rows) -> None:
    rows = bad_tables[tables.REJECTED_DOCUMENTS]
    assert sorted(rows["reason"]) == sorted(NOT_DOCUMENTS.values())
    for record_id, reason, message in rows.select("record_id", "reason", "message").rows():
        assert record_id.startswith(UNREADABLE_PREFIX) == (reason == "not_json")
        if reason in {"missing_id", "not_an_object"}:
            assert record_id.startswith((WITHOUT_ID_PREFIX, "_id:null"))
        assert message[0].isupper()
        assert message.endswith(".")
        assert len(message) < 500


@pytest.mark.parametrize(("path", "value", "reason"), WRONG_VALUES)
def test_a_wrong_value_is_rejected_and_the_rest_of_its_record_is_loaded(
    bad_tables: Rows, fit: JsonDocument, path: str, value: object, reason: str
) -> None:
    record_id = changed(fit, path, value)["_id"]
    rejected = bad_tables[tables.REJECTED_VALUES].filter(record_id=record_id)
    assert set(rejected["reason"]) == {reason}
    group = path.rpartition(".")[0] if reason == "lengths_differ" else path
    assert all(found.startswith(group) for found in rejected["path"])
    (row,) = bad_tables[tables.ANALYSES].filter(record_id=record_id).iter_rows(named=True)
    assert row["n_rejected_values"] == rejected.height
    assert record_id not in bad_tables[tables.REJECTED_DOCUMENTS]["record_id"]
    assert row["analysis_version"] is not None or path.startswith("analysis_spec")


def test_strange_documents_are_loaded(bad_tables: Rows, fit: JsonDocument) -> None:
    loaded = set(bad_tables[tables.ANALYSES]["record_id"])
    for path, value in STRANGE_VALUES:
        if path != "_id":
            assert changed(fit, path, value)["_id"] in loaded, path
    strange_ids = {
        "",
        "_id:17",
        '_id:{"$oid":"65f0c0ffee65f0c0ffee65f0"}',
        '_id:{"session":1,"agent":"x"}',
    }
    assert strange_ids | {str(STRANGE_VALUES[0][1])} <= loaded


def test_nan_is_null_and_infinity_stays(bad_tables: Rows, fit: JsonDocument) -> None:
    def log_likelihood(value: float) -> list[float | None]:
        record_id = changed(fit, f"{FIT}.log_likelihood", value)["_id"]
        return bad_tables[tables.ANALYSES].filter(record_id=record_id)["log_likelihood"].to_list()

    assert log_likelihood(math.nan) == [None]
    assert log_likelihood(-math.inf) == [-math.inf]


def test_sixteen_megabytes_of_text_are_kept_whole(bad_tables: Rows) -> None:
    longest = bad_tables[tables.ATTRIBUTES]["value_text"].str.len_bytes().max()
    assert longest == 16 << 20


def test_nothing_is_written_outside_the_lake(bad_dump: Path, bad_lake: Lake) -> None:
    top = bad_dump.parents[2]
    found = [path for path in top.rglob("*") if path.is_file()]
    assert {path.relative_to(top).parts[2] for path in found} == {"dump", "lake"}
    assert bad_lake.collections() == ["../../../x", MAIN]


def test_a_second_run_over_bad_documents_changes_nothing(bad_dump: Path, bad_lake: Lake) -> None:
    before = data_files_of(bad_lake.storage.root)
    report = load(bad_dump, bad_lake)
    assert data_files_of(bad_lake.storage.root) == before
    assert {one.new + one.changed + one.deleted for one in report.extracts.values()} == {0}


def test_the_warehouse_of_bad_documents_is_built(bad_lake: Lake, tmp_path: Path) -> None:
    build_warehouse(bad_lake, tmp_path / "warehouse.duckdb")
    with connect(tmp_path / "warehouse.duckdb") as connection:
        counts = connection.execute(
            "SELECT live_documents, rejected_documents FROM collections "
            "WHERE source_collection = ?",
            [MAIN],
        ).fetchall()
    documents = 40 + len(NOT_DOCUMENTS) + len(WRONG_VALUES) + len(STRANGE_VALUES)
    assert counts == [(documents, len(NOT_DOCUMENTS))]


def test_bad_documents_in_bson_have_the_same_rows(
    bad_tables: Rows, fit: JsonDocument, tmp_path: Path
) -> None:
    values = [
        (path, value)
        for path, value, *_ in [*STRANGE_VALUES, *WRONG_VALUES]
        if value != 10**30 and "note" not in path and value != {"$oid": "65f0c0ffee65f0c0ffee65f0"}
    ]
    (tmp_path / f"{MAIN}.bson").write_bytes(
        b"".join(bson.encode(changed(fit, path, value)) for path, value in values)
    )
    lake = loaded_lake(tmp_path, tmp_path / "lake")
    assert_nothing_is_lost(lake)
    for table in (tables.ANALYSES, tables.REJECTED_VALUES):
        found = rows_of(lake, table)
        same = bad_tables[table].filter(pl.col("record_id").is_in(found["record_id"].implode()))
        assert_same({table.name: found}, {table.name: same})
    assert live_documents_of(lake).height == len(values)


# --- keeping in step ----------------------------------------------------------------------------


def test_every_document_of_the_sample_is_flattened_or_rejected(built: Built) -> None:
    assert_nothing_is_lost(built.lake)


def test_the_report_counts_documents(sample_dump: Path, lake: Lake, tmp_path: Path) -> None:
    documents = read_dump(sample_dump)[:10]
    documents[3] = {"_id": documents[3]["_id"]}
    documents[4]["subject_id"] = []
    dump = tmp_path / "dump"
    first = load_documents(documents, dump, lake)
    assert (first.flattened, first.rejected, first.removed) == (9, 1, 0)
    assert first.rejected_values == 1
    second = load_documents(documents[2:], dump, lake)
    assert (second.flattened, second.rejected, second.removed) == (0, 0, 2)
    assert second.partitions_written > 0


def test_a_refresh_without_new_batches_writes_nothing(sample_lake: Lake) -> None:
    before = files_of(sample_lake.storage.root)
    for collection in sample_lake.collections():
        assert refresh_analyses(sample_lake, collection) == RefreshReport(collection)
    assert files_of(sample_lake.storage.root) == before


def test_a_refresh_of_an_unknown_collection_writes_nothing(lake: Lake) -> None:
    assert refresh_analyses(lake, "nobody") == RefreshReport("nobody")
    assert not lake.storage.root.exists()


def test_several_passes_before_one_refresh_give_the_last_version(
    sample_dump: Path, lake: Lake, tmp_path: Path
) -> None:
    documents = read_dump(sample_dump)[:12]
    dump = tmp_path / "dump"
    for status in ("one", "two", "three"):
        documents = documents[1:]
        documents[0] = documents[0] | {"status": status}
        write_dump(dump, documents)
        extract(dump, lake)
    report = refresh(lake)[MAIN]
    assert (report.flattened, report.removed) == (9, 2)
    assert_same(contents_of(lake), contents_of(loaded_lake(dump, tmp_path / "other")))


def test_bad_documents_and_values_are_rejected_until_they_are_corrected(
    fit: JsonDocument, lake: Lake, tmp_path: Path
) -> None:
    dump = tmp_path / "dump"
    good, bad, wrong = fit | {"subject_id": "1"}, {"_id": fit["_id"]}, fit | {"subject_id": []}
    for document in (good, bad, wrong, bad, good, wrong, good):
        load_documents([document], dump, lake)
        assert rows_of(lake, tables.REJECTED_DOCUMENTS).height == (document is bad)
        assert rows_of(lake, tables.REJECTED_VALUES).height == (document is wrong)
        for table in (tables.ANALYSES, tables.FIT_PARAMETERS, tables.CROSS_VALIDATION):
            assert bool(rows_of(lake, table).height) != (document is bad)
        subjects = {"1": good, None: wrong}
        for subject in rows_of(lake, tables.ANALYSES)["subject_id"]:
            assert subjects[subject] is document
    for table in (tables.REJECTED_DOCUMENTS, tables.REJECTED_VALUES):
        assert not lake.tables.files(table)


def test_a_change_log_that_disappears_while_it_is_flattened_is_an_error(
    sample_dump: Path, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = tmp_path / "dump"
    write_dump(dump, read_dump(sample_dump)[:3])
    extract(dump, lake)

    def flatten_and_remove(*batch: Any) -> Flattened:
        shutil.rmtree(lake.storage.path(tables.DOCUMENTS.name))
        return flatten_documents(*batch)

    monkeypatch.setattr(aind_etl.flatten.refresh, "flatten_documents", flatten_and_remove)
    with pytest.raises(DataError, match="disappeared while it was flattened"):
        refresh_analyses(lake, MAIN)
    assert lake.state(MAIN).flattened_through == 0


def test_a_refresh_that_is_interrupted_is_not_taken_for_damage_by_the_next(
    sample_dump: Path, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = read_dump(sample_dump)[:6]
    dump = tmp_path / "dump"
    load_documents(documents, dump, lake)
    documents[0]["status"] = "a status of another length"
    write_dump(dump, documents)
    extract(dump, lake)
    replace_rows = Tables.replace_rows

    def interrupted(self: Tables, table: Table, *partition: Any, **rows: Any) -> bool:
        if table is tables.REJECTED_DOCUMENTS:
            raise KeyboardInterrupt
        return replace_rows(self, table, *partition, **rows)

    with monkeypatch.context() as patch:
        patch.setattr(Tables, "replace_rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            refresh_analyses(lake, MAIN)
    report = refresh_analyses(lake, MAIN)
    assert (report.flattened, report.repaired) == (1, "")
    assert_same(contents_of(lake), contents_of(loaded_lake(dump, tmp_path / "other")))


def test_a_record_that_loses_processes_loses_their_rows(
    fits: dict[str, JsonDocument], lake: Lake, tmp_path: Path
) -> None:
    document = deepcopy(fits["framework"])
    (process,) = document["processing"]["data_processes"]
    dump = tmp_path / "dump"
    for count in (1, 3, 2):
        document["processing"]["data_processes"] = [process] * count
        load_documents([document], dump, lake)
        assert rows_of(lake, tables.ANALYSES)["process_index"].to_list() == list(range(count))
        parameters = rows_of(lake, tables.FIT_PARAMETERS)
        assert sorted(set(parameters["process_index"])) == list(range(count))


def test_rows_have_the_times_of_the_first_and_of_the_last_change(
    sample_dump: Path, lake: Lake, tmp_path: Path
) -> None:
    documents = read_dump(sample_dump)[:3]
    dump, clock = tmp_path / "dump", Clock()
    load_documents(documents, dump, lake, now=clock)
    clock.move(days=1)
    documents[0]["status"] = "another"
    documents[1] = {"_id": documents[1]["_id"]}
    documents[2]["subject_id"] = []
    load_documents(documents, dump, lake, now=clock)
    found = {
        row["record_id"]: (row["first_seen_at"] - NOON, row["changed_at"] - NOON)
        for row in rows_of(lake, tables.ANALYSES).iter_rows(named=True)
    }
    day, at_once = timedelta(days=1), timedelta()
    assert found == {documents[0]["_id"]: (at_once, day), documents[2]["_id"]: (at_once, day)}
    for table in (tables.REJECTED_DOCUMENTS, tables.REJECTED_VALUES):
        (rejected,) = rows_of(lake, table).rows(named=True)
        assert rejected["extracted_at"] == clock()


@pytest.mark.slow
@pytest.mark.parametrize("spill_bytes", [0, 100_000])
def test_bounded_memory_gives_the_same_tables_to_the_byte(
    built: Built, lake: Lake, monkeypatch: pytest.MonkeyPatch, spill_bytes: int
) -> None:
    monkeypatch.setattr(aind_etl.flatten.refresh, "_PORTION_DOCUMENTS", 30)
    monkeypatch.setattr(aind_etl.flatten.refresh, "_PORTION_BYTES", 90_000)
    monkeypatch.setattr(aind_etl.flatten.refresh, "_SPILL_BYTES", spill_bytes)
    load(built.source, lake)
    assert files_of(lake.storage.root) == files_of(built.lake.storage.root)
    assert not list(lake.storage.path("_staging").iterdir())


def test_portions_of_documents_are_bounded_in_number_and_size(
    sample_dump: Path, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = read_dump(sample_dump)[:100]
    write_dump(tmp_path / "dump", documents)
    extract(tmp_path / "dump", lake)
    monkeypatch.setattr(aind_etl.flatten.refresh, "_PORTION_DOCUMENTS", 20)
    monkeypatch.setattr(aind_etl.flatten.refresh, "_PORTION_BYTES", 50_000)
    portions: list[list[int]] = []

    def watched(collection: str, documents: pl.DataFrame) -> Flattened:
        portions.append(documents["document"].str.len_bytes().to_list())
        return flatten_documents(collection, documents)

    monkeypatch.setattr(aind_etl.flatten.refresh, "flatten_documents", watched)
    steps: list[int] = []
    refresh_analyses(lake, MAIN, progress=steps.append)
    assert [len(portion) for portion in portions] == steps
    assert sum(steps) == len(documents)
    assert all(len(portion) <= 20 for portion in portions)
    assert all(len(portion) == 1 or sum(portion) <= 50_000 for portion in portions)
    assert len(steps) > 3
    assert max(steps) > 1


# --- another flattener --------------------------------------------------------------------------


@pytest.mark.slow
def test_when_the_code_changes_every_document_is_flattened_again(
    built: Built, lake: Lake, load_as_before: Callable[[Path, Lake], None]
) -> None:
    load_as_before(built.source, lake)
    assert lake.tables.months(tables.ANALYSES, MAIN) == ["1970-01"]
    assert rows_of(lake, tables.REJECTED_DOCUMENTS).height > 100
    assert rows_of(lake, tables.REJECTED_VALUES).height > 100
    refresh(lake)
    assert_same(tables_of(lake), tables_of(built.lake))
    assert files_of(lake.storage.root) == files_of(built.lake.storage.root)


@pytest.mark.slow
def test_the_version_of_the_code_is_part_of_the_state(
    sample_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = data_files_of(sample_lake.storage.root)
    monkeypatch.setattr(aind_etl.flatten.refresh, "flattener_version", lambda: "another")
    report = refresh(sample_lake)[MAIN]
    assert report.flattened == len(
        rows_of(sample_lake, tables.ANALYSES, MAIN)["record_id"].unique()
    )
    assert report.partitions_written == 0, "the rows are the same"
    assert data_files_of(sample_lake.storage.root) == before
    assert sample_lake.state(MAIN).flattener == "another"
    assert refresh(sample_lake)[MAIN] == RefreshReport(MAIN)


# --- rebuilding the tables ------------------------------------------------------------------------


def test_rebuilt_tables_are_the_same_whatever_happened_to_their_files(
    built: Built, sample_lake: Lake
) -> None:
    files = sample_lake.tables.files(tables.ANALYSES, MAIN)
    files[0].unlink()
    files[1].write_bytes(b"damaged")
    os.truncate(files[2], 1_000)
    extra = sample_lake.storage.path(f"attributes/collection={MAIN}/session_month=1970-01")
    extra.mkdir()
    (extra / "part.parquet").write_bytes(
        sample_lake.tables.files(tables.ATTRIBUTES, MAIN)[0].read_bytes()
    )
    for collection in sample_lake.collections():
        refresh_analyses(sample_lake, collection, rebuild=True)
    assert files_of(sample_lake.storage.root) == files_of(built.lake.storage.root)


def test_tables_rebuilt_from_an_empty_log_are_empty(lake: Lake, tmp_path: Path) -> None:
    load_documents([], tmp_path / "dump", lake)
    assert refresh_analyses(lake, MAIN, rebuild=True) == RefreshReport(MAIN)
    assert {
        table.name: lake.tables.count_rows(table)
        for table in LAKE_TABLES
        if lake.tables.files(table)
    } == {}


def overwrite(path: Path) -> None:
    """Change bytes in the middle, and not the size."""
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * (len(content) - 12) + content[-8:])


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: os.truncate(path, 1_000),
        overwrite,
    ],
    ids=["missing", "empty", "cut off", "overwritten"],
)
@pytest.mark.parametrize(
    "table", [tables.ANALYSES, tables.ATTRIBUTES, tables.REJECTED_VALUES], ids=lambda t: t.name
)
@pytest.mark.parametrize("is_changed", [True, False])
def test_the_next_refresh_rebuilds_a_missing_or_damaged_file(  # noqa: PLR0913, PLR0917
    sample_dump: Path,
    lake: Lake,
    tmp_path: Path,
    damage: Callable[[Path], None],
    table: Table,
    is_changed: bool,
) -> None:
    documents = read_dump(sample_dump)[:40]
    documents[3]["subject_id"] = []
    dump = tmp_path / "dump"
    load_documents(documents, dump, lake)
    path = Path(str(lake.tables.files(table)[0]))
    damage(path)
    if is_changed:
        documents[3]["status"] = "changed"
        write_dump(dump, documents)
    if damage is overwrite and not is_changed:
        return  # Nothing reads it: 'verify' finds it.
    report = load(dump, lake).refreshes[MAIN]
    assert path.name in report.repaired
    assert report.flattened == len(documents)
    assert_same(contents_of(lake), contents_of(loaded_lake(dump, tmp_path / "other")))
    again = load(dump, lake).refreshes[MAIN]
    assert (again.repaired, again.flattened) == ("", 0)


def test_tables_follow_a_log_file_that_is_removed_and_one_that_is_restored(
    sample_dump: Path, lake: Lake, tmp_path: Path
) -> None:
    documents = read_dump(sample_dump)[:6]
    dump = tmp_path / "dump"
    for count in (2, 4, 6):
        load_documents(documents[:count], dump, lake)
    before = contents_of(lake)
    file = Path(str(lake.tables.files(tables.DOCUMENTS)[1]))
    content = file.read_bytes()
    file.unlink()
    report = refresh(lake)[MAIN]
    assert "removed or restored" in report.repaired
    assert_nothing_is_lost(lake)
    assert rows_of(lake, tables.ANALYSES)["record_id"].n_unique() == 4
    file.write_bytes(content)
    refresh(lake)
    assert_same(contents_of(lake), before)
