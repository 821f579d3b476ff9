"""The sample world: its numbers agree with each other, and every oddity is there."""

import json
import math
import re
import subprocess
import sys
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import Mock, call

import bson
import numpy as np
import pytest
from worlds import MAIN, SMALL, files_of, read_dump
from worlds import JsonDocument as Document

from aind_etl.sample import COLLECTIONS, write_world
from aind_etl.sample import world as world_module
from aind_etl.sample.agents import CATALOGUE
from aind_etl.sample.calendar import plan_sessions
from aind_etl.sample.dynamics import SMALLEST_PROBABILITY, record_latents
from aind_etl.sample.figures import SessionFigure
from aind_etl.sample.fits import Fit, FitRequest, fit_agents
from aind_etl.sample.prototype import record_id
from aind_etl.sample.sessions import simulate_sessions

PROJECTS = ("dynamic-foraging-nm", "dynamic-foraging-lifetime", "architecture_example_v2")
RESULT_NAMES = (
    "original_results_mle_fitting.json",
    "docDB_mle_fitting.json",
    "docDB_record.json",
)
SKIPPED = "skipped. valid trials < 50"


@dataclass
class World:
    """The documents of a world by collection, and those of model fitting by format."""

    collections: dict[str, list[Document]]

    @property
    def prototypes(self) -> list[Document]:
        """The main collection's documents of the older format."""
        return [document for document in self.collections[MAIN] if "nwb_name" in document]

    @property
    def frameworks(self) -> list[Document]:
        """The main collection's documents of the newer format."""
        return [document for document in self.collections[MAIN] if "processing" in document]

    @property
    def processes(self) -> list[Document]:
        """Every data process of the main collection."""
        return [process for document in self.frameworks for process in processes_of(document)]

    @property
    def outputs(self) -> list[Document]:
        """All output parameters of the main collection that hold anything."""
        return [outputs for document in self.frameworks for outputs in outputs_of(document)]

    @property
    def sessions(self) -> set[str]:
        """The sessions of the main collection."""
        return {name for document in self.collections[MAIN] for name in sessions_of(document)}

    @property
    def projects(self) -> list[Document]:
        """The documents of the other projects."""
        return [document for name in PROJECTS for document in self.collections[name]]

    @property
    def fits(self) -> list[Document]:
        """Every fit of the main collection."""
        return [fit for document in self.collections[MAIN] for fit in fits_of(document)]


def processes_of(document: Document) -> list[Document]:
    processes: list[Document] = document["processing"]["data_processes"]
    return processes


def outputs_of(document: Document) -> list[Document]:
    """Return the filled output parameters of a framework document, whatever holds them."""
    held = [process["output_parameters"] for process in processes_of(document)]
    flat = [
        one for outputs in held for one in (outputs if isinstance(outputs, list) else [outputs])
    ]
    return [outputs for outputs in flat if outputs]


def fits_of(document: Document) -> list[Document]:
    if "processing" not in document:
        return [document["analysis_results"]] if "analysis_results" in document else []
    fits = [outputs["fitting_results"] for outputs in outputs_of(document)]
    return [fit for fit in fits if fit]


def nwb_names_of(document: Document) -> list[str]:
    if "nwb_name" in document:
        return [document["nwb_name"]]
    return [outputs["nwb_name"] for outputs in outputs_of(document)]


def sessions_of(document: Document) -> list[str]:
    """Return the sessions of a document, however their files are spelled."""
    names = nwb_names_of(document)
    return [name.removeprefix("behavior_").removesuffix(".nwb") for name in names]


@cache
def make_world(sessions: int, seed: int) -> World:
    with TemporaryDirectory() as folder:
        write_world(Path(folder), sessions=sessions, seed=seed, results=False)
        return world_in(Path(folder))


def world_in(folder: Path) -> World:
    return World({name: read_dump(folder, name) for name in COLLECTIONS})


