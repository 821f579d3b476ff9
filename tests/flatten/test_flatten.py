"""Documents to tables: no value is lost, and no document affects another."""

import copy
import json
import math
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from flattening import FIT_AT, canonical, fit_of, flatten, format_of
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import ANYTHING, mutate, mutations, put, value_at, ways_of
from worlds import MAIN, NOON

from aind_etl.contract import ANALYSIS_TABLES, DataType, tables
from aind_etl.contract.columns import FIT, FOLD_MEASURES, LEFT_IN_DOCUMENTS
from aind_etl.contract.schemas import polars_schema
from aind_etl.flatten import flattener_version, version
from aind_etl.lake.paths import UNKNOWN_MONTH
from aind_etl.sources.canonical import canonical_json

CHILDREN = [table for table in ANALYSIS_TABLES if table is not tables.ANALYSES]


@pytest.fixture(scope="session")
def flattened(documents):
    """Return every collection of the sample world flattened."""
    return {name: flatten(values, name) for name, values in documents.items()}


@pytest.fixture(scope="session")
def main(documents, flattened):
    """Return the documents of the main collection by id, and their rows."""
    return {one["_id"]: one for one in documents[MAIN]}, flattened[MAIN]


# --- no scalar of a document is lost --------------------------------------------------------


class Leaf(NamedTuple):
    """A scalar of a document, and the way to it: keys, and positions of lists."""

    way: tuple[str | int, ...]
    value: Any


def leaves_of(value, way=()):
    """Yield every scalar of a JSON value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves_of(inner, (*way, key))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from leaves_of(inner, (*way, position))
    elif value is not None:
        yield Leaf(way, value)


def written(way):
    """Return a way as the paths of attributes are written."""
    text = ""
    for position, step in enumerate(way):
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            key = json.dumps(step, ensure_ascii=False) if "." in step or "[" in step else step
            text += f".{key}" if position else key
    return text


def as_stored(value, data_type):
    """Return what a column of a type holds of a document's value."""
    if data_type is DataType.DATE:
        return date.fromisoformat(value[:10])
    if data_type is DataType.TIMESTAMPTZ:
        moment = datetime.fromisoformat(value)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if data_type is DataType.DOUBLE:
        return None if math.isnan(float(value)) else float(value)
    if data_type.is_integer:
        return int(float(value))
    if data_type is DataType.VARCHAR and not isinstance(value, str):
        return str(value).lower() if isinstance(value, bool) else str(int(value))
    return value


class Places:
    """Where the contract says the values of a format's documents go."""

    def __init__(self, pipeline_format):
        self._format = pipeline_format
        self._columns = {}
        for table in ANALYSIS_TABLES:
            for column in table.columns:
                for rank, path in enumerate(column.origins[pipeline_format].paths):
                    pattern = tuple(path.replace("[]", ".[]").split("."))
                    self._columns[pattern] = (table.name, column, rank)
        fit = FIT[pipeline_format].replace("[]", ".[]").split(".")
        self._left = [(*fit, *path.split(".")) for path in LEFT_IN_DOCUMENTS]

    def column(self, way):
        """Return table, column and rank of the contract's path that a way follows."""
        pattern = tuple("[]" if isinstance(step, int) else step for step in way)
        return self._columns.get(pattern) or self._columns.get((*pattern[:-1], "*"))

    def is_left(self, way):
        """Return whether a way leads into bulk that stays in the documents."""
        pattern = tuple("[]" if isinstance(step, int) else step for step in way)
        return any(pattern[: len(left)] == left for left in self._left)

    def section(self, way):
        """Return the section of an attribute, and the way to it within."""
        if self._format == "prototype":
            sections = {
                "parameters": ("analysis_spec", "analysis_args"),
                "outputs": ("analysis_results",),
            }
            start = ()
        else:
            sections = {"parameters": ("code", "parameters"), "outputs": ("output_parameters",)}
            start = way[:3]
        for section, below in sections.items():
            if way[len(start) :][: len(below)] == below and len(way) > len(start) + len(below):
                return section, way[len(start) + len(below) :]
        return "record", way


PLACES = {name: Places(name) for name in ("prototype", "framework")}


class Rows:
    """The rows of one document, looked up as its leaves are."""

    def __init__(self, flattened, record_id):
        self._of = {
            name: rows.filter(pl.col("record_id") == record_id).to_dicts()
            for name, rows in flattened.items()
        }
        self.analyses = {row["process_index"]: row for row in self._of["analyses"]}
        self.attributes = {
            (row["process_index"], row["section"], row["path"]): row
            for row in self._of["attributes"]
        }
        self.number_of_attributes = len(self._of["attributes"])
        self.rejected = self._of["rejected_values"]
        self._rejected_paths = {row["path"] for row in self.rejected}

    def is_rejected(self, way):
        """Return whether a value, or a list or an object that it is in, was rejected."""
        return any(written(way[:n]) in self._rejected_paths for n in range(1, len(way) + 1))

    def child(self, table, index, **key):
        """Return the one row of a child with a key, an empty one where there is no such row."""
        found = [
            row
            for row in self._of[table]
            if row["process_index"] == index and all(row[k] == v for k, v in key.items())
        ]
        return found[0] if len(found) == 1 else {}


