"""Dagster: the definitions, the metadata of runs, the instance, and the page."""

import base64
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import dagster as dg
import pytest
import yaml
from commands import ask_page, without_settings
from containers import end_group, free_port, wait_until
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from worlds import read_dump, rows_of, write_dump

from aind_etl.changelog.passes import Pass
from aind_etl.contract import ANALYSIS_TABLES, FLATTENED_TABLES, table_named, tables
from aind_etl.contract.ddl import describe
from aind_etl.errors import ConfigurationError, DataError, SourceError
from aind_etl.orchestration.definitions import build_defs
from aind_etl.orchestration.instance import dagster_home, run_everything
from aind_etl.orchestration.jobs import PUBLISH, REFRESH_COLLECTION, SESSIONS, pass_config
from aind_etl.orchestration.resources import Etl
from aind_etl.progress import NoProgress
from aind_etl.settings import load_settings
from aind_etl.sources.dump import DumpSource
from aind_etl.sources.gateway.replies import RefusedError

CLONE = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("aind-etl")
SMALL = "dynamic-foraging-analysis"
LONGEST = "x" * 240
"""A name as long as a server allows."""

ASSETS = json.loads((CLONE / "tests" / "snapshot.json").read_text())["assets"]
GROUPS = {name: one["group"] for name, one in ASSETS.items()}
"""The group of each asset."""
BY_COLLECTION = {name for name, one in ASSETS.items() if one["partitions"]}
FLATTENED = {name for name, group in GROUPS.items() if group == "lake"} - {"documents"}


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    for name in os.environ.keys() - without_settings().keys():
        monkeypatch.delenv(name)


def etl_of(source, folder, **settings):
    return Etl(load_settings(source=str(source), lake=folder / "lake", **settings))


@pytest.fixture(scope="module")
def specs():
    graph = build_defs().resolve_asset_graph()
    return {key.to_user_string(): graph.get(key) for key in graph.get_all_asset_keys()}


@pytest.fixture(scope="module")
def two_collections(sample_dump, tmp_path_factory):
    """Return a dump of two small collections of the sample, one of which has a long name."""
    folder = tmp_path_factory.mktemp("dump")
    shutil.copy(sample_dump / f"{SMALL}.jsonl", folder)
    shutil.copy(sample_dump / "dynamic-foraging-nm.jsonl", folder / f"{LONGEST}.jsonl")
    return folder


@pytest.fixture(scope="module")
def run(two_collections, sample_world, tmp_path_factory):
    """Return the materializations of a run of every asset, its resource and its instance."""
    folder = tmp_path_factory.mktemp("run")
    etl = etl_of(two_collections, folder, results_root=str(sample_world / "results"))
    with dg.DagsterInstance.ephemeral(tempdir=str(folder)) as instance:
        yield run_jobs(etl, instance), etl, instance


def run_jobs(etl, instance, pass_kind=Pass.NEW):
    """Refresh every collection and publish, and return the metadata by asset and partition."""
    definitions = build_defs(etl)
    refresh = definitions.resolve_job_def(REFRESH_COLLECTION)
    with etl.open_source() as source:
        collections = source.list_collections()
    instance.add_dynamic_partitions("collections", collections)
    results = [
        refresh.execute_in_process(
            instance=instance, partition_key=name, run_config=pass_config(pass_kind)
        )
        for name in collections
    ]
    results += [
        definitions.resolve_job_def(name).execute_in_process(instance=instance)
        for name in (SESSIONS, PUBLISH)
    ]
    made = {}
    for result in results:
        assert result.success
        for event in result.get_asset_materialization_events():
            materialization = event.step_materialization_data.materialization
            key = (event.asset_key.to_user_string(), materialization.partition)
            made[key] = {name: value.value for name, value in materialization.metadata.items()}
    return made


def refresh_once(etl, folder, *, raise_on_error=False):
    """Refresh a collection, and return whether it succeeded and the number of retries."""
    refresh = build_defs(etl).resolve_job_def(REFRESH_COLLECTION)
    with dg.DagsterInstance.ephemeral(tempdir=str(folder)) as instance:
        instance.add_dynamic_partitions("collections", [SMALL])
        result = refresh.execute_in_process(
            instance=instance, partition_key=SMALL, raise_on_error=raise_on_error
        )
    return result.success, sum(event.is_step_up_for_retry for event in result.all_events)


@pytest.fixture(scope="module")
def metadata(run):
    """Return the metadata of each asset without partitions."""
    made, _, _ = run
    return {name: metadata for (name, partition), metadata in made.items() if partition is None}