@pytest.fixture(scope="session")
def world(sample_dump: Path) -> World:
    return world_in(sample_dump)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """Return the folder of a world of two sessions, with a figure for every fit."""
    directory = tmp_path_factory.mktemp("sample")
    return directory, write_world(directory, sessions=2, seed=4, formats=("jsonl", "bson"))


def folder_of(directory: Path, document: Document) -> Path:
    location = document.get("s3_location") or document["location"]
    return directory / "results" / str(location).removeprefix("s3://")


def results_of(folder: Path) -> Document | None:
    """Return the fit in a result folder, as readers look for it."""
    for name in RESULT_NAMES:
        if (folder / name).exists():
            content: Document = json.loads((folder / name).read_text())
            fit: Document = content.get("analysis_results", content)
            return fit
    return None


# --- numbers of a fit -----------------------------------------------------------------------


def test_criteria_and_likelihoods_per_trial_follow_from_the_log_likelihood(world: World) -> None:
    for fit in world.fits:
        twice, k = 2.0 * fit["log_likelihood"], fit["k_model"]
        assert fit["AIC"] == pytest.approx(2.0 * k - twice, abs=1e-9)
        assert fit["BIC"] == pytest.approx(k * math.log(fit["n_trials"]) - twice, abs=1e-9)
        n_trials = fit["n_trials"]
        assert fit["LPT"] == pytest.approx(math.exp(fit["log_likelihood"] / n_trials))
        assert fit["LPT_AIC"] == pytest.approx(math.exp(-fit["AIC"] / 2.0 / n_trials))
        assert fit["LPT_BIC"] == pytest.approx(math.exp(-fit["BIC"] / 2.0 / n_trials))


def test_accuracies_and_likelihoods_per_trial_lie_between_zero_and_one(world: World) -> None:
    for fit in world.fits:
        lists = fit.get("cross_validation", {}).values()
        scalars = [fit[name] for name in ("prediction_accuracy", "LPT", "LPT_AIC", "LPT_BIC")]
        for value in [*scalars, *(value for values in lists for value in values)]:
            assert 0.0 <= value <= 1.0


def test_cross_validation_has_one_value_per_fold_of_the_specification(world: World) -> None:
    for document in world.prototypes:
        folds = document["analysis_spec"]["analysis_args"]["fit_kwargs"]["k_fold_cross_validation"]
        for fit in fits_of(document):
            assert ("cross_validation" in fit) == (folds is not None)
            for values in fit.get("cross_validation", {}).values():
                assert len(values) == folds


def test_accuracy_on_held_out_trials_is_a_share_of_the_trials_of_the_fold(world: World) -> None:
    for fit in world.fits:
        if "cross_validation" not in fit:
            continue
        values = fit["cross_validation"]["prediction_accuracy_test"]
        fold, in_all = fit["n_trials"] // len(values), fit["n_trials"]
        lengths = [fold] * (len(values) - 1) + [in_all - fold * (len(values) - 1)]
        for value, length in zip(values, lengths, strict=True):
            assert value * length == pytest.approx(round(value * length), abs=1e-6)


def test_polishing_never_makes_a_fit_worse(world: World) -> None:
    for fit in world.fits:
        assert fit["log_likelihood_without_polishing"] <= fit["log_likelihood"]


def test_parameters_are_fitted_first_then_clamped_and_within_their_bounds(world: World) -> None:
    for fit in world.fits:
        settings = fit["fit_settings"]
        assert list(fit["params"]) == [*settings["fit_names"], *settings["clamp_params"]]
        assert fit["k_model"] == len(settings["fit_names"])
        for name, low, high in zip(
            settings["fit_names"], settings["lower_bounds"], settings["upper_bounds"], strict=True
        ):
            assert low <= fit["params"][name] <= high
        for name, value in settings["clamp_params"].items():
            assert fit["params"][name] == value


