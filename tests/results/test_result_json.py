"""A result file becomes arrays of trials, or is refused with its reason."""

import json
import math
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import mutate, mutations

from aind_etl.results.result_json import (
    ResultError,
    Trials,
    q_value_spread,
    read_document,
    read_result,
)
from aind_etl.results.trial_rows import ParsedResults, other_rows, trial_rows


def a_fit(n: int = 3, **changes: Any) -> dict[str, Any]:
    """Return a fit of Q-learning to n trials: right, right, left, … each other one rewarded."""
    return {
        "n_trials": n,
        "population": [[0.1] * 4] * 50,
        "fit_settings": {
            "agent_alias": "QLearning_L1F1_softmax",
            "fit_choice_history": [float(trial % 3 != 2) for trial in range(n)],
            "fit_reward_history": [trial % 2 == 0 for trial in range(n)],
        },
        "fitted_latent_variables": {
            "q_value": [[trial / 10 for trial in range(n + 1)], [0.5] * (n + 1)],
            "choice_kernel": [[0.0] + [math.nan] * n] * 2,
            "choice_prob": [[0.25] * n, [0.75] * n],
        },
    } | changes


def with_latents(n: int = 3, **latents: Any) -> dict[str, Any]:
    fit = a_fit(n)
    return fit | {"fitted_latent_variables": fit["fitted_latent_variables"] | latents}


def encode(content: Any) -> bytes:
    return json.dumps(content).encode()


def refusal(content: bytes) -> ResultError:
    with pytest.raises(ResultError) as refused:
        read_result(content)
    return refused.value


def assert_same_trials(one: Trials, other: Trials) -> None:
    assert (one.n_trials, one.q_value_spread) == (other.n_trials, other.q_value_spread)
    for mine, theirs in ((one.columns, other.columns), (one.others, other.others)):
        assert mine.keys() == theirs.keys()
        for name, values in mine.items():
            np.testing.assert_array_equal(values, theirs[name])


# --- what is read -----------------------------------------------------------------------------


def test_columns_have_a_value_per_trial_and_one_for_the_state_after_the_last_if_there_is_one():
    nan = math.nan
    expected = {
        "choice": [1, 1, 0, nan],
        "reward": [1, 0, 1, nan],
        "q_left": [0, 0.1, 0.2, 0.3],
        "q_right": [0.5, 0.5, 0.5, 0.5],
        "choice_kernel_left": [0, nan, nan, nan],
        "choice_kernel_right": [0, nan, nan, nan],
        "choice_prob_left": [0.25, 0.25, 0.25, nan],
        "choice_prob_right": [0.75, 0.75, 0.75, nan],
        # The reward less the value of the chosen side before the trial.
        "rpe": [1 - 0.5, 0 - 0.5, 1 - 0.2, nan],
    }
    trials = read_result(encode(a_fit()))
    assert_same_trials(trials, Trials(3, expected, {}, trials.q_value_spread))


def test_the_fit_may_be_below_analysis_results_or_the_file_itself():
    assert_same_trials(
        read_result(encode({"_id": "x", "analysis_results": a_fit()})), read_result(encode(a_fit()))
    )


def test_latents_without_a_column_are_kept_apart():
    trials = read_result(encode(with_latents(belief=[[1, 2, 3]], surprise=[0.1, 0.2, 0.3, 0.4])))
    np.testing.assert_array_equal(trials.others["belief"], [[1, 2, 3]])
    np.testing.assert_array_equal(trials.others["surprise"], [[0.1, 0.2, 0.3, 0.4]])
    assert "belief" not in trials.columns