# --- definitions ----------------------------------------------------------------------------


def test_the_definitions_can_be_loaded():
    dg.Definitions.validate_loadable(build_defs())


def test_a_backfill_starts_one_run_per_collection(specs):
    assert {
        name: node.backfill_policy.max_partitions_per_run
        for name, node in specs.items()
        if node.is_partitioned
    } == dict.fromkeys(BY_COLLECTION, 1)


def test_every_asset_has_a_description(specs):
    for name, node in specs.items():
        assert node.description.endswith("."), name
    assert specs["analyses"].description == tables.ANALYSES.description
    assert specs["best_models"].description.startswith("One row per session")


def test_one_job_refreshes_a_collection_and_one_publishes():
    definitions = build_defs()
    made = {
        name: {
            key.to_user_string()
            for key in definitions.resolve_job_def(name).asset_layer.executable_asset_keys
        }
        for name in (REFRESH_COLLECTION, PUBLISH)
    }
    assert made[REFRESH_COLLECTION] == BY_COLLECTION
    assert made[PUBLISH] == GROUPS.keys() - made[REFRESH_COLLECTION] - {"sessions"}


@pytest.mark.parametrize(
    "table", [tables.DOCUMENTS, *FLATTENED_TABLES], ids=lambda table: table.name
)
def test_every_table_shows_its_columns_and_their_lineage(specs, table):
    metadata = specs[table.name].metadata
    columns = metadata["dagster/column_schema"].columns
    assert [(one.name, one.type, one.description, one.constraints.nullable) for one in columns] == [
        (column.name, column.type.value, describe(column), not column.required)
        for column in table.columns
    ]
    if table is tables.DOCUMENTS:
        assert "dagster/column_lineage" not in metadata
        return
    lineage = metadata["dagster/column_lineage"].deps_by_column
    assert list(lineage) == list(table.column_names)
    log = set(tables.DOCUMENTS.column_names)
    for name, deps in lineage.items():
        assert {dep.asset_key.to_user_string() for dep in deps} == {"documents"}, name
        assert {dep.column_name for dep in deps} <= log
    if table is not tables.REJECTED_DOCUMENTS:
        assert [dep.column_name for dep in lineage["record_id"]] == ["record_id"]


def test_the_settings_come_from_the_environment_unless_given(monkeypatch, tmp_path):
    monkeypatch.setenv("AIND_ETL_SOURCE", "mongodb://reader:s3cret@db.example/analysis")
    etl = build_defs().resources["etl"]
    assert "s3cret" in etl.settings.source
    assert "s3cret" not in repr(etl)
    other = etl_of("sample:", tmp_path)
    assert build_defs(other).resources["etl"] is other


# --- runs ----------------------------------------------------------------


def test_every_asset_is_materialized_and_those_of_the_lake_once_per_collection(run):
    made, _, _ = run
    lake_assets = {(name, one) for name in BY_COLLECTION for one in (SMALL, LONGEST)}
    others = {(name, None) for name in GROUPS.keys() - BY_COLLECTION}
    assert made.keys() == lake_assets | others


@pytest.mark.parametrize("name", sorted(BY_COLLECTION))
def test_the_reported_rows_are_those_of_the_lake(run, name):
    made, etl, _ = run
    table = table_named(name)
    for collection in (SMALL, LONGEST):
        found = made[name, collection]
        assert found["dagster/partition_row_count"] == etl.lake.tables.count_rows(table, collection)
        assert found["dagster/uri"] == str(etl.lake.storage.path(name))
        assert found["bytes"] == sum(
            path.stat().st_size for path in etl.lake.tables.files(table, collection)
        )
        assert found["seconds"] > 0


def test_the_counts_of_extraction_and_flattening_are_reported(two_collections, run):
    made, _, _ = run
    count = len(read_dump(two_collections, SMALL))
    found = made["documents", SMALL]
    assert found["source"] == str(two_collections)
    assert found["pass"] == "new"
    assert (found["new"], found["changed"], found["deleted"]) == (count, 0, 0)
    flattened = made["analyses", SMALL]
    assert (flattened["flattened"], flattened["rejected"]) == (count, 0)


def test_the_newest_analyses_are_shown_with_their_end(run):
    made, etl, _ = run
    found = made["analyses", SMALL]
    rows = rows_of(etl.lake, tables.ANALYSES, SMALL).select("finished_at", "session_key")
    newest = rows.sort("finished_at", descending=True).row(0)
    assert found["newest finished"] == newest[0].timestamp()
    assert newest[1] in found["preview"].splitlines()[2]