def normalised(document):
    """Return a document with listed outputs of one object as that object: they mean the same."""
    if format_of(document) == "prototype":
        return document
    document = copy.deepcopy(document)
    for process in document["processing"]["data_processes"]:
        outputs = process.get("output_parameters") if isinstance(process, dict) else None
        if isinstance(outputs, list) and len(outputs) == 1 and isinstance(outputs[0], dict):
            process["output_parameters"] = outputs[0]
    return document


def lost_of(document, flattened):
    """Yield the leaves of a flattened document that are not where the contract says."""
    document = normalised(document)
    pipeline_format = format_of(document)
    places = PLACES[pipeline_format]
    record_id = canonical(document).record_id
    rows = Rows(flattened, record_id)
    expected = {}
    for leaf in leaves_of(document):
        way, value = leaf
        if way[0] == "_id" or places.is_left(way) or rows.is_rejected(way):
            continue
        in_process = way[:2] == ("processing", "data_processes")
        index = way[2] if in_process else 0
        known = places.column(way)
        if known is not None:
            _, column, rank = known
            if rank == 0 or not is_overruled(document, rows, column, pipeline_format, way):
                indices = [index] if in_process else list(rows.analyses)
                for each in indices:
                    held, found = held_value(document, rows, known, way, each)
                    if not held or found != as_stored(value, column.type):
                        yield leaf, column.name, found
                continue
            value = as_stored(value, column.type)
            first = value_at(document, first_way(column, pipeline_format, way))
            if value == as_stored(first, column.type):
                continue
        section, within = places.section(way)
        expected[index, section, written(within)] = Leaf(way, value)
    for key, leaf in expected.items():
        if not is_kept(rows.attributes.get(key), leaf.value):
            yield leaf, key, rows.attributes.get(key)
    for key in rows.attributes.keys() - expected.keys():
        yield None, key, rows.attributes[key]
    if rows.number_of_attributes != len(rows.attributes):
        yield None, "attributes", "two with the same key"


def first_way(column, pipeline_format, way):
    """Return the way to the first place of a column, in the process that ``way`` leads to."""
    path = column.origins[pipeline_format].paths[0].replace("[]", ".[]").split(".")
    return tuple(way[2] if step == "[]" else step for step in path)


def is_overruled(document, rows, column, pipeline_format, way):
    first = first_way(column, pipeline_format, way)
    return value_at(document, first) is not None and not rows.is_rejected(first)


def held_value(document, rows, known, way, index):
    """Return whether there is a row for a leaf at a path of the contract, and its value."""
    table, column, _ = known
    if table == "analyses":
        row = rows.analyses.get(index, {})
    elif table == "fit_parameters":
        if column.name == "parameter":
            name = as_stored(value_at(document, way), DataType.VARCHAR)
        elif isinstance(way[-1], int):
            names = value_at(document, (*way[:-2], "fit_names")) or []
            name = as_stored(names[way[-1]], DataType.VARCHAR) if way[-1] < len(names) else None
        else:
            name = way[-1]
        row = rows.child(table, index, parameter=name)
    elif table == "cross_validation":
        row = rows.child(table, index, fold=way[-1])
    else:
        row = rows.child(table, index, position=way[-2])
    return column.name in row, row.get(column.name)


def is_kept(kept, value):
    """Return whether an attribute holds a value, in the one column for its type."""
    if kept is None:
        return False
    text, number, boolean = (kept[f"value_{kind}"] for kind in ("text", "number", "boolean"))
    if isinstance(value, bool):
        return (text, number) == (None, None) and boolean is value
    if isinstance(value, str):
        return (number, boolean) == (None, None) and text == value
    digits = str(value) if isinstance(value, int) and abs(value) > 2**53 else None
    if (text, boolean) != (digits, None) or number is None:
        return False
    return number == float(value) or (math.isnan(number) and math.isnan(value))


def test_every_scalar_of_every_document_is_in_a_column_or_an_attribute(documents, flattened):
    lost = [
        (collection, document["_id"], *found)
        for collection, values in documents.items()
        for document in values
        for found in lost_of(document, flattened[collection])
    ]
    assert lost == []


def test_the_search_for_lost_values_finds_one(documents):
    document = copy.deepcopy(documents[MAIN][0])
    rows = flatten([document])
    document["never seen"] = {"before": 1}
    ((leaf, _, found),) = lost_of(document, rows)
    assert leaf == Leaf(("never seen", "before"), 1)
    assert found is None


# --- shape of the rows ----------------------------------------------------------------------