def test_compare_to_threshold_variables_have_columns_of_their_own():
    fit = a_fit(
        fitted_latent_variables={
            "value": [0.1, 0.2, 0.3, 0.4],
            "threshold": [0.5] * 4,
            "p_exploit": [0.6] * 4,
            "exploiting": [True, False, True],
        }
    )
    trials = read_result(encode(fit))
    np.testing.assert_array_equal(trials.columns["value"], [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_array_equal(trials.columns["exploiting"], [1, 0, 1, math.nan])
    assert trials.q_value_spread is None
    assert "rpe" not in trials.columns


def test_a_fit_without_latents_still_has_choices_and_rewards():
    fit = a_fit()
    del fit["fitted_latent_variables"]
    assert set(read_result(encode(fit)).columns) == {"choice", "reward"}


@pytest.mark.parametrize("note", ["plain", 'with "escapes"'])
def test_a_field_that_is_nan_is_missing(note: str):
    fit = a_fit(note=note, n_trials=math.nan)
    assert_same_trials(read_result(encode(fit)), read_result(encode(a_fit())))


@pytest.mark.parametrize("alias", ["QLearning_L2F1_softmax", "WSLS"])
def test_real_latents_are_read_value_for_value(alias: str, real_records: Path):
    folder = real_records / "latent_variables_730945_2024-10-24"
    latents = json.loads((folder / f"{alias}.json").read_text())["fitted_latent_variables"]
    n = len(latents["choice_prob"][0])
    fit = a_fit(n, fitted_latent_variables=latents)
    trials = read_result(encode({"analysis_results": fit}))
    assert trials.n_trials == 394
    for name, columns in {
        "q_value": ("q_left", "q_right"),
        "choice_kernel": ("choice_kernel_left", "choice_kernel_right"),
        "choice_prob": ("choice_prob_left", "choice_prob_right"),
        "loss_count": ("loss_count",),
    }.items():
        if name in latents:
            rows = latents[name] if isinstance(latents[name][0], list) else [latents[name]]
            for column, row in zip(columns, rows, strict=True):
                found = [None if math.isnan(v) else v for v in trials.columns[column][: len(row)]]
                assert found == row
    assert trials.others == {}


def test_the_real_reward_prediction_error_is_the_one_that_was_printed(real_records: Path):
    folder = real_records / "latent_variables_730945_2024-10-24"
    real = json.loads((folder / "QLearning_L2F1_softmax.json").read_text())
    printed = real["rpe_printed_8_digits_computed_by_reader"]
    values = np.array(printed["values"] if isinstance(printed, dict) else printed, dtype=float)
    q = np.array(real["fitted_latent_variables"]["q_value"])
    # Which side was chosen and whether it was rewarded follow from the printed errors.
    reward = values > 0
    chosen = np.abs(reward - q[1, : len(values)] - values) < np.abs(
        reward - q[0, : len(values)] - values
    )
    n = q.shape[1] - 1
    fit = a_fit(n, fitted_latent_variables=real["fitted_latent_variables"])
    fit["fit_settings"] = {
        "fit_choice_history": [float(side) for side in chosen] + [0.0] * (n - len(values)),
        "fit_reward_history": [bool(one) for one in reward] + [False] * (n - len(values)),
    }
    found = read_result(encode(fit)).columns["rpe"][: len(values)]
    np.testing.assert_allclose(found, values, atol=5e-8)


# --- the fast way and the plain way -----------------------------------------------------------

NUMBERS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.integers(-(2**53), 2**53), st.none()
)
TEXTS = st.one_of(
    st.text(), st.sampled_from(["NaN", "[NaN, NaN]", '"NaN', "\\", ", NaN", "Infinity"])
)
BULK = st.recursive(
    NUMBERS | TEXTS | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@st.composite
def fits(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a fit with latents of any numbers, and bulk of any JSON around them."""
    n = draw(st.integers(0, 5))
    row = st.lists(NUMBERS, min_size=n + 1, max_size=n + 1)
    latents = {
        "q_value": [draw(row), draw(row)],
        "loss_count": draw(row),
        draw(TEXTS.filter(lambda name: name not in {"q_value", "loss_count"})): draw(row),
    }
    fit = a_fit(n, fitted_latent_variables=latents, population=draw(BULK))
    return fit | {f"about {draw(TEXTS)}": draw(BULK)}


@given(fit=fits(), nested=st.booleans(), escaped=st.booleans())
def test_skipping_the_bulk_reads_the_same_as_parsing_everything(fit, nested, escaped):
    document = {"analysis_results": fit}
    content = json.dumps(document if nested else fit, ensure_ascii=escaped)
    everything = read_document(json.dumps(document), 0)
    assert everything is not None
    assert_same_trials(read_result(content.encode("utf-8", "surrogatepass")), everything)
    latents = fit["fitted_latent_variables"]
    for values, column in zip(latents["q_value"], ("q_left", "q_right"), strict=True):
        expected = np.array(values, dtype=float)
        np.testing.assert_array_equal(everything.columns[column], expected)


@pytest.mark.parametrize(
    "population",
    [
        [],
        [[]],
        [[0.5, math.nan], [1, -math.inf]],
        [[1], {"population": [[2]]}, [3]],
        [[1], {}, [2]],
        [[1], "]", [2]],
        ["population", [1]],
        {"population": [1]},
        "population",
        None,
        7,
    ],
    ids=json.dumps,
)
def test_a_population_of_any_kind_changes_nothing_else(population):
    fit = a_fit(population=population)
    last = {"n_trials": 3, **{name: fit[name] for name in fit if name != "population"}}
    for content in (fit, {**last, "population": population}, {"folds": [fit], **fit}):
        assert_same_trials(read_result(encode(content)), read_result(encode(last)))


def test_a_file_that_is_cut_off_in_its_population_is_refused():
    content = encode(a_fit())
    cut = content[: content.index(b"population") + 40]
    assert refusal(cut).reason == "not_json"


@given(content=st.binary(max_size=200) | TEXTS.map(str.encode) | BULK.map(encode))
def test_anything_but_a_result_is_refused_with_a_reason(content):
    error = refusal(content)
    assert error.reason in {"not_json", "wrong_type", "no_trials", "wrong_length", "wrong_value"}
    assert str(error)


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latents", "path"),
    [
        ({"q_value": [[0.1] * 3, [0.1] * 3]}, "q_value"),
        ({"q_value": [[0.1] * 4]}, "q_value"),
        ({"q_value": [[0.1] * 4, [0.1] * 3]}, "q_value"),
        ({"q_value": [[0.1] * 4, 0.2]}, "q_value"),
        ({"q_value": [0.2, [0.1] * 4]}, "q_value"),
        ({"choice_prob": [[0.1] * 4, [0.1] * 4]}, "choice_prob"),
        ({"loss_count": [0.0] * 5}, "loss_count"),
        ({"novel": [0.0] * 9}, "novel"),
    ],
)
def test_lengths_that_contradict_the_number_of_trials_are_refused(latents, path):
    error = refusal(encode(with_latents(**latents)))
    assert (error.reason, error.path) == ("wrong_length", f"fitted_latent_variables.{path}")


@pytest.mark.parametrize("name", ["choice", "reward"])
def test_a_history_that_is_too_short_is_refused(name):
    fit = a_fit()
    fit["fit_settings"][f"fit_{name}_history"].pop()
    error = refusal(encode({"analysis_results": fit}))
    assert error.reason == "wrong_length"
    assert error.path == f"analysis_results.fit_settings.fit_{name}_history"
    assert "3" in str(error)
    assert "2" in str(error)


def test_a_choice_that_is_neither_left_nor_right_is_refused():
    fit = a_fit()
    fit["fit_settings"]["fit_choice_history"][1] = 2.0
    error = refusal(encode(fit))
    assert (error.reason, error.path) == ("wrong_value", "fit_settings.fit_choice_history")


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"n_trials": "three"}, "n_trials"),
        ({"fitted_latent_variables": [1, 2]}, "fitted_latent_variables"),
        ({"fitted_latent_variables": {"q_value": "none"}}, "fitted_latent_variables[...]"),
        ({"fit_settings": {"fit_choice_history": ["left"]}}, "fit_settings.fit_choice_history[0]"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_place(change, path):
    error = refusal(encode(a_fit(**change)))
    assert (error.reason, error.path) == ("wrong_type", path)


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><html></html>",
        b"{",
        b"\xff\xfe",
        b'{"a":' * 3000 + b"1" + b"}" * 3000,
        b"[" * 100_000,
        b'{"fitted_latent_variables": {"\\ud800": [1, 2]}}',
    ],
    ids=["HTML", "cut off", "bytes", "nested objects", "nested lists", "half a character"],
)
def test_what_is_not_json_for_a_table_is_refused_and_quoted(content):
    error = refusal(content)
    assert error.reason == "not_json"
    assert repr(content[:40]) in str(error)


@pytest.mark.parametrize("content", [{}, {"analysis_results": {}}, {"n_trials": 10**9}])
def test_json_without_trials_is_refused(content):
    assert refusal(encode(content)).reason == "no_trials"


@settings(max_examples=300)
@given(mutations())
def test_no_change_to_a_result_file_goes_unnoticed_or_stops_the_reader(mutation):
    number, changes = mutation
    sound = [a_fit(), {"analysis_results": a_fit()}, a_fit(n=2, n_trials=2)][number % 3]
    content = json.dumps(mutate(sound, changes)).encode()
    # Nothing but a refusal is raised.
    with suppress(ResultError):
        trials = read_result(content)
        assert {values.shape for values in trials.columns.values()} == {(trials.n_trials + 1,)}
        for name, values in trials.others.items():
            name.encode()
            assert values.shape[-1] in {trials.n_trials, trials.n_trials + 1}


# --- documents that were never trimmed --------------------------------------------------------


def in_process(outputs: Any) -> dict[str, Any]:
    return {"processing": {"data_processes": [{"output_parameters": outputs}]}}


@pytest.mark.parametrize(
    "document",
    [{"analysis_results": a_fit()}, in_process({"fitting_results": a_fit()})],
    ids=["prototype", "framework"],
)
def test_an_untrimmed_document_has_the_trials_of_its_result_file(document):
    from aind_etl.sources.canonical import document_from_json

    text = document_from_json(encode(document)).text
    found = read_document(text, 0)
    assert found is not None
    assert_same_trials(found, read_result(encode(a_fit())))


@pytest.mark.parametrize(
    "document",
    [
        {"analysis_results": {"n_trials": 3}},
        {"analysis_results": None},
        in_process(None),
        in_process([{"fitted_latent_variables": 1}]),
    ],
)
def test_a_trimmed_document_has_no_trials(document):
    assert read_document(json.dumps(document), 0) is None


def test_a_fit_to_no_trials_has_only_the_state_after_the_last():
    results = ParsedResults()
    for n in (0, 2):
        content = encode(with_latents(n, novel=[0.5] * n))
        results.parse({"record_id": f"{n} trials", "n_trials": n}, partial(read_result, content))
    assert trial_rows(results)["trial"].to_list() == [0, 0, 1, 2]
    assert other_rows(results)["trial"].to_list() == [0, 1]


# --- the spread of Q values -------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=80))
def test_the_spread_is_the_entropy_of_a_histogram_of_100_bins(values):
    counts = np.histogram(values, bins=100, range=(0, 1))[0] / len(values)
    entropy = -sum(share * math.log2(share) for share in counts if share) / math.log2(100)
    assert q_value_spread(np.array(values)) == pytest.approx(entropy)


def test_there_is_no_spread_of_values_outside_0_and_1():
    assert q_value_spread(np.array([math.nan, -0.5, 2.0])) is None