def test_the_newest_figures_are_shown_with_the_files_of_the_results(run):
    made, _, _ = run
    pictures = {name for (name, _), found in made.items() if "newest figures" in found}
    assert pictures == {"result_files"}
    assert "data:image/png;base64," in made["result_files", SMALL]["newest figures"]


def stale_statuses(instance, assets):
    """Return the status of each asset with partitions, as the page shows it."""
    graph = dg.Definitions(assets, resources=build_defs().resources).resolve_asset_graph()
    # Dagster has no public way to ask for the status that its page shows.
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return {name: resolver.get_status(dg.AssetKey(name), SMALL).value for name in BY_COLLECTION}


def test_a_changed_flattener_makes_its_tables_stale(run):
    _, _, instance = run
    changed = [
        one.map_asset_specs(lambda spec: spec.replace_attributes(code_version="another"))
        if dg.AssetKey("analyses") in one.keys
        else one
        for one in build_defs().assets
    ]
    statuses = stale_statuses(instance, changed)
    assert {name for name in FLATTENED if statuses[name] == "STALE"} == FLATTENED
    assert statuses["documents"] == "FRESH"


def test_the_warehouse_reports_its_size_and_rows(run, metadata):
    _, etl, _ = run
    path = etl.settings.warehouse_path
    found = metadata["warehouse"]
    assert found["published"] is True
    assert found["bytes"] == path.stat().st_size
    assert f"| analyses | {etl.lake.tables.count_rows(tables.ANALYSES):,} |" in found["rows"]


@pytest.mark.parametrize(
    "name", [name for name, group in GROUPS.items() if group in {"views", "marts"}]
)
def test_views_and_marts_report_their_columns(run, metadata, name):
    from aind_etl.warehouse.connection import connect

    _, etl, _ = run
    with connect(etl.settings.warehouse_path) as connection:
        described = connection.execute(f"DESCRIBE {name}").fetchall()
        ((count,),) = connection.execute(f"SELECT count(*) FROM {name}").fetchall()
    columns = metadata[name]["dagster/column_schema"].columns
    assert [(one.name, one.type) for one in columns] == [row[:2] for row in described]
    assert metadata[name]["preview"].startswith(f"| {described[0][0]} |")
    if GROUPS[name] == "marts":
        assert metadata[name]["dagster/row_count"] == count


def test_arrivals_and_lags_are_plotted(metadata):
    found = metadata["collection_freshness"]
    for name in ("arrivals a day", "lag from finished to first seen"):
        picture = base64.b64decode(found[name].partition("base64,")[2].rstrip(")"))
        assert picture.startswith(b"\x89PNG")


def test_a_second_run_changes_nothing_and_leaves_no_asset_stale(run):
    _, etl, instance = run
    before = etl.settings.warehouse_path.stat().st_ino
    made = run_jobs(etl, instance, Pass.FULL)
    found = made["documents", SMALL]
    assert found["pass"] == "full"
    assert (found["new"], found["changed"]) == (0, 0)
    assert found["unchanged"] == found["dagster/partition_row_count"]
    assert made["warehouse", None]["published"] is False
    assert etl.settings.warehouse_path.stat().st_ino == before
    # Only the assets that other steps of a run wait for, and no view, mart or report.
    assert {name for name, _ in made} == {
        *("analyses", "documents", "result_files", "sessions", "unclaimed_folders", "warehouse")
    }
    assert set(stale_statuses(instance, build_defs(etl).assets).values()) == {"FRESH"}


@pytest.mark.slow
def test_a_run_without_changes_materializes_every_asset_in_a_new_history(run, tmp_path):
    _, etl, _ = run
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        made = run_jobs(etl, instance)
    assert {name for name, partition in made if partition == SMALL} == BY_COLLECTION


def test_a_missing_or_outdated_report_is_drawn_again(run):
    _, etl, instance = run
    publish = build_defs(etl).resolve_job_def(PUBLISH)
    page = etl.settings.warehouse_path.with_name("report.html")
    whole = page.read_text()
    for left in (None, re.sub('content="[0-9a-f]{64}"', 'content="another"', whole)):
        page.unlink()
        if left:
            page.write_text(left)
        done = publish.execute_in_process(instance=instance)
        assert page.read_text() == whole
        warnings = {
            one.check_name
            for one in done.get_asset_check_evaluations()
            if one.severity is dg.AssetCheckSeverity.WARN
        }
        assert warnings == {"collections_are_fresh"}, "others follow from the warehouse alone"