def test_fits_of_one_session_are_made_to_the_same_number_of_trials(world: World) -> None:
    n_trials = defaultdict(set)
    for document in world.collections[MAIN]:
        for session, fit in zip(sessions_of(document), fits_of(document), strict=False):
            n_trials[session].add(fit["n_trials"])
    assert {len(numbers) for numbers in n_trials.values()} == {1}


def test_win_stay_lose_switch_never_explains_choices_best(world: World) -> None:
    best: dict[str, tuple[float, str]] = {}
    for document in world.prototypes:
        for fit in fits_of(document):
            this = (fit["AIC"], fit["fit_settings"]["agent_alias"])
            best[document["nwb_name"]] = min(best.get(document["nwb_name"], this), this)
    # No subject's true agent is of this kind.
    assert best
    assert not any(alias.startswith("WSLS") for _, alias in best.values())


# --- the catalogue and the equations, against real records ----------------------------------


def real_prototypes(folder: Path) -> dict[str, Document]:
    (path,) = folder.glob("prototype_*.json")
    documents = json.loads(path.read_text())
    return {
        document["analysis_results"]["fit_settings"]["agent_alias"]: document
        for document in documents
    }


def real_latents(folder: Path, alias: str) -> dict[str, np.ndarray]:
    (path,) = folder.glob(f"latent_variables_*/{alias}.json")
    latents = json.loads(path.read_text())["fitted_latent_variables"]
    return {name: np.array(values, dtype=np.float64) for name, values in latents.items()}