def test_every_document_is_rejected_or_has_a_row_per_process(documents, flattened):
    for collection, values in documents.items():
        counts = Counter(flattened[collection]["analyses"]["record_id"])
        refused = flattened[collection]["rejected_documents"]["record_id"].to_list()
        assert counts.keys().isdisjoint(refused)
        assert counts == {
            one["_id"]: 1
            if format_of(one) == "prototype"
            else len(one["processing"]["data_processes"])
            for one in values
            if one["_id"] not in refused
        }


@pytest.mark.parametrize("table", ANALYSIS_TABLES, ids=lambda table: table.name)
def test_rows_have_the_tables_columns_types_and_keys(flattened, table):
    for one in flattened.values():
        rows = one[table.name]
        assert rows.drop("session_month").schema == polars_schema(table)
        assert rows.select(table.key).is_duplicated().sum() == 0
        required = [column.name for column in table.columns if column.required]
        assert rows.select(required).null_count().row(0) == (0,) * len(required)


def test_rows_are_filed_by_the_month_of_the_session(flattened):
    key = ["source_collection", "record_id", "process_index", "session_month"]
    for one in flattened.values():
        for row in one["analyses"].to_dicts():
            day = row["session_date"]
            assert row["session_month"] == (f"{day:%Y-%m}" if day else UNKNOWN_MONTH)
        for child in CHILDREN:
            rows = one[child.name]
            assert rows.join(one["analyses"], on=key, how="anti").is_empty()


def test_an_empty_batch_gives_empty_tables():
    nothing = flatten([])
    assert all(rows.is_empty() for rows in nothing.values())
    assert nothing["rejected_documents"].schema == polars_schema(tables.REJECTED_DOCUMENTS)


def test_rows_have_the_hash_and_the_times_of_their_document(main):
    documents, rows = main
    for row in rows["analyses"].to_dicts():
        assert row["first_seen_at"] == NOON
        assert row["changed_at"] == NOON + timedelta(days=1)
        assert row["content_hash"] == canonical(documents[row["record_id"]]).content_hash


def test_attributes_are_counted(flattened):
    for one in flattened.values():
        counted = Counter(one["attributes"].select("record_id", "process_index").iter_rows())
        for row in one["analyses"].to_dicts():
            assert row["n_attributes"] == counted[row["record_id"], row["process_index"]]


# --- both formats, value by value ------------------------------------------------------------


def test_both_formats_and_every_outcome_are_there(main):
    found = set(main[1]["analyses"].select("pipeline_format", "outcome").iter_rows())
    assert found == {
        ("prototype", "success"),
        ("prototype", "skipped"),
        ("prototype", "failed"),
        ("framework", "success"),
        ("framework", "skipped"),
        ("framework", "unknown"),
    }


def test_each_of_several_processes_has_its_own_outputs(main):
    documents, rows = main
    several = [
        one
        for one in documents.values()
        if format_of(one) == "framework" and len(one["processing"]["data_processes"]) > 1
    ]
    fitted_first = set()
    for document in several:
        found = (
            rows["analyses"].filter(pl.col("record_id") == document["_id"]).sort("process_index")
        )
        for index, row in enumerate(found.to_dicts()):
            fit = fit_of(document, index)
            assert row["aic"] == (fit or {}).get("AIC")
            if fit:
                fitted_first.add(index == 0)
        # What belongs to the document belongs to all of its processes.
        assert found["result_location"].n_unique() == 1
    assert fitted_first == {True, False}


def test_outputs_may_be_null_empty_or_a_list(main):
    documents, rows = main
    kinds = set()
    for document in documents.values():
        if format_of(document) == "prototype":
            continue
        outputs = document["processing"]["data_processes"][0]["output_parameters"]
        row = rows["analyses"].row(
            by_predicate=(pl.col("record_id") == document["_id"]) & (pl.col("process_index") == 0),
            named=True,
        )
        if isinstance(outputs, list) and outputs:
            kinds.add("list of one")
            assert (row["outcome"], row["aic"]) == ("success", fit_of(document)["AIC"])
        elif not outputs:
            kinds.add(type(outputs).__name__)
            assert row["outcome"] == "unknown"
            assert row["subject_id"] is row["session_key"] is row["aic"] is None
            # Which agent it was is known from the parameters all the same.
            if "agent_class" in document["processing"]["data_processes"][0]["code"]["parameters"]:
                assert row["agent_alias"] is not None
    assert kinds == {"list of one", "list", "dict", "NoneType"}


def test_the_input_asset_of_a_record_is_the_last_of_its_inputs(main):
    documents, rows = main
    n_assets = set()
    for row in rows["analyses"].to_dicts():
        document = documents[row["record_id"]]
        if format_of(document) == "prototype":
            assert row["input_asset_url"] is None
            continue
        process = document["processing"]["data_processes"][row["process_index"]]
        assert row["input_asset_url"] == process["code"]["input_data"][-1]["url"]
        n_assets.add(len(process["code"]["input_data"]))
    assert len(n_assets) > 1


