"""Parsing one document: what becomes a value, what an attribute, and what is rejected."""

import copy
import re

import pytest
from flattening import FIT_AT, canonical
from mutations import put, value_at

from aind_etl.flatten import document_reader
from aind_etl.flatten.document_reader import Rejection, read_document
from aind_etl.sources.canonical import canonical_json

PROCESS = "processing.data_processes[0]"
SPECIFIED = {
    "prototype": "analysis_spec.analysis_args",
    "framework": f"{PROCESS}.code.parameters",
}
INTEGER = "an integer between -2147483648 and 2147483647"


class Fitted:
    """A fitted document of a format, to be changed: the document, its fit, and where that is."""

    def __init__(self, pipeline_format, document):
        self.format = pipeline_format
        self.document = copy.deepcopy(document)
        self.place = FIT_AT[pipeline_format]
        self.fit = at(self.document, self.place)


@pytest.fixture(params=["prototype", "framework"])
def fitted(request, fits):
    return Fitted(request.param, fits[request.param])


@pytest.fixture
def framework(fits):
    """Return a fitted framework document that may be changed."""
    return copy.deepcopy(fits["framework"])


def at(document, path):
    """Return the value at a path of a document; None if there is none."""
    keys = path.replace("[0]", ".0").split(".")
    return value_at(document, [int(key) if key.isdigit() else key for key in keys])


def read(document):
    found = canonical(document)
    return read_document(found.record_id, found.text)


def verdict(document):
    """Return why a document is rejected, or the first of its values that is."""
    try:
        _, processes = read(document)
    except Rejection as rejection:
        return rejection
    value = next(one for process in processes for one in process.rejected)
    return Rejection(value.reason, f"{value.value}; expected {value.expected}", value.path)


# --- which format ---------------------------------------------------------------------------


def test_the_format_of_a_document_is_recognized(fitted):
    found, processes = read(fitted.document)
    assert found == fitted.format
    assert [process.index for process in processes] == [0]


@pytest.mark.parametrize(
    ("raw", "reason", "words"),
    [
        (b'{"_id": "a", "subject": 1}', "unknown_format", 'of neither format.*"_id","subject"'),
        (b'{"_id": "a"}', "unknown_format", "'analysis_spec' and 'nwb_name'"),
        (b'{"nwb_name": "x"}', "missing_id", "has an '_id'"),
        (b'{"_id": null, "nwb_name": "x"}', "missing_id", "has an '_id'"),
        (b"[1, 2]", "not_an_object", r"is a JSON object; this one is \[1,2\]"),
        (b'"text"', "not_an_object", 'is a JSON object; this one is "text"'),
        (b"3", "not_an_object", "this one is 3"),
        (b'{"_id": "a", "nwb', "not_json", "not valid JSON.*Correct it in the source"),
        (b'{"_id": "a", "processing": null}', "no_process", "null"),
        (b'{"_id": "a", "processing": []}', "no_process", "null"),
        (b'{"_id": "a", "object_type": "Metadata"}', "no_process", "at least one.*has null"),
        (b'{"_id": "a", "processing": {"data_processes": []}}', "no_process", r"one has \[\]"),
    ],
)
def test_what_is_not_a_document_of_either_format_is_rejected(raw, reason, words):
    rejection = verdict(raw)
    path = {"missing_id": "_id", "no_process": "processing.data_processes"}.get(reason)
    assert (rejection.reason, rejection.path) == (reason, path)
    assert re.search(words, rejection.message)


def test_a_process_that_is_not_an_object_is_rejected():
    rejection = verdict({"_id": "a", "processing": {"data_processes": [{}, 5]}})
    assert (rejection.reason, rejection.path) == ("wrong_type", "processing.data_processes[1]")
    assert rejection.message == "5; expected an object"