def test_a_run_writes_only_its_collection(run, tmp_path):
    _, done, _ = run
    etl = etl_of(done.settings.source, tmp_path)
    assert refresh_once(etl, tmp_path) == (True, 0)
    assert etl.lake.collections() == [SMALL]
    for table in (tables.DOCUMENTS, *ANALYSIS_TABLES):
        assert etl.lake.tables.count_rows(table) == done.lake.tables.count_rows(table, SMALL)


# --- failures ----------------------------------------------------------------------------


@pytest.fixture
def home(monkeypatch, new_history):
    monkeypatch.setenv("DAGSTER_HOME", str(new_history))
    return new_history


@pytest.mark.slow
def test_every_asset_can_be_materialized_by_itself_as_the_page_does(sample_dump, tmp_path):
    """A run selects an asset, those of the same step, and their checks."""
    jobs = [
        dg.define_asset_job(
            f"only_{name}",
            selection=dg.AssetSelection.assets(name).required_multi_asset_neighbors(),
        )
        for name in GROUPS
    ]
    etl = etl_of(sample_dump, tmp_path)
    definitions = dg.Definitions.merge(build_defs(etl), dg.Definitions(jobs=jobs))
    resolved = {name: definitions.resolve_job_def(f"only_{name}") for name in GROUPS}
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:

        def checks_of(name, partition=None):
            done = resolved[name].execute_in_process(instance=instance, partition_key=partition)
            assert done.success
            return [one.check_name for one in done.get_asset_check_evaluations()]

        instance.add_dynamic_partitions("collections", [SMALL])
        assert checks_of("documents", SMALL) == []
        assert checks_of("analyses", SMALL) == []
        assert "analyses_key_is_unique" in checks_of("warehouse")
        assert checks_of("documents", SMALL) == ["collections_are_fresh"]


class Repairing(NoProgress):
    """Repairs a truncated dump before it is read for the second time."""

    def __init__(self, whole, target):
        self._whole, self._target = whole, target
        self._extractions = 0

    def step(self, name):
        """Count the extractions."""
        self._extractions += name.startswith("extract")
        if self._extractions == 2:
            self._target.write_bytes(self._whole)


def test_a_step_that_cannot_read_the_source_is_retried(monkeypatch, sample_dump, tmp_path):
    monkeypatch.setattr("aind_etl.orchestration.resources._FIRST_PAUSE_SECONDS", 0)
    whole = gzip.compress((sample_dump / f"{SMALL}.jsonl").read_bytes())
    target = tmp_path / "dump" / f"{SMALL}.jsonl.gz"
    target.parent.mkdir()
    target.write_bytes(whole[:-100])
    broken = replace(etl_of(target.parent, tmp_path), source_retries=2)
    assert refresh_once(broken, tmp_path) == (False, 2)
    repaired = replace(broken, progress=Repairing(whole, target))
    assert refresh_once(repaired, tmp_path) == (True, 1)
    assert build_defs().resources["etl"].source_retries == 3


def test_a_step_that_finds_a_lock_is_not_retried(two_collections, tmp_path):
    etl = replace(etl_of(two_collections, tmp_path), source_retries=2)
    with etl.lake.lock(SMALL):
        assert refresh_once(etl, tmp_path) == (False, 0)
        with pytest.raises(DataError, match="Another run is writing"):
            refresh_once(etl, tmp_path, raise_on_error=True)


def test_the_caller_gets_the_error_of_an_asset(home, tmp_path):
    with pytest.raises(ConfigurationError, match="The source 'nowhere' is not a folder"):
        run_everything(etl_of("nowhere", tmp_path), Pass.NEW)


class Refusing(DumpSource):
    """A source that lists and counts its documents, and refuses to return them."""

    def read_raw(self, collection, *_):
        """Refuse."""
        raise RefusedError(f"The gateway refuses {collection}.", 403, "forbidden")

    fingerprint = list_ids = read_raw


@pytest.mark.slow
def test_the_error_of_a_run_names_every_collection_that_the_source_refuses(home, tmp_path):
    for name in ("one", "two"):
        write_dump(tmp_path / "dump", [{"_id": "1"}], name)
    etl = replace(etl_of(tmp_path / "dump", tmp_path), opened=Refusing(tmp_path / "dump"))
    with pytest.raises(RefusedError) as raised:
        run_everything(etl, Pass.NEW, with_results=False)
    assert str(raised.value) == "The gateway refuses one.\nThe gateway refuses two."
    assert raised.value.exit_code == SourceError.exit_code