def test_times_that_a_document_does_not_have_are_null(main):
    documents, rows = main
    of_prototypes = set()
    for row in rows["analyses"].to_dicts():
        document = documents[row["record_id"]]
        found = tuple(row[name] is not None for name in ("started_at", "finished_at"))
        if format_of(document) == "prototype":
            assert found == (False, document.get("analysis_datetime") is not None)
            of_prototypes.add(found)
        else:
            process = document["processing"]["data_processes"][row["process_index"]]
            names = ("start_date_time", "end_date_time")
            assert found == tuple(process[name] is not None for name in names)
    assert of_prototypes == {(False, False), (False, True)}


def test_a_process_takes_the_time_between_its_beginning_and_its_end(main):
    timed = main[1]["analyses"].drop_nulls(["started_at", "finished_at"])
    took = [(one["finished_at"] - one["started_at"]).total_seconds() for one in timed.to_dicts()]
    assert timed["duration_seconds"].to_list() == pytest.approx(took, abs=1e-6)
    assert len(set(took)) > 1


def test_the_same_session_has_one_key_in_both_formats(main):
    _, rows = main
    spelt = (
        rows["analyses"]
        .drop_nulls("session_key")
        .group_by("session_key")
        .agg(pl.col("pipeline_format").n_unique().alias("formats"), pl.col("nwb_name").unique())
    )
    both = spelt.filter(pl.col("formats") == 2)
    assert not both.is_empty()
    assert all(len(names) > 1 for names in both["nwb_name"].to_list())
    for row in rows["analyses"].drop_nulls(["session_key", "session_date"]).to_dicts():
        assert row["session_key"].startswith(f"{row['subject_id']}_{row['session_date']}")


def test_a_result_folder_in_s3_has_an_https_address(main):
    analyses = main[1]["analyses"]
    expected = analyses["result_location"].str.replace(
        "s3://([^/]+)/", "https://$1.s3.amazonaws.com/"
    )
    assert analyses["result_url"].to_list() == expected.to_list()
    assert 0 < expected.null_count() < analyses.height


# --- fits -----------------------------------------------------------------------------------


def with_fit(main, key="params"):
    """Return a copy of a document with a fit that has ``key``."""
    documents, _ = main
    return copy.deepcopy(next(one for one in documents.values() if (fit_of(one) or {}).get(key)))


def fitted_rows(main):
    """Yield each analysis that has a fit, with the fit of the document."""
    documents, rows = main
    for row in rows["analyses"].to_dicts():
        fit = fit_of(documents[row["record_id"]], row["process_index"])
        if fit:
            yield row, fit


def test_statistics_over_folds_have_n_in_the_denominator(main):
    with_likelihoods = set()
    for row, fit in fitted_rows(main):
        folds = fit.get("cross_validation")
        assert row["cv_folds"] == (len(folds["prediction_accuracy_test"]) if folds else None)
        for key in FOLD_MEASURES:
            mean, std = row[f"{key.lower()}_mean"], row[f"{key.lower()}_std"]
            if not folds or key not in folds:
                assert mean is std is None
                continue
            with_likelihoods.add("LPT_test" in folds)
            assert mean == pytest.approx(np.mean(folds[key]), rel=1e-12)
            assert std == pytest.approx(np.std(folds[key], ddof=0), rel=1e-9, abs=1e-15)
    assert with_likelihoods == {True, False}


def test_fits_have_a_row_per_fold_and_per_fitted_or_clamped_parameter(main):
    _, rows = main
    found = {
        (row["record_id"], row["process_index"], row["parameter"]): row
        for row in rows["fit_parameters"].to_dicts()
    }
    n_folds = n_parameters = n_clamped = 0
    for row, fit in fitted_rows(main):
        n_folds += row["cv_folds"] or 0
        n_parameters += len(fit["params"])
        for name, value in fit["params"].items():
            held = found[row["record_id"], row["process_index"], name]
            assert held["is_fitted"] is (name in fit["fit_settings"]["fit_names"])
            if held["is_fitted"]:
                assert held["at_bound"] is not None
            else:
                n_clamped += 1
                assert fit["fit_settings"]["clamp_params"][name] == value
                assert held["lower_bound"] is held["upper_bound"] is held["at_bound"] is None
    assert len(found) == n_parameters > n_clamped > 0
    assert rows["cross_validation"].height == n_folds > 0


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, True),
        (0.9e-6, True),
        (2e-6, False),
        (0.5, False),
        (1 - 2e-6, False),
        (1 - 0.9e-6, True),
        (1.0, True),
        # Beyond a bound is not at it: such a value is an error somewhere else.
        (-0.1, False),
        (1.1, False),
    ],
)
def test_a_value_is_at_a_bound_within_a_millionth_of_the_range(main, share, expected):
    document = with_fit(main)
    fit = fit_of(document)
    name, low, high = (
        fit["fit_settings"][key][0] for key in ("fit_names", "lower_bounds", "upper_bounds")
    )
    fit["params"][name] = low + share * (high - low)
    rows = flatten([document])["fit_parameters"]
    assert rows.row(by_predicate=pl.col("parameter") == name, named=True)["at_bound"] is expected


