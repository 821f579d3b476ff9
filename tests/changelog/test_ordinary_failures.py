"""Ordinary failures: a wrong source, a truncated file, one collection of many."""

import gzip
import importlib
import shutil
from contextlib import suppress
from random import Random

import orjson
import pytest
from worlds import MAIN, load, write_dump

import aind_etl.orchestration.metadata
import aind_etl.results
from aind_etl.changelog.passes import Pass
from aind_etl.client.verify import verify_collection
from aind_etl.contract import tables
from aind_etl.errors import ConfigurationError, SourceError, UnexpectedError
from aind_etl.lake.storage.local import LocalStorage
from aind_etl.orchestration.instance import run_everything
from aind_etl.orchestration.resources import Etl
from aind_etl.settings import load_settings
from aind_etl.sources.dump import DumpSource
from aind_etl.sources.protocol import read_documents
from aind_etl.warehouse.connection import connect

pytestmark = pytest.mark.slow

SMALL, OTHER = "dynamic-foraging-analysis", "dynamic-foraging-nm"


@pytest.fixture
def dump(sample_dump, tmp_path):
    """Return a copy of two collections of the sample's dump."""
    (tmp_path / "dump").mkdir()
    for name in (SMALL, OTHER):
        shutil.copy(sample_dump / f"{name}.jsonl", tmp_path / "dump")
    return tmp_path / "dump"


@pytest.fixture
def opened(new_history, monkeypatch, tmp_path):
    """Return a function that opens a source and a new lake."""
    monkeypatch.setenv("DAGSTER_HOME", str(new_history))

    def opened(source, **settings):
        return Etl(load_settings(source=str(source), lake=tmp_path / "lake", **settings))

    return opened


def published(etl, table):
    """Return the collections of which a warehouse has rows."""
    with connect(etl.settings.warehouse_path) as connection:
        names = connection.execute(f"SELECT DISTINCT source_collection FROM {table}").fetchall()
    return [name for (name,) in names]


def test_the_sample_cannot_be_mixed_with_real_documents(dump, opened):
    etl = opened(dump)
    load(dump, etl.lake)
    before = etl.lake.tables.count_rows(tables.DOCUMENTS)
    with pytest.raises(ConfigurationError, match="would be mixed with real ones"):
        run_everything(
            opened("sample:?sessions=2", collections=(SMALL,)), Pass.NEW, with_results=False
        )
    assert etl.lake.tables.count_rows(tables.DOCUMENTS) == before


def test_a_damaged_collection_does_not_keep_others_from_being_published(dump, opened):
    whole = gzip.compress((dump / f"{OTHER}.jsonl").read_bytes())
    (dump / f"{OTHER}.jsonl").unlink()
    (dump / f"{OTHER}.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    etl = opened(dump)
    with pytest.raises(SourceError, match="cannot be read to its end"):
        run_everything(etl, Pass.NEW, with_results=False)
    assert etl.lake.tables.count_rows(tables.ANALYSES) > 0
    assert etl.settings.warehouse_path.is_file()


@pytest.mark.parametrize(
    "place",
    [
        "lake.extract_collection",
        "lake.refresh_analyses",
        "results.refresh_result_files",
        "results.refresh_trials",
    ],
)
def test_a_bug_in_one_collections_step_does_not_affect_others(
    dump, opened, monkeypatch, tmp_path, place
):
    module, _, name = place.partition(".")
    module = importlib.import_module(f"aind_etl.orchestration.assets.{module}")
    owner = module if hasattr(module, name) else aind_etl.results
    sound = getattr(owner, name)

    def defective(*arguments, **named):
        if SMALL in map(str, (*arguments, *named.values())):
            raise TypeError("a defect; see mongodb://me:s3cret@host/analysis")
        return sound(*arguments, **named)

    monkeypatch.setattr(owner, name, defective)
    etl = opened(dump, results_root=str(tmp_path))
    with pytest.raises(UnexpectedError, match=f"stopped the collection '{SMALL}'") as raised:
        run_everything(etl, Pass.NEW)
    assert raised.value.exit_code == 1
    assert OTHER in published(etl, "analyses")
    [file] = (etl.settings.folder / "_errors").iterdir()
    text = file.read_text()
    assert str(file) in str(raised.value)
    assert "Traceback" in text
    assert "in defective" in text
    assert "s3cret" not in text + str(raised.value)


@pytest.mark.parametrize("seed", range(6))
def test_an_exception_anywhere_in_a_collections_step_does_not_affect_others(
    dump, opened, monkeypatch, seed
):
    operations = iter(range(Random(seed).randrange(40), -1, -1))

    def mortal(sound):
        def mortal(self, name, *arguments, **named):
            if SMALL in name and next(operations, None) == 0:
                raise TypeError("a defect")
            return sound(self, name, *arguments, **named)

        return mortal

    for method in ("read", "write", "update", "remove", "lock", "scratch", "files"):
        monkeypatch.setattr(LocalStorage, method, mortal(getattr(LocalStorage, method)))
    etl = opened(dump)
    with suppress(UnexpectedError):
        run_everything(etl, Pass.NEW, with_results=False)
    assert OTHER in published(etl, "analyses")


def test_a_failing_preview_does_not_fail_the_run(dump, opened, monkeypatch):
    def defective(*_):
        raise OverflowError("year 10000")

    monkeypatch.setattr(aind_etl.orchestration.metadata, "_preview", defective)
    etl = opened(dump)
    run_everything(etl, Pass.NEW, with_results=False)
    assert etl.settings.warehouse_path.is_file()


def test_a_document_without_its_closing_brace_does_not_swallow_others(sample_dump, tmp_path):
    lines = (sample_dump / f"{MAIN}.jsonl").read_bytes().splitlines()[:30]
    lines[9] = lines[9][:-1]
    (tmp_path / "c.json").write_bytes(b"\n".join(lines))
    read = {document.record_id for document in read_documents(DumpSource(tmp_path), "c")}
    whole = {orjson.loads(line)["_id"] for number, line in enumerate(lines) if number != 9}
    assert whole < read
    assert len(read) == len(lines)


def test_no_value_is_at_an_infinite_bound(lake, tmp_path):
    document = {
        "_id": "a",
        "nwb_name": "1_2025-01-01.nwb",
        "analysis_results": {
            "params": {"learn_rate": 3.5, "biasL": 0.0},
            "fit_settings": {
                "fit_names": ["learn_rate", "biasL"],
                "lower_bounds": [0.0, 0.0],
                "upper_bounds": [{"$numberDouble": "Infinity"}] * 2,
            },
        },
    }
    write_dump(tmp_path / "dump", [document])
    load(tmp_path / "dump", lake)
    rows = lake.tables.scan(tables.FIT_PARAMETERS).collect()
    assert dict(rows.select("parameter", "at_bound").iter_rows()) == {
        "learn_rate": False,
        "biasL": True,
    }


@pytest.mark.parametrize("name", ["x" * 240, "mäuse " * 35], ids=["240 bytes", "280 bytes"])
def test_a_collection_may_have_the_longest_name_a_server_allows(dump, opened, monkeypatch, name):
    monkeypatch.setattr(DumpSource, "_files", lambda _: {name: [dump / f"{SMALL}.jsonl"]})
    etl = opened(dump)
    load(dump, etl.lake, Pass.NEW)
    run_everything(etl, Pass.FULL, with_results=False)
    assert etl.lake.collections() == [name]
    _, differences = verify_collection(DumpSource(dump), etl.lake, name)
    assert differences == []
    assert published(etl, "documents") == [name]