def real_history(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the real session's choices (whether left) and rewards, derived from its Q values."""
    before_and_after = real_latents(folder, "QLearning_L2F1_softmax")["q_value"]
    before, change = before_and_after[:, :-1], np.diff(before_and_after, axis=1)
    rewarded = (change > 0).any(axis=0)
    forgetting = real_prototypes(folder)["QLearning_L2F1_softmax"]["analysis_results"]["params"][
        "forget_rate_unchosen"
    ]
    # The side that was not chosen forgets at its own rate.
    forgets = np.isclose(change, -forgetting * before, atol=1e-12) & (before > 0)
    left = np.where(rewarded, change[0] > 0, ~forgets[0])
    # If one side has no value, the other shows whether it forgets.
    left = np.where(~rewarded & (before[0] == 0), forgets[1], left)
    return left, np.asarray(rewarded)


def run_agent(
    alias: str, parameters: dict[str, float], left: np.ndarray, rewarded: np.ndarray
) -> dict[str, np.ndarray]:
    values = {name: np.array([float(value)]) for name, value in parameters.items()}
    (latents,) = record_latents(CATALOGUE[alias].family, [values], [left], [rewarded])
    return latents


def log_likelihood(choice_probability: np.ndarray, left: np.ndarray) -> float:
    chosen = np.where(left, choice_probability[0], choice_probability[1])
    return float(np.log(np.where(chosen <= 0.0, SMALLEST_PROBABILITY, chosen)).sum())


def test_the_catalogue_is_the_real_one(real_records: Path) -> None:
    real = json.loads((real_records / "agent_catalogue.json").read_text())
    assert [agent["agent_alias"] for agent in real] == list(CATALOGUE)
    for described in real:
        agent = CATALOGUE[described["agent_alias"]]
        assert agent.class_name == described["agent_class_name"]
        assert dict(agent.keyword_arguments) == described["agent_kwargs"]
        assert sorted([*agent.bounds, *agent.clamped]) == sorted(described["params"])
        assert agent.k_model == described["k_model"]


def test_fit_settings_are_those_of_real_records(real_records: Path) -> None:
    for alias, document in real_prototypes(real_records).items():
        settings = document["analysis_results"]["fit_settings"]
        agent = CATALOGUE[alias]
        assert list(agent.bounds) == settings["fit_names"]
        assert [low for low, _ in agent.bounds.values()] == settings["lower_bounds"]
        assert [high for _, high in agent.bounds.values()] == settings["upper_bounds"]
        assert dict(agent.clamped) == settings["clamp_params"]


@pytest.mark.parametrize("alias", ["QLearning_L2F1_softmax", "WSLS"])
def test_the_equations_reproduce_real_latent_variables_and_log_likelihoods(
    real_records: Path, alias: str
) -> None:
    results = real_prototypes(real_records)[alias]["analysis_results"]
    left, rewarded = real_history(real_records)
    computed = run_agent(alias, results["params"], left, rewarded)
    for name, values in real_latents(real_records, alias).items():
        if name != "choice_kernel":
            np.testing.assert_allclose(computed[name], values, atol=1e-9)
    likelihood = log_likelihood(computed["choice_prob"], left)
    assert likelihood == pytest.approx(results["log_likelihood"], abs=1e-6)


def test_ids_of_prototype_records_are_computed_like_the_real_ones(real_records: Path) -> None:
    for document in real_prototypes(real_records).values():
        assert record_id(document["nwb_name"], document["analysis_spec"]) == document["_id"]


# --- the world as a whole -------------------------------------------------------------------


def test_all_33_agents_are_fitted(world: World) -> None:
    fitted = {fit["fit_settings"]["agent_alias"] for fit in world.fits}
    assert fitted == set(CATALOGUE)
    assert len(fitted) == 33


def test_the_world_lists_its_collections(sample_dump: Path, world: World) -> None:
    assert sorted(path.stem for path in sample_dump.iterdir()) == list(COLLECTIONS)
    assert set(COLLECTIONS) == {MAIN, SMALL, *PROJECTS}
    assert all(world.collections.values())


def test_ids_are_unique_in_a_collection(world: World) -> None:
    for documents in world.collections.values():
        identifiers = [document["_id"] for document in documents]
        assert len(set(identifiers)) == len(identifiers)


def test_the_main_collection_has_the_requested_number_of_sessions(world: World) -> None:
    assert len([name for name in world.sessions if re.search(r"\d{4}-\d{2}-\d{2}", name)]) == 24


def test_the_same_seed_gives_the_same_world_and_another_seed_another(world: World) -> None:
    assert make_world(24, 0).collections == world.collections
    assert make_world(24, 1).collections != world.collections


def test_a_larger_world_begins_with_the_sessions_of_a_smaller_one(world: World) -> None:
    smaller = make_world(9, 0).collections[MAIN]
    assert world.collections[MAIN][: len(smaller)] == smaller


def test_a_session_does_not_depend_on_those_it_is_simulated_with(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aind_etl.sample.world._SESSIONS_TOGETHER", 5)
    monkeypatch.setattr("aind_etl.sample.fits._ROWS_TOGETHER", 7)
    assert make_world.__wrapped__(24, 0).collections == world.collections


@pytest.mark.slow
def test_a_large_world_has_the_proportions_of_the_real_collection() -> None:
    sessions = 240
    models = defaultdict(set)
    documents = make_world(sessions, 0).collections[MAIN]
    for document in documents:
        for session, fit in zip(sessions_of(document), fits_of(document), strict=False):
            models[session].add(fit["fit_settings"]["agent_alias"])
    thirty = sum(len(aliases) >= 24 for aliases in models.values()) / len(models)
    few = sum(len(aliases) <= 9 for aliases in models.values()) / len(models)
    assert thirty + few == pytest.approx(1.0)
    assert 0.4 < thirty < 0.8
    assert 15 < len(documents) / sessions < 33


@pytest.mark.parametrize(("sessions", "seed"), [(-1, 0), (1, -1)])
def test_a_negative_number_of_sessions_or_seed_is_refused(
    sessions: int, seed: int, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="negative"):
        write_world(tmp_path / "world", sessions=sessions, seed=seed)
    assert not list(tmp_path.iterdir())


def test_a_world_without_sessions_still_has_the_other_projects() -> None:
    collections = make_world(0, 0).collections
    assert {name for name, documents in collections.items() if documents} == set(PROJECTS)


def test_sessions_are_written_without_the_whole_world_being_simulated(tmp_path: Path) -> None:
    def stop(done: int, _total: int) -> None:
        raise KeyboardInterrupt(done)

    with pytest.raises(KeyboardInterrupt, match=r"^1$"):
        write_world(tmp_path, sessions=1_000_000, seed=0, results=False, progress=stop)


# --- oddities -------------------------------------------------------------------------------


def sessions_in_both_formats(world: World) -> set[str]:
    prototypes = {name for document in world.prototypes for name in nwb_names_of(document)}
    frameworks = {name for document in world.frameworks for name in nwb_names_of(document)}
    return {name for name in prototypes if f"behavior_{name}" in frameworks}


def days_between(document: Document) -> int:
    """Return how many days after the session a prototype analysis was done; -1 without one."""
    if not fits_of(document) or not document["session_date"]:
        return -1
    done = np.datetime64(document["analysis_datetime"][:10])
    return int((done - np.datetime64(document["session_date"])).astype(int))


def tag_of(process: Document) -> str | None:
    return process["code"]["parameters"].get("analysis_tag")


def holds_fits(document: Document) -> list[bool]:
    """Return for each process of a document whether it has output parameters."""
    return [bool(process["output_parameters"]) for process in processes_of(document)]


KNOWN = {"_id", "nwb_name", "status", "s3_location", "subject_id", "session_date"}
UNKNOWN_TYPES = {float, int, str, bool, dict, list, type(None)}

# What some prototype document, fit, … of a world shows.
ODDITIES: dict[str, dict[str, Callable[[Any], object]]] = {
    "prototypes": {
        "success": lambda d: d["status"] == "success",
        "skipped": lambda d: d["status"] == SKIPPED,
        "failed": lambda d: d["status"].startswith("failed"),
        "NWB name without a time": lambda d: re.fullmatch(r"\d{6}_[\d-]{10}\.nwb", d["nwb_name"]),
        "prefixed NWB name": lambda d: d["nwb_name"].startswith("behavior_"),
        "NWB name without suffix": lambda d: not d["nwb_name"].endswith(".nwb"),
        "no subject and date": lambda d: (
            d["subject_id"] is None and d["session_date"] is None and d["status"] == "success"
        ),
        "analysed more than a year later": lambda d: days_between(d) > 365,
        "analysed within days": lambda d: 0 <= days_between(d) < 8,
        "unknown fields of every type": lambda d: (
            {type(d[name]) for name in d.keys() - KNOWN if not name.startswith("analysis_")}
            == UNKNOWN_TYPES
        ),
    },
    "fits": {
        "two folds": lambda f: {2} == set(map(len, f.get("cross_validation", {}).values())),
        "no cross-validation": lambda f: "cross_validation" not in f,
        "cross-validated likelihoods": lambda f: "LPT_test" in f.get("cross_validation", ()),
        "cross-validation without likelihoods": lambda f: (
            "LPT_test" not in f.get("cross_validation", {"LPT_test"})
        ),
        "whole floats as integers": lambda f: int in map(type, f["params"].values()),
        "impossible choices": lambda f: f["LPT"] < 0.05,
        "untrimmed": lambda f: (
            "fitted_latent_variables" in f and "fit_choice_history" in f["fit_settings"]
        ),
        "alias and class spelt differently": lambda f: (
            f["fit_settings"]["agent_alias"] == "ForagingCompareThreshold"
            and f["fit_settings"]["agent_class_name"] == "ForagerCompareThreshold"
        ),
    },
    "frameworks": {
        "output parameters null": lambda d: (
            [p["output_parameters"] for p in processes_of(d)] == [None]
        ),
        "two processes, the fit first": lambda d: holds_fits(d) == [True, False],
        "two processes, the fit last": lambda d: holds_fits(d) == [False, True],
        "dependent processes": lambda d: any(d["processing"]["dependency_graph"].values()),
        "id of a UUID": lambda d: len(d["_id"]) == 32,
        "id that is the name": lambda d: d["_id"] == d["name"],
        "unknown fields": lambda d: "ingested" in d,
    },
    "outputs": {
        "skipped": lambda o: o["additional_info"] == SKIPPED and o["fitting_results"] == {},
        "unknown outputs": lambda o: "curriculum" in o,
    },
    "processes": {
        "output parameters listed": lambda p: (
            isinstance(p["output_parameters"], list) and p["output_parameters"]
        ),
        "output parameters an empty list": lambda p: p["output_parameters"] == [],
        "output parameters empty": lambda p: p["output_parameters"] == {},
        "accumulated inputs": lambda p: len({a["url"] for a in p["code"]["input_data"]}) > 1,
        "a single input": lambda p: len(p["code"]["input_data"]) == 1,
        "left-over parameters": lambda p: "fit_bounds_override" in p["code"]["parameters"],
        "a commit hash": lambda p: "commit_hash" in p["code"],
        "the tag as a version": lambda p: "analysis_ver" in p["code"]["parameters"],
        "first tag": lambda p: tag_of(p) == "aind-analysis-framework v0.1",
        "second tag": lambda p: tag_of(p) == "aind-analysis-framework v0.2",
        "experimenters as objects": lambda p: dict in map(type, p["experimenters"]),
        "experimenters as strings": lambda p: str in map(type, p["experimenters"]),
        "times in whole seconds": lambda p: re.fullmatch(r"[-\d]+T[:\d]{8}", p["end_date_time"]),
        "precise times": lambda p: re.fullmatch(r"[-\d]+T[:\d]{8}\.\d{6}", p["end_date_time"]),
        "times with Z": lambda p: p["end_date_time"].endswith("Z"),
        "times with an offset of zero": lambda p: p["end_date_time"].endswith("+00:00"),
        "times with another offset": lambda p: p["end_date_time"].endswith("-07:00"),
    },
    "projects": {
        "many inputs": lambda d: len(processes_of(d)[0]["code"]["input_data"]) > 10,
        "keys with spaces and numbers as strings": lambda d: (
            processes_of(d)[0]["code"]["parameters"].get("dry run") in ("0", "1")
        ),
        "documents of an older schema": lambda d: d["schema_version"] < "2" and "rig" in d,
    },
}


@pytest.mark.parametrize("seed", [0, 1, 20])
def test_every_oddity_occurs_in_a_world_of_24_sessions(seed: int) -> None:
    world = make_world(24, seed)
    missing = [
        f"{kind}: {name}"
        for kind, oddities in ODDITIES.items()
        for name, is_shown in oddities.items()
        if not any(map(is_shown, getattr(world, kind)))
    ]
    assert missing == []
    assert sessions_in_both_formats(world)
    days = Counter(re.sub(r"_\d\d-\d\d-\d\d$", "", session) for session in world.sessions)
    refits = Counter(
        (document["nwb_name"], fit["fit_settings"]["agent_alias"])
        for document in world.prototypes
        for fit in fits_of(document)
    )
    starts = Counter(process["start_date_time"] for process in world.processes)
    assert max(days.values()) > 1
    assert max(refits.values()) > 1
    assert max(starts.values()) >= 5


def test_skipped_prototype_records_have_seven_fields_only(world: World) -> None:
    skipped = [document for document in world.prototypes if document["status"] == SKIPPED]
    for document in skipped:
        assert list(document) == [
            *("_id", "nwb_name", "status", "s3_location", "subject_id", "session_date"),
            "analysis_spec",
        ]
        assert document["s3_location"] is None


def test_the_last_of_accumulated_inputs_is_that_of_the_session(world: World) -> None:
    own = defaultdict(set)
    for process in world.processes:
        inputs, outputs = process["code"]["input_data"], process["output_parameters"]
        if len(inputs) > 1 and isinstance(outputs, dict):
            own[outputs.get("nwb_name"), process["code"]["version"]].add(inputs[-1]["url"])
    assert own
    assert all(len(assets) == 1 for assets in own.values())


def test_the_predecessor_holds_prototype_documents_of_its_time_only(world: World) -> None:
    for document in world.collections[SMALL]:
        assert "2025-02" <= document["analysis_datetime"][:7] <= "2025-12"


def test_other_projects_have_no_subjects_and_sessions(world: World) -> None:
    for project in PROJECTS:
        assert world.collections[project]
        for document in world.collections[project]:
            (process,) = processes_of(document)
            assert process["output_parameters"] == {}
            assert document["location"].endswith(f"{project}/{document['name']}")


# --- files ----------------------------------------------------------------------------------


def fits_with_results(directory: Path) -> Iterator[tuple[Document, Document]]:
    """Yield each fit of the main collection with the content of its result file."""
    for document in read_dump(directory):
        for fit in fits_of(document):
            if results := results_of(folder_of(directory, document)):
                yield fit, results


def test_both_formats_hold_the_same_documents(small: tuple[Path, dict[str, int]]) -> None:
    directory, counts = small
    for collection in COLLECTIONS:
        documents = read_dump(directory, collection)
        assert bson.decode_all((directory / f"{collection}.bson").read_bytes()) == documents
        assert counts[collection] == len(documents)


def test_the_same_arguments_write_the_same_bytes(
    small: tuple[Path, dict[str, int]], tmp_path: Path
) -> None:
    directory, _ = small
    write_world(tmp_path, sessions=2, seed=4, formats=("jsonl", "bson"))
    assert files_of(tmp_path) == files_of(directory)
    assert any(name.endswith(".png") for name in files_of(directory))


def test_documents_are_the_same_with_and_without_result_folders(
    sample_world: Path, sample_dump: Path
) -> None:
    documents = {path.name: path.read_bytes() for path in sample_world.glob("*.jsonl")}
    assert files_of(sample_dump) == documents


def test_progress_is_reported_after_every_session(tmp_path: Path) -> None:
    progress = Mock()
    write_world(tmp_path, sessions=3, seed=0, results=False, progress=progress)
    assert progress.mock_calls == [call(1, 3), call(2, 3), call(3, 3)]


def test_the_fits_of_a_block_of_sessions_are_freed_before_the_next_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Fit]] = []
    kept: list[set[int]] = []

    def fit_block(requests: list[FitRequest]) -> list[dict[str, Fit]]:
        kept.append({fit.session.plan.index for one in made if (fit := one()) is not None})
        fits = fit_agents(requests)
        made.extend(weakref.ref(fit) for of_session in fits for fit in of_session.values())
        return fits

    monkeypatch.setattr(world_module, "fit_agents", fit_block)
    monkeypatch.setattr(world_module, "_SESSIONS_TOGETHER", 2)
    write_world(tmp_path, sessions=6, seed=0, results=False)
    # The caller still holds the last session of a block.
    assert kept == [set(), {1}, {3}]