def test_a_skipped_record_has_the_alias_of_fits_with_the_same_specification(main):
    documents, rows = main
    fitted, derived = {}, {}
    for row in rows["analyses"].to_dicts():
        document = documents[row["record_id"]]
        if format_of(document) == "prototype":
            specification = document["analysis_spec"]["analysis_args"]
        else:
            process = document["processing"]["data_processes"][row["process_index"]]
            specification = process["code"]["parameters"]
        assert row["agent_class"] == specification.get("agent_class")
        if row["agent_class"]:
            key = (row["agent_class"], json.dumps(specification["agent_kwargs"], sort_keys=True))
            (fitted if row["n_trials"] else derived).setdefault(key, set()).add(row["agent_alias"])
    common = fitted.keys() & derived.keys()
    assert common
    for key in common:
        assert derived[key] == fitted[key]
        assert len(fitted[key]) == 1
    assert all(None not in aliases for aliases in derived.values())


def test_an_alias_in_the_fit_takes_precedence_over_the_derived_one(main):
    document = with_fit(main)
    fit_of(document)["fit_settings"]["agent_alias"] = "An_Agent_Of_Another_Branch"
    rows = flatten([document])["analyses"]
    assert rows["agent_alias"].to_list() == ["An_Agent_Of_Another_Branch"]


def test_nan_becomes_null(main):
    document = with_fit(main, "cross_validation")
    fit = fit_of(document)
    name = fit["fit_settings"]["fit_names"][0]
    fit["AIC"] = fit["params"][name] = float("nan")
    fit["cross_validation"]["prediction_accuracy_test"][0] = float("nan")
    held = flatten([document])
    assert held["analyses"]["aic"].to_list() == [None]
    parameter = held["fit_parameters"].row(by_predicate=pl.col("parameter") == name, named=True)
    assert parameter["value"] is None
    assert parameter["at_bound"] is None
    fold = held["cross_validation"].row(by_predicate=pl.col("fold") == 0, named=True)
    assert fold["prediction_accuracy_test"] is None
    rest = fit["cross_validation"]["prediction_accuracy_test"][1:]
    assert held["analyses"]["prediction_accuracy_test_mean"].item() == pytest.approx(np.mean(rest))


def test_integers_beyond_the_precision_of_floats_keep_their_digits_as_text(main):
    document = with_fit(main)
    fit = fit_of(document)
    name = fit["fit_settings"]["fit_names"][0]
    fit["AIC"] = fit["params"][name] = fit["fit_settings"]["upper_bounds"][0] = 2**62 + 1
    document |= {"large": 2**53 + 1, "huge": 2**70 + 1, "exact": 2**53, "float": 2.0**70}
    held = flatten([document])
    parameter = held["fit_parameters"].row(by_predicate=pl.col("parameter") == name, named=True)
    assert held["analyses"]["aic"].item() == 2.0**62
    assert parameter["value"] == parameter["upper_bound"] == 2.0**62
    kept = held["attributes"].select("path", "value_number", "value_text").rows()
    assert {row for row in kept if row[0] in document} >= {
        ("large", 2.0**53, str(2**53 + 1)),
        ("huge", 2.0**70, str(2**70 + 1)),
        ("exact", 2.0**53, None),
        ("float", 2.0**70, None),
    }


def test_every_parameter_named_anywhere_in_a_fit_has_a_row(main):
    document = with_fit(main)
    fit = fit_of(document)
    name = fit["fit_settings"]["fit_names"][0]
    del fit["params"][name]
    fit["params_without_polishing"]["only before polishing"] = 0.25
    rows = flatten([document])["fit_parameters"]
    found = {row["parameter"]: row for row in rows.to_dicts()}
    assert found[name]["value"] is None
    assert found[name]["upper_bound"] == fit["fit_settings"]["upper_bounds"][0]
    assert found["only before polishing"]["value_without_polishing"] == 0.25
    assert list(lost_of(document, flatten([document]))) == []


# --- values that do not fit -----------------------------------------------------------------


def assert_all_is_there(document, flattened):
    """Fail where a value of a document is neither in its place nor rejected by name."""
    assert list(lost_of(document, flattened)) == []
    record_id = canonical(document).record_id
    rows = Rows(flattened, record_id)
    read = normalised(document)
    values = {written(way): value_at(read, way) for way in (*ways_of(document), *ways_of(read))}
    for row in rows.rejected:
        assert row["value"] == canonical_json(values[row["path"]])[:1000]
    counted = [row["process_index"] for row in rows.rejected]
    for index, row in rows.analyses.items():
        assert row["n_rejected_values"] == counted.count(index)
    assert set(counted) <= set(rows.analyses)


