"""Documents that are parsed by columns give the rows that the document reader gives."""

import copy
import math

import polars as pl
import pytest
from flattening import frame_of
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mutations import put, value_at, ways_of
from worlds import MAIN

from aind_etl.flatten import flatten_documents, tables
from aind_etl.flatten.batch import BatchReader, reader

# Documents are large: shrinking a failing one takes minutes.
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)


def flatten(frame, *, learning_from):
    """Flatten with shapes learned from that many documents; return the tables, sorted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_WORTH_LEARNING", learning_from)
        patch.setattr(tables, "_BATCH_READER", BatchReader())
        made = flatten_documents(MAIN, frame)
    return {name: rows.sort(rows.columns) for name, rows in made.items()}


def assert_the_same(documents):
    """Fail if documents parsed by columns differ from those parsed one by one."""
    frame = frame_of(documents)
    plain = flatten(frame, learning_from=math.inf)
    quick = flatten(frame, learning_from=1)
    for name, rows in plain.items():
        assert quick[name].schema == rows.schema
        assert quick[name].equals(rows), name


def parsed_by_columns(documents):
    """Return how many of the documents are not left to the document reader."""
    frame = frame_of(documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_WORTH_LEARNING", 1)
        return BatchReader().read(frame["document"])[0]["number"].n_unique()


@pytest.fixture(scope="module")
def all_documents(documents):
    return [document for values in documents.values() for document in values]


@pytest.fixture(scope="module")
def kinds(all_documents):
    """Return one document of each kind: format, agent, outcome and all."""
    found = {tuple(sorted(ways_of(document))): document for document in reversed(all_documents)}
    return list(found.values())


numbers = st.integers(-(2**70), 2**70) | st.floats() | st.integers(-3, 40_000)
texts = st.text(max_size=8) | st.sampled_from(
    ["success", "1.5", "null", "true", '","', '":{"', "{", "a\\", "\n", "2026-01-02", "", "[1]"]
)
scalars = numbers | texts | st.booleans() | st.none()
values = (
    scalars
    | st.lists(numbers | st.none(), max_size=4)
    | st.lists(texts | st.none(), max_size=3)
    | st.lists(st.lists(numbers, max_size=2), max_size=3)
    | st.dictionaries(
        st.sampled_from(["a", "b.c", "$date", "$numberDouble", ""]), scalars, max_size=2
    )
)


def test_the_sample_world_is_mostly_parsed_by_columns_and_has_the_same_rows(all_documents):
    assert parsed_by_columns(all_documents) > 0.9 * len(all_documents)
    assert_the_same(all_documents)


@pytest.mark.slow
@settings(max_examples=40, phases=UNSHRUNK, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_documents_with_any_value_anywhere_have_the_same_rows(kinds, data):
    """The shape is learned from the first document; the others differ from it by values."""
    original = kinds[data.draw(st.integers(0, len(kinds) - 1))]
    ways = list(ways_of(original))
    batch = [original]
    for number in range(data.draw(st.integers(1, 12))):
        changed = copy.deepcopy(original)
        put(changed, ways[data.draw(st.integers(0, len(ways) - 1))], data.draw(values))
        changed["_id"] = f"{number}"
        batch.append(changed)
    if data.draw(st.booleans()):
        batch = batch[1:]
    assert_the_same(batch)


@settings(max_examples=20, phases=UNSHRUNK, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_documents_with_exchanged_values_have_the_same_rows(kinds, data):
    """Equal values at alternative paths, and other numbers in place of numbers."""
    original = kinds[data.draw(st.integers(0, len(kinds) - 1))]
    leaves = [way for way in ways_of(original) if not isinstance(value_at(original, way), dict)]
    batch = [original]
    for number in range(data.draw(st.integers(1, 8))):
        changed = copy.deepcopy(original)
        for _ in range(3):
            way, other = (leaves[data.draw(st.integers(0, len(leaves) - 1))] for _ in range(2))
            try:
                put(changed, way, value_at(original, other))
            except (TypeError, IndexError, KeyError):
                continue  # An earlier exchange removed the place.
        changed["_id"] = f"{number}"
        batch.append(changed)
    assert_the_same(batch)


def test_what_is_not_a_document_is_rejected_in_the_same_way(kinds):
    odd = [b"{", b"7", b'"text"', b"[]", b"{}", b'{"_id":null}', b'{"a":1}', b'{"_id":"1"}']
    odd += [b'{"_id":"2","nwb_name":[[1,2],[3]]}', b'{"_id":"3","nwb_name":NaN}']
    assert_the_same([*odd, *kinds[:10]])


def test_an_agent_class_that_differs_in_the_specification_is_an_attribute(kinds):
    """Both documents have one shape."""
    document = next(one for one in kinds if one.get("status") == "success")
    other = copy.deepcopy(document) | {"_id": "other"}
    other["analysis_spec"]["analysis_args"]["agent_class"] = "Another"
    rows = flatten(frame_of([document, other]), learning_from=1)["attributes"]
    assert rows.filter(pl.col("value_text") == "Another").height == 1
    assert parsed_by_columns([document, other]) == 2
    assert_the_same([document, other])


@pytest.mark.parametrize("number", [2**53 - 1, 2**53, 2**53 + 1, -(2**53) - 1])
def test_large_integers_keep_their_digits(kinds, number):
    document = copy.deepcopy(kinds[0]) | {"count": 7}
    assert_the_same([document, document | {"_id": "other", "count": number}])


def test_lists_of_attributes_that_differ_in_length_have_the_same_rows(kinds):
    document = kinds[0] | {"list": [1, 2]}
    others = [{"_id": "longer", "list": [1, 2, 3]}, {"_id": "shorter", "list": [1]}]
    assert_the_same([document, *(document | other for other in others)])


def test_documents_with_lists_of_different_lengths_have_one_shape(kinds):
    document = next(
        one for one in kinds if (one.get("analysis_results") or {}).get("cross_validation")
    )
    shorter = copy.deepcopy(document) | {"_id": "shorter"}
    folds = shorter["analysis_results"]["cross_validation"]
    for name in folds:
        folds[name] = folds[name][:2]
    unequal = copy.deepcopy(shorter) | {"_id": "unequal"}
    unequal["analysis_results"]["cross_validation"]["prediction_accuracy_test"] = [0.5]
    assert parsed_by_columns([document, shorter]) == 2
    assert_the_same([document, shorter, unequal])
    rejected = flatten(frame_of([document, shorter, unequal]), learning_from=1)["rejected_values"]
    assert set(rejected["reason"]) == {"lengths_differ"}
    assert set(rejected["record_id"]) == {"unequal"}


LEARNING, COUNTING, THRESHOLD = (
    f"Forager{name}" for name in ("QLearning", "LossCounting", "CompareThreshold")
)


def rates(learning, forgetting=1):
    """Return the keyword arguments of an agent with these rates."""
    names = {"number_of_learning_rate": learning, "number_of_forget_rate": forgetting}
    return names | {"choice_kernel": "none", "action_selection": "softmax"}


def switch(value, kernel="full"):
    return {"choice_kernel": kernel, "win_stay_lose_switch": value}


@pytest.mark.parametrize("learning_from", [1, math.inf], ids=["by columns", "one by one"])
@pytest.mark.parametrize(
    ("agent_class", "options", "alias"),
    [
        # Rates are as Python writes them.
        (LEARNING, rates(2), "QLearning_L2F1_softmax"),
        (LEARNING, rates(2.0), "QLearning_L2.0F1_softmax"),
        (LEARNING, rates(None), "QLearning_LNoneF1_softmax"),
        (LEARNING, rates({}), "QLearning_L{}F1_softmax"),
        (LEARNING, rates(2, [1, 2]), "QLearning_L2F[1, 2]_softmax"),
        (LEARNING, {"choice_kernel": "none", "action_selection": "softmax"}, None),
        (COUNTING, switch(True), "WSLS_CKfull"),
        (COUNTING, switch("True"), "WSLS_CKfull"),
        (COUNTING, switch("False"), "LossCounting_CKfull"),
        (COUNTING, switch("true"), None),
        (COUNTING, switch("maybe"), None),
        (COUNTING, switch(None), None),
        (COUNTING, switch(True, ["full"]), None),
        (THRESHOLD, {"choice_kernel": "one_step"}, "ForagingCompareThreshold_CK1"),
        (THRESHOLD, {"choice_kernel": "two_step"}, None),
        # One more keyword argument, even without a value, is not covered.
        (THRESHOLD, {"choice_kernel": "none", "temperature": 1}, None),
        (THRESHOLD, {"choice_kernel": "none", "temperature": None}, None),
        (THRESHOLD, {"choice_kernel": "none", "temperature": {}}, None),
        (THRESHOLD, {}, None),
        (THRESHOLD, None, None),
        (THRESHOLD, ["choice_kernel"], None),
        ("ForagerOfTheFuture", {"choice_kernel": "none"}, None),
        (None, {"choice_kernel": "none"}, None),
    ],
)
def test_an_alias_is_derived_only_from_keyword_arguments_that_the_rule_covers(
    agent_class, options, alias, learning_from
):
    specification = {"agent_class": agent_class, "agent_kwargs": options}
    process = {"code": {"parameters": specification}}
    documents = [
        {"_id": "1", "analysis_spec": {"analysis_args": specification}},
        {"_id": "2", "processing": {"data_processes": [{}, process, process]}},
    ]
    found = flatten(frame_of(documents), learning_from=learning_from)["analyses"]
    found = found.sort("record_id", "process_index")
    assert found["agent_alias"].to_list() == [alias, None, alias, alias]