@pytest.mark.slow
def test_the_history_shows_the_runs_of_the_command_of_which_one_failed(home, sample_dump, tmp_path):
    dump = tmp_path / "dump"
    documents = read_dump(sample_dump, SMALL)
    write_dump(dump, documents, "whole")
    (dump / "cut.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00 cut off")
    etl = etl_of(dump, tmp_path)
    with pytest.raises(SourceError, match=r"cut\.jsonl\.gz' cannot be read to its end"):
        run_everything(etl, Pass.NEW)
    assert etl.lake.change_log("whole").live_documents().height == len(documents)
    with dg.DagsterInstance.get() as instance:
        runs = instance.get_runs()[::-1]
        assert [(run.job_name, run.tags.get("dagster/partition"), run.status) for run in runs] == [
            (REFRESH_COLLECTION, "cut", dg.DagsterRunStatus.FAILURE),
            (REFRESH_COLLECTION, "whole", dg.DagsterRunStatus.SUCCESS),
            (SESSIONS, None, dg.DagsterRunStatus.SUCCESS),
            (PUBLISH, None, dg.DagsterRunStatus.SUCCESS),
        ]
        event = instance.get_latest_materialization_event(dg.AssetKey("analyses"))
        assert event.run_id == runs[1].run_id
        rows = event.asset_materialization.metadata["dagster/row_count"].value
        assert rows == etl.lake.tables.count_rows(tables.ANALYSES) > 0
        known = {key.to_user_string() for key in instance.all_asset_keys()}
    assert known == GROUPS.keys()


# --- the instance -------------------------------------------------------------------------------


def test_the_instance_is_that_of_dagster_home_or_else_of_the_lake(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    lake = tmp_path / "lake"
    assert dagster_home(lake) == lake / "_dagster"
    assert (lake / "_dagster" / "dagster.yaml").read_text() == (
        CLONE / "dagster_home" / "dagster.yaml"
    ).read_text()
    assert dagster_home(tmp_path / "other") == tmp_path / "other" / "_dagster"
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "named"))
    assert dagster_home(lake) == tmp_path / "named"
    assert (tmp_path / "named" / "dagster.yaml").is_file()


@pytest.mark.parametrize("name", ["a%20b", "what?"])
def test_a_folder_that_dagster_cannot_use_is_an_error(monkeypatch, tmp_path, name):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with pytest.raises(ConfigurationError, match=f"{re.escape(name)}.*Set DAGSTER_HOME"):
        dagster_home(tmp_path / name)


# --- the page -----------------------------------------------------------------------------------


def test_the_workspace_of_a_clone_names_the_definitions():
    [one] = yaml.safe_load((CLONE / "workspace.yaml").read_text())["load_from"]
    module = import_module(one["python_module"]["module_name"])
    assert isinstance(module.defs, dg.Definitions)


@pytest.mark.slow
def test_the_page_is_served_with_every_asset(home, tmp_path):
    port, log = free_port(), tmp_path / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [COMMAND, "dev", "--port", str(port), "--lake", tmp_path / "lake"],
            cwd=tmp_path,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def definitions():
        assert process.poll() is None, log.read_text()
        return ask_page(
            f"http://127.0.0.1:{port}",
            "{ version assetNodes { assetKey { path } groupName description } "
            "repositoriesOrError { ... on RepositoryConnection { nodes { jobs { name } } } } }",
        )

    try:
        data = wait_until(definitions, 300, log.read_text)
    finally:
        end_group(process, signal.SIGTERM)
    assert data["version"] == dg.__version__
    found = {"/".join(node["assetKey"]["path"]): node for node in data["assetNodes"]}
    assert found.keys() == GROUPS.keys()
    assert found["analyses"]["description"] == tables.ANALYSES.description
    (repository,) = data["repositoriesOrError"]["nodes"]
    assert {REFRESH_COLLECTION, PUBLISH} <= {job["name"] for job in repository["jobs"]}


def test_the_configuration_of_an_earlier_build_is_replaced_and_kept_as_old(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    old = "storage:\n  custom:\n    module: aind_etl.orchestration.storage\n"
    (tmp_path / "dagster.yaml").write_text(old)
    dagster_home(tmp_path)
    assert (tmp_path / "dagster.yaml.old").read_text() == old
    ours = (tmp_path / "dagster.yaml").read_text()
    assert ours == (CLONE / "dagster_home" / "dagster.yaml").read_text()
    for mine in (f"{ours}\n# With changes of my own.\n", "telemetry:\n  enabled: false\n"):
        (tmp_path / "dagster.yaml").write_text(mine)
        dagster_home(tmp_path)
        assert (tmp_path / "dagster.yaml").read_text() == mine