@pytest.fixture(scope="session")
def sound(fits):
    """Return the rows of the prototype document with a fit."""
    return flatten([fits["prototype"]])


both_formats = pytest.mark.parametrize("pipeline_format", ["prototype", "framework"])


def rejected_of(flattened):
    """Return path, reason and value of the rejected values."""
    return set(flattened["rejected_values"].select("path", "reason", "value").rows())


@pytest.mark.parametrize(
    ("way", "value", "column", "held"),
    [
        (("subject_id",), 744040, "subject_id", "744040"),
        (("subject_id",), 744040.0, "subject_id", "744040"),
        (("status",), True, "status", "true"),
        (("analysis_time_spent_in_sec",), "0.5", "duration_seconds", 0.5),
        (("analysis_time_spent_in_sec",), "-1e3", "duration_seconds", -1000.0),
        (("analysis_results", "n_trials"), "390", "n_trials", 390),
        (("analysis_results", "n_trials"), 390.0, "n_trials", 390),
        (("analysis_results", "AIC"), {"$numberLong": "7"}, "aic", 7.0),
        (("analysis_results", "AIC"), {"$numberDecimal": "7.5"}, "aic", 7.5),
        (("session_date",), {"$date": "2024-10-24T00:00:00Z"}, "session_date", date(2024, 10, 24)),
    ],
)
def test_a_value_that_converts_without_loss_is_converted(fits, way, value, column, held):
    document = copy.deepcopy(fits["prototype"])
    put(document, way, value)
    one = flatten([document])
    assert one["analyses"][column].to_list() == [held]
    assert one["analyses"]["n_rejected_values"].to_list() == [0]
    assert one["rejected_values"].is_empty()
    assert one["rejected_documents"].is_empty()


@pytest.mark.parametrize(
    ("way", "value", "column", "reason"),
    [
        (("subject_id",), 0.5, "subject_id", "wrong_type"),
        (("subject_id",), 1e300, "subject_id", "wrong_type"),
        (("subject_id",), ["744040"], "subject_id", "wrong_type"),
        (("analysis_time_spent_in_sec",), "1 s", "duration_seconds", "wrong_type"),
        (("analysis_time_spent_in_sec",), " 1", "duration_seconds", "wrong_type"),
        (("analysis_time_spent_in_sec",), "01", "duration_seconds", "wrong_type"),
        (("analysis_time_spent_in_sec",), "1e999", "duration_seconds", "wrong_type"),
        (("analysis_time_spent_in_sec",), "NaN", "duration_seconds", "wrong_type"),
        (("analysis_time_spent_in_sec",), True, "duration_seconds", "wrong_type"),
        (("analysis_results", "n_trials"), 390.5, "n_trials", "wrong_value"),
        (("analysis_results", "n_trials"), 1e12, "n_trials", "wrong_value"),
        (("analysis_results", "n_trials"), float("nan"), "n_trials", "wrong_value"),
        (("analysis_results", "success"), 1, "fit_converged", "wrong_type"),
        (("session_date",), 20241024, "session_date", "wrong_type"),
        (("session_date",), "24.10.2024", "session_date", "wrong_value"),
        (("session_date",), "2024-02-30", "session_date", "wrong_value"),
        (("session_date",), "0000-01-01", "session_date", "wrong_value"),
        (("session_date",), "", "session_date", "wrong_value"),
        (("analysis_datetime",), "last night", "finished_at", "wrong_value"),
        (("analysis_datetime",), "2025-02-30T12:00:00", "finished_at", "wrong_value"),
        (("analysis_datetime",), "9999-12-31T23:59:59-14:00", "finished_at", "wrong_value"),
        (("analysis_datetime",), "0001-01-01T00:00:00+14:00", "finished_at", "wrong_value"),
    ],
)
def test_a_wrong_value_is_null_and_the_rest_of_its_document_is_loaded(  # noqa: PLR0913, PLR0917
    fits, sound, way, value, column, reason
):
    document = copy.deepcopy(fits["prototype"])
    put(document, way, value)
    one = flatten([document])
    place = ".".join(way)
    assert rejected_of(one) == {(place, reason, canonical_json(value))}
    assert one["analyses"][column].to_list() == [None]
    assert one["analyses"]["n_rejected_values"].to_list() == [1]
    assert one["rejected_documents"].is_empty()
    assert_all_is_there(document, one)
    # What follows from the value is NULL with it.
    changing = {"content_hash", "n_rejected_values", column, "outcome", "session_month"}
    for table in ANALYSIS_TABLES:
        there = [name for name in sound[table.name].columns if name not in changing]
        key = [name for name in table.key if name in there]
        now, before = (part[table.name].select(there).sort(key) for part in (one, sound))
        assert now.equals(before), table