def test_latent_variables_reproduce_the_log_likelihood_of_the_document(sample_world: Path) -> None:
    pairs = list(fits_with_results(sample_world))
    assert len(pairs) > 200
    for fit, results in pairs:
        latents, settings = results["fitted_latent_variables"], results["fit_settings"]
        left = np.array(settings["fit_choice_history"]) == 0.0
        probability = np.array(latents["choice_prob"])
        likelihood = log_likelihood(probability, left)
        assert likelihood == pytest.approx(fit["log_likelihood"], abs=1e-9)
        predicted_right = np.argmax(probability, axis=0) == 1
        assert np.mean(predicted_right != left) == pytest.approx(fit["prediction_accuracy"])


def test_latent_variables_have_the_shapes_of_their_agents(sample_world: Path) -> None:
    own = {
        "ForagerQLearning": {"q_value"},
        "ForagerLossCounting": {"loss_count"},
        "ForagerCompareThreshold": {"value", "threshold", "p_exploit", "exploiting"},
    }
    for _, results in fits_with_results(sample_world):
        latents, settings = results["fitted_latent_variables"], results["fit_settings"]
        n_trials = results["n_trials"]
        assert set(latents) == own[settings["agent_class_name"]] | {"choice_kernel", "choice_prob"}
        assert len(settings["fit_choice_history"]) == n_trials
        assert len(settings["fit_reward_history"]) == n_trials
        for name, values in latents.items():
            before_trials_only = name in ("choice_prob", "exploiting")
            assert np.shape(values)[-1] == n_trials + (not before_trials_only)
        kernel = np.array(latents["choice_kernel"])
        assert (kernel[:, 0] == 0.0).all()
        has_kernel = settings["agent_kwargs"]["choice_kernel"] != "none"
        assert np.isfinite(kernel[:, 1:]).all() == has_kernel