def test_processes_beyond_the_largest_index_are_rejected(monkeypatch):
    monkeypatch.setattr(document_reader, "LONGEST_LIST", 3)
    rejection = verdict({"_id": "a", "processing": {"data_processes": [{}] * 4}})
    assert (rejection.reason, rejection.path) == ("wrong_value", "processing.data_processes")
    assert rejection.message == "[{}]; expected at most 3 entries"


# --- values at the contract's paths ---------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("AIC", "12.5 ", "a number"),
        ("AIC", True, "a number"),
        ("AIC", {"value": 1}, "a number"),
        ("LPT", [0.5], "a number"),
        ("k_model", "five", INTEGER),
        ("k_model", False, INTEGER),
        ("success", "yes", "true or false"),
        ("success", 1, "true or false"),
        ("fit_settings", [], "an object"),
        ("fit_settings", 0, "an object"),
        ("cross_validation", "ten folds", "an object"),
        ("params", [1, 2], "an object"),
    ],
)
def test_a_value_of_another_type_is_rejected_with_its_path(fitted, key, value, expected):
    fitted.fit[key] = value
    rejection = verdict(fitted.document)
    assert rejection.reason == "wrong_type"
    assert rejection.path == f"{fitted.place}.{key}"
    assert rejection.message == f"{canonical_json(value)}; expected {expected}"


@pytest.mark.parametrize("value", [5.5, 2**31, -(2**31) - 1, 1e300, float("nan"), float("inf")])
def test_a_number_that_does_not_fit_an_integer_column_is_rejected(fitted, value):
    fitted.fit["k_model"] = value
    rejection = verdict(fitted.document)
    assert (rejection.reason, rejection.path) == ("wrong_value", f"{fitted.place}.k_model")
    assert rejection.message == f"{canonical_json(value)}; expected {INTEGER}"


@pytest.mark.parametrize(
    ("place", "value", "path", "expected"),
    [
        (("params", "biasL"), "left", "params.biasL", "a number"),
        (("params_without_polishing", "biasL"), [1], "params_without_polishing.biasL", "a number"),
        (("fit_settings", "fit_names", 0), 0.5, "fit_settings.fit_names[0]", "a text"),
        (("fit_settings", "fit_names"), "biasL", "fit_settings.fit_names", "a list"),
        (("fit_settings", "lower_bounds", 0), "low", "fit_settings.lower_bounds[0]", "a number"),
        (
            ("cross_validation", "prediction_accuracy_test", 3),
            "0.7 ",
            "cross_validation.prediction_accuracy_test[3]",
            "a number",
        ),
    ],
)
def test_a_wrong_entry_of_a_list_or_object_is_rejected_with_its_path(
    fitted, place, value, path, expected
):
    put(fitted.fit, place, value)
    rejection = verdict(fitted.document)
    assert rejection.reason == "wrong_type"
    assert rejection.path == f"{fitted.place}.{path}"
    assert rejection.message.endswith(f"; expected {expected}")


@pytest.mark.parametrize("inputs", ["s3://bucket", [3], [{"url": 0.5}], {"url": "s3://bucket"}])
def test_inputs_that_are_not_a_list_of_objects_with_addresses_are_rejected(framework, inputs):
    framework["processing"]["data_processes"][0]["code"]["input_data"] = inputs
    rejection = verdict(framework)
    assert rejection.reason == "wrong_type"
    assert rejection.path.startswith(f"{PROCESS}.code.input_data")


def test_null_values_are_missing_values(fitted):
    fitted.fit["AIC"] = None
    del fitted.fit["BIC"]
    fitted.fit["cross_validation"] = None
    (process,) = read(fitted.document)[1]
    assert not [path for path in process.values if path.rsplit(".", 1)[-1] in {"AIC", "BIC"}]
    assert not [path for path in process.values if "cross_validation" in path]


# --- attributes -----------------------------------------------------------------------------


def attributes_of(document, index=0):
    return {(section, path): value for section, path, value in read(document)[1][index].attributes}