def test_a_rejected_value_says_what_was_expected(fits):
    document = copy.deepcopy(fits["prototype"])
    document |= {"session_date": "soon", "analysis_datetime": "soon", "nwb_name": {}}
    document["analysis_results"] |= {"n_trials": -(2**40), "AIC": "low", "success": 0}
    document["analysis_results"]["params"] = "x" * 5000
    rows = flatten([document])["rejected_values"]
    expected = dict(rows.select("path", "expected").rows())
    assert expected == {
        "session_date": "a date as YYYY-MM-DD",
        "analysis_datetime": "a time in ISO 8601, such as 2025-01-31T12:00:00Z",
        "nwb_name": "a text",
        "analysis_results.n_trials": "an integer between -2147483648 and 2147483647",
        "analysis_results.AIC": "a number",
        "analysis_results.success": "true or false",
        "analysis_results.params": "an object",
    }
    assert rows["value"].str.len_chars().max() == 1000
    assert rows["value"].to_list().count("{}") == 1
    assert rows.schema == polars_schema(tables.REJECTED_VALUES)
    assert rows["source_collection"].unique().to_list() == [MAIN]
    assert rows["content_hash"].n_unique() == 1
    assert set(rows["extracted_at"]) == {NOON + timedelta(days=1)}


@pytest.mark.slow
@both_formats
def test_lists_of_different_lengths_are_rejected_as_a_group(fits, pipeline_format):
    document = copy.deepcopy(fits[pipeline_format])
    folds = fit_of(document)["cross_validation"]
    folds["prediction_accuracy_fit"].append(0.5)
    one = flatten([document])
    place = FIT_AT[pipeline_format]
    assert rejected_of(one) == {
        (f"{place}.cross_validation.{name}", "lengths_differ", canonical_json(values))
        for name, values in folds.items()
    }
    assert "prediction_accuracy_fit has 11" in one["rejected_values"]["expected"][0]
    assert one["cross_validation"].is_empty()
    assert one["analyses"]["prediction_accuracy_fit_mean"].to_list()[:1] == [None]
    assert not one["fit_parameters"].is_empty()
    assert_all_is_there(document, one)


@both_formats
def test_lists_too_long_for_their_positions_are_rejected(fits, pipeline_format):
    document = copy.deepcopy(fits[pipeline_format])
    folds = fit_of(document)["cross_validation"]
    folds.update({key: [0.5] * 40_000 for key in folds})
    rows = flatten([document])["rejected_values"]
    assert set(rows["reason"]) == {"wrong_value"}
    assert set(rows["expected"]) == {"at most 32,767 entries"}
    assert rows.height == len(folds)


@pytest.mark.slow
@both_formats
def test_bounds_without_names_are_rejected(fits, pipeline_format):
    document = copy.deepcopy(fits[pipeline_format])
    settings = fit_of(document)["fit_settings"]
    del settings["fit_names"]
    one = flatten([document])
    place = f"{FIT_AT[pipeline_format]}.fit_settings"
    assert rejected_of(one) == {
        (f"{place}.{name}", "unnamed_bounds", canonical_json(settings[name]))
        for name in ("lower_bounds", "upper_bounds")
    }
    first = one["fit_parameters"].filter(process_index=0)
    assert first["lower_bound"].null_count() == first.height > 2
    assert first["is_fitted"].null_count() == first.height
    assert_all_is_there(document, one)


@pytest.mark.slow
@both_formats
@pytest.mark.parametrize("kind", ["null", "odd", "repeated"])
def test_only_bounds_with_a_missing_odd_or_repeated_name_are_rejected(fits, pipeline_format, kind):
    document = copy.deepcopy(fits[pipeline_format])
    settings = fit_of(document)["fit_settings"]
    names = settings["fit_names"]
    names[0] = {"null": None, "odd": [1], "repeated": names[1]}[kind]
    unnamed = [0, 1] if kind == "repeated" else [0]
    one = flatten([document])
    place = f"{FIT_AT[pipeline_format]}.fit_settings"
    expected = {
        (f"{place}.{key}[{index}]", "unnamed_bounds", canonical_json(settings[key][index]))
        for key in ("lower_bounds", "upper_bounds")
        for index in unnamed
    }
    if kind == "odd":
        expected.add((f"{place}.fit_names[0]", "wrong_type", "[1]"))
    assert rejected_of(one) == expected
    bounds = one["fit_parameters"].filter(process_index=0, parameter=names[-1])
    assert bounds["lower_bound"].to_list() == [settings["lower_bounds"][-1]]
    assert_all_is_there(document, one)


def test_wrong_values_of_one_process_do_not_affect_the_others(main):
    document = copy.deepcopy(
        next(
            one
            for one in main[0].values()
            if format_of(one) == "framework" and len(one["processing"]["data_processes"]) > 1
        )
    )
    processes = document["processing"]["data_processes"]
    document["name"] = processes[1]["end_date_time"] = []
    processes[1]["name"] = 3
    processes[1]["code"]["url"] = 0.5
    processes.append("no object")
    one = flatten([document])
    place = "processing.data_processes"
    values = one["rejected_values"].select("process_index", "path", "value").rows()
    assert sorted(values) == [
        (0, "name", "[]"),
        (0, f"{place}[{len(processes) - 1}]", '"no object"'),
        (1, f"{place}[1].code.url", "0.5"),
        (1, f"{place}[1].end_date_time", "[]"),
    ]
    analyses = one["analyses"].sort("process_index")
    assert analyses["n_rejected_values"].to_list()[:2] == [2, 2]
    assert analyses["process_name"][1] == "3"
    assert analyses["record_name"].null_count() == analyses.height == len(processes) - 1
    assert_all_is_there(document, one)