def test_result_files_hold_bare_nan_and_have_the_three_historical_names(sample_world: Path) -> None:
    for name in RESULT_NAMES:
        paths = list((sample_world / "results").rglob(name))
        assert any(b"NaN" in path.read_bytes() for path in paths)


def test_the_figure_of_every_agent_is_a_png_of_its_own() -> None:
    (session,) = simulate_sessions([next(plan_sessions(0))])
    (fits,) = fit_agents([FitRequest(session, tuple(CATALOGUE), folds=None, with_latents=True)])
    figure = SessionFigure()
    drawn = [figure.draw(session, fit.latents, alias) for alias, fit in fits.items()]
    assert len(set(drawn)) == len(CATALOGUE)
    for content in drawn:
        assert content.startswith(b"\x89PNG")
        assert 5_000 < len(content) < 200_000


def test_the_agents_of_a_session_share_a_figure_if_asked_to(sample_world: Path) -> None:
    figures = {path.read_bytes() for path in sample_world.rglob("fitted_session.png")}
    assert len(figures) == 24 - 3, "a figure per session with enough trials"


def test_some_folders_and_files_are_missing_and_some_folders_have_no_record(
    sample_world: Path, world: World
) -> None:
    folders = [folder_of(sample_world, one) for one in world.collections[MAIN] if fits_of(one)]
    there = [folder for folder in folders if folder.exists()]
    assert 200 < len(there) < len(folders)
    assert any(not (folder / "fitted_session.png").exists() for folder in there)
    assert any(results_of(folder) is None for folder in there)
    in_buckets = {path.parent for path in (sample_world / "results").rglob("forager.pkl")}
    of_records = {
        folder_of(sample_world, document)
        for document in chain.from_iterable(world.collections.values())
        if document.get("s3_location") or document.get("location")
    }
    assert len(in_buckets - of_records) == 2