def test_unknown_scalars_are_attributes_of_their_section(fitted):
    places = {
        "prototype": {
            "outputs": "analysis_results",
            "record": "analysis_spec",
        },
        "framework": {
            "outputs": f"{PROCESS}.output_parameters",
            "record": f"{PROCESS}.code",
        },
    }[fitted.format] | {"parameters": SPECIFIED[fitted.format]}
    for place in places.values():
        at(fitted.document, place)["dry run"] = {"text": "1", "list": [True, {"deep": 0.5}, None]}
    fitted.document["dry run"] = 3
    kept = attributes_of(fitted.document)
    for section, place in places.items():
        way = f"{place}.dry run" if section == "record" else "dry run"
        assert kept[section, f"{way}.text"] == "1"
        assert kept[section, f"{way}.list[0]"] is True
        assert kept[section, f"{way}.list[1].deep"] == 0.5
        assert (section, f"{way}.list[2]") not in kept
    assert kept["record", "dry run"] == 3


def test_attributes_of_keys_with_dots_and_brackets_have_their_own_paths(fitted):
    fitted.document["a"] = {"b": 1, "c": [2]}
    fitted.document["a.b"] = 3
    fitted.document["a.c[0]"] = 4
    kept = attributes_of(fitted.document)
    assert kept["record", "a.b"] == 1
    assert kept["record", "a.c[0]"] == 2
    assert kept["record", '"a.b"'] == 3
    assert kept["record", '"a.c[0]"'] == 4


def test_a_value_that_conflicts_with_its_column_is_an_attribute(fitted):
    assert ("parameters", "agent_class") not in attributes_of(fitted.document)
    at(fitted.document, SPECIFIED[fitted.format])["agent_class"] = "ForagerOfAnotherName"
    assert attributes_of(fitted.document)["parameters", "agent_class"] == "ForagerOfAnotherName"
    del fitted.fit["fit_settings"]["agent_class_name"]
    assert ("parameters", "agent_class") not in attributes_of(fitted.document)


def test_a_tag_takes_precedence_over_an_older_version(framework):
    parameters = at(framework, f"{PROCESS}.code.parameters")
    parameters.pop("analysis_tag", None)
    parameters["analysis_ver"] = "an older one"
    assert ("parameters", "analysis_ver") not in attributes_of(framework)
    parameters["analysis_tag"] = "a newer one"
    assert attributes_of(framework)["parameters", "analysis_ver"] == "an older one"


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([], {}),
        ([1], {"[0]": 1}),
        ([[3]], {"[0][0]": 3}),
        ([{"a": 1}, {"b": 2}], {"[0].a": 1, "[1].b": 2}),
    ],
)
def test_other_lists_of_outputs_become_attributes(framework, outputs, expected):
    document = framework
    document["processing"]["data_processes"][0]["output_parameters"] = outputs
    kept = {p: v for (section, p), v in attributes_of(document).items() if section == "outputs"}
    assert kept == expected


def test_outputs_in_a_list_of_one_are_read_like_the_object_itself(framework):
    alone = read(framework)
    process = framework["processing"]["data_processes"][0]
    process["output_parameters"] = [process["output_parameters"]]
    assert read(framework) == alone


def test_extended_json_is_replaced_by_the_encoded_value(fitted):
    fitted.document["_id"] = {"$oid": "0123456789abcdef01234567"}
    fitted.document["ingested"] = {"at": {"$date": "2026-01-08T07:39:40.883Z"}}
    fitted.document["count"] = {"$numberLong": "12"}
    fitted.document["share"] = {"$numberDouble": "-Infinity"}
    fitted.document["precise"] = {"$numberDecimal": "0.25"}
    kept = attributes_of(fitted.document)
    assert kept["record", "ingested.at"] == "2026-01-08T07:39:40.883"
    assert kept["record", "count"] == 12
    assert kept["record", "share"] == float("-inf")
    assert kept["record", "precise"] == 0.25