ODD = (
    *(7, -1, 0.5, 744040.0, 1e300, 2**70, True, False, float("nan")),
    *("", "odd", "0.5", "1e999", "2024-02-30", "0001-01-01T00:00:00+14:00"),
    *([], [1], ["a", None], {}, {"a": 1}),
)


@pytest.mark.slow
def test_few_documents_with_one_odd_value_are_rejected_and_no_other_value_is_lost(one_of_each):
    random = Random(20)
    changed = []
    for number in range(1500):
        document = copy.deepcopy(random.choice(one_of_each))
        way = random.choice([way for way in ways_of(document) if way != ("_id",)])
        put(document, way, random.choice(ODD))
        changed.append(document | {"_id": f"{number}"})
    batch = flatten(changed)
    assert batch["rejected_documents"].height <= 0.04 * len(changed)
    assert set(batch["rejected_documents"]["reason"]) <= {"no_process", "unknown_format"}
    lost = set(batch["rejected_documents"]["record_id"])
    parts = {name: rows.partition_by("record_id", as_dict=True) for name, rows in batch.items()}
    for document in changed:
        if document["_id"] not in lost:
            own = {
                name: part.get((document["_id"],), batch[name].clear())
                for name, part in parts.items()
            }
            assert_all_is_there(document, own)


# --- arbitrary documents --------------------------------------------------------------------


@pytest.fixture(scope="session")
def one_of_each(documents):
    """Return documents that differ in the keys they have, none of them bulky."""
    found = {}
    for values in documents.values():
        for document in values:
            shape = tuple(
                sorted({tuple(s for s in way if isinstance(s, str)) for way in ways_of(document)})
            )
            if len(json.dumps(document)) < 20_000:
                found.setdefault(shape, document)
    return list(found.values())


@pytest.mark.slow
@settings(max_examples=60)
@given(mutations())
def test_a_changed_document_loses_no_value_and_does_not_affect_others(one_of_each, mutation):
    number, changes = mutation
    position = number % len(one_of_each)
    changed = mutate(one_of_each[position], changes)
    others = [one for one in one_of_each[:6] if one["_id"] != changed["_id"]]
    batch = flatten([*others[:2], changed, *others[2:]])
    done = set(batch["analyses"]["record_id"])
    refused_ids = batch["rejected_documents"]["record_id"].to_list()
    assert sorted([*done, *refused_ids]) == sorted(
        [changed["_id"], *(one["_id"] for one in others)]
    )
    assert set(refused_ids) <= {changed["_id"]}
    alone = flatten(others)
    for table in ANALYSIS_TABLES:
        rest = batch[table.name].filter(pl.col("record_id") != changed["_id"])
        assert rest.sort(table.key).equals(alone[table.name].sort(table.key))
        assert batch[table.name].select(table.key).is_duplicated().sum() == 0
    if changed["_id"] in done:
        assert_all_is_there(changed, batch)


@pytest.mark.slow
@pytest.mark.parametrize("values", [ANYTHING, st.binary(max_size=40)], ids=["JSON", "bytes"])
@given(data=st.data())
def test_anything_is_flattened_or_rejected_once(values, data):
    one = flatten([data.draw(values)])
    assert one["analyses"]["record_id"].n_unique() + one["rejected_documents"].height == 1


def test_the_order_of_documents_and_the_size_of_batches_do_not_matter(documents, flattened):
    values = documents[MAIN]
    halves = [flatten(values[::-2]), flatten(values[-2::-2])]
    for table in ANALYSIS_TABLES:
        joined = pl.concat([half[table.name] for half in halves]).sort(table.key)
        assert joined.equals(flattened[MAIN][table.name].sort(table.key))


def test_a_document_has_the_same_row_alone_as_among_others(main):
    documents, rows = main
    alone = [one for one in documents.values() if format_of(one) == "framework"][:40]
    for document in alone:
        found = flatten([document])["analyses"].sort("process_index")
        among = rows["analyses"].filter(record_id=document["_id"]).sort("process_index")
        assert found.equals(among)


def test_the_version_of_the_flattener_changes_with_its_code(tmp_path, monkeypatch):
    monkeypatch.setattr(version, "__file__", str(tmp_path / "version.py"))
    found = set()
    for name in ("tables.py", "batch/reader.py", "refresh.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("code")
        found.add(flattener_version.__wrapped__())
    assert len(found) == 2, "refresh.py does not determine rows"