def test_skipped_records_have_no_result_folder(sample_world: Path, world: World) -> None:
    skipped = [
        document
        for document in world.frameworks
        if any(outputs["additional_info"] == SKIPPED for outputs in outputs_of(document))
    ]
    assert skipped
    assert not any(folder_of(sample_world, document).exists() for document in skipped)


def test_every_subject_has_an_investigator_beside_the_session_table(
    sample_world: Path, world: World
) -> None:
    folder = sample_world / "results/aind-behavior-data/foraging_nwb_bonsai_processed"
    mapping = json.loads((folder / "mouse_pi_mapping.json").read_text())
    subjects = {d["subject_id"] for d in world.prototypes} | {
        outputs["subject_id"] for outputs in world.outputs
    }
    assert {mouse["subject_id"] for mouse in mapping} == subjects - {None}
    assert all(mouse["PI"] for mouse in mapping)


@pytest.mark.slow
def test_result_folders_are_written_once_for_several_runs_at_the_same_time(
    tmp_path: Path,
) -> None:
    program = (
        "import sys; from pathlib import Path; from aind_etl.sources.sample import write_results; "
        "print(write_results('sample:?sessions=2', Path(sys.argv[1])))"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    written = tmp_path / "_sample_results" / "sessions=2&seed=0"
    assert {one.communicate() for one in running} == {(f"{written}\n", "")}
    assert [path for path in written.parent.iterdir() if path.is_dir()] == [written]
