"""Documents are found and projected as by a MongoDB server, and errors are explained."""

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import date
from functools import reduce
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pytest
from bson import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st
from mongod import mongod_or_skip
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import OperationFailure
from worlds import MAIN, JsonDocument, load, read_dump, write_dump

from aind_etl import Warehouse
from aind_etl.client.documents import find_documents, matching_records
from aind_etl.client.projection import parse_projection
from aind_etl.errors import ArgumentError
from aind_etl.lake import Lake
from aind_etl.warehouse.build import build_warehouse
from aind_etl.warehouse.connection import connect

PROCESS = "processing.data_processes"
OUTPUTS = f"{PROCESS}.output_parameters"
FIT = f"{OUTPUTS}.fitting_results"

EXAMPLES = int(os.environ.get("AIND_ETL_TEST_FILTERS", "40"))
"""How many filters are compared with a server's; ``make test-all`` asks for more."""

ESCAPED = '"\\/\b\f\t\x00\x1f\x7f\u2028😀'
"""Characters that writers of JSON may write in several ways."""

ODDITIES: list[JsonDocument] = [
    {"words": ["b", "é", None, "B\nb", ESCAPED], "share": 1, "empty": [], "nothing": None},
    {"words": "b", "share": float("nan"), "deep": [{"a": 1, "b": [{"c": 2}]}, {"a": None}, 7]},
    {"words": [], "share": True, "deep": {"a": [[1]], "b": {}}, "nested": [[1, 2], [3]]},
    {"words": ["c", ["b"]], "share": [0.5, float("inf")], "deep": [[{"a": 1}]], "empty": {}},
    {"words": "", "share": "1", "deep": [{"0": {"a": 3}}], "dotted.key": 5, "big": 2**53 + 1},
    {"share": 2**53, "deep": 5, "session_date": "2024-10-24T08:00:00", "big": 2**53},
    {"share": -0.0, "session_date": "2024-10-24", "words": {"b": "words"}},
]
"""Fields that other documents lack, or have of another type; each is added to a document."""

# The same, for fields of a process.
ODD_PROCESSES: list[list[JsonDocument]] = [
    [{"marks": [3, 5], "place": "left"}, {"marks": [9], "place": "right"}],
    [{"marks": 4, "label": "first"}, {"label": None}],
    [{"label": ["first", "x"]}],
]


def with_oddities(documents: list[JsonDocument]) -> list[JsonDocument]:
    """Return documents, and some more that are hard to ask for."""
    flat = next(one for one in documents if one.get("analysis_results"))
    nested = next(one for one in documents if "processing" in one)
    added = []
    for number, fields in enumerate(ODDITIES):
        added.append({**flat, **fields, "_id": f"odd prototype {number}"})
        inner = {key: value for key, value in fields.items() if key != "session_date"}
        added.append({**nested, **inner, "_id": f"odd framework {number}"})
    for number, processes in enumerate(ODD_PROCESSES):
        first = nested["processing"]["data_processes"][0]
        processing = {"data_processes": [{**first, **fields} for fields in processes]}
        added.append({**nested, "processing": processing, "_id": f"odd processes {number}"})
    return documents + added


@pytest.fixture(scope="module")
def documents(sample_dump: Path) -> list[JsonDocument]:
    """Return a third of the sample's documents of model fitting, and odd ones."""
    return with_oddities(read_dump(sample_dump)[::3])


@pytest.fixture(scope="module")
def collection(
    documents: list[JsonDocument], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Collection[JsonDocument]]:
    """Give the documents in a MongoDB server."""
    with (
        mongod_or_skip(tmp_path_factory.mktemp("filter-mongod")) as port,
        MongoClient[JsonDocument]("127.0.0.1", port) as client,
    ):
        client["analysis"][MAIN].insert_many(documents)
        yield client["analysis"][MAIN]


MISFITS: list[JsonDocument] = [
    {"_id": "a", "subject_id": 744040, "status": "success", "analysis_results": {}},
    {"_id": "b", "subject_id": "1", "status": {"odd": 1}, "analysis_results": {}},
]
MIXED: list[JsonDocument] = [
    {"_id": "a", "analysis_spec": {"analysis_name": "MLE fitting"}, "status": "success"},
    {"_id": "b", "another": {"kind": [1, {"of": "document"}]}},
    {"_id": {"$oid": "65f000000000000000000000"}, "when": {"$date": "2026-01-01T00:00:00Z"}},
]


@pytest.fixture(scope="module")
def warehouse_file(documents: list[JsonDocument], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a warehouse of the documents, and of small collections with one oddity each."""
    folder = tmp_path_factory.mktemp("filters")
    dump = folder / "dump"
    # Written by Python's json, which writes NaN.
    dump.mkdir()
    lines = (json.dumps(one) + "\n" for one in documents)
    (dump / f"{MAIN}.jsonl").write_text("".join(lines))
    fit = {"analysis_spec": {"analysis_name": "MLE fitting"}}
    write_dump(dump, [fit | one for one in MISFITS], "misfits")
    mixed = write_dump(dump, [*MIXED, {"_id": "deleted", "another": 1}], "mixed")
    with mixed.open("a") as file:
        file.write("no document\n")
    lake = Lake(folder / "lake")
    load(dump, lake)
    write_dump(dump, MIXED, "mixed")
    load(dump, lake)
    build_warehouse(lake, folder / "warehouse.duckdb")
    return folder / "warehouse.duckdb"


@pytest.fixture(scope="module")
def warehouse(
    warehouse_file: Path, documents: list[JsonDocument]
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give the warehouse, opened; every document is flattened in it."""
    with connect(warehouse_file) as connection:
        flattened = connection.execute(
            "SELECT count(DISTINCT record_id) FROM analyses WHERE source_collection = ?", [MAIN]
        ).fetchall()
        assert flattened == [(len(documents),)]
        yield connection


def places_of(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every dotted path below a value, with and without positions in lists."""
    if path:
        yield path, value
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if "." not in key:
                yield from places_of(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, inner in enumerate(value[:2]):
            yield from places_of(inner, path)
            yield from places_of(inner, f"{path}.{index}")


SIGNS = ["$gt", "$gte", "$lt", "$lte"]
ODD_VALUES = ["", "success", "é", "zzz", 0, 1, -1.5, 2**53, 2**53 + 1, math.nan, math.inf]
ODD_VALUES += [True, None, "2025", "2024-10-24", "2025-06-01", "2025-06-01T12:00:00", "9999-12-31"]
PATTERNS = ["^7", "b$", "^b", "(?i)FORAGING", "Q.*softmax$", r"\d{6}_2025", "^$", "(?=s)", r"\w+é"]


class Paths:
    """The paths of documents, with their values.

    Paths without a scalar at or below them are left out: a warehouse lacks them.
    """

    def __init__(self, documents: list[JsonDocument]) -> None:
        found: dict[str, dict[str, Any]] = defaultdict(dict)
        known: set[str] = set()
        for document in documents:
            for path, value in places_of(document):
                if isinstance(value, str | int | float | None):
                    found[path].setdefault(repr(value), value)
                if isinstance(value, str | int | float):
                    steps = path.split(".")
                    known.update(".".join(steps[:n]) for n in range(1, len(steps) + 1))
        self.values = {path: [*found[path].values()][:200] for path in sorted(known)}
        self.all = list(self.values)
        self.of_processes = [
            path
            for path in self.all
            if path.startswith(f"{PROCESS}.") and not path.split(".")[2].isdecimal()
        ]


class Filters:
    """Makes random filters, most of which match some records and not others."""

    def __init__(self, paths: Paths, random: Random) -> None:
        self._paths = paths
        self._random = random

    def make(self, depth: int = 2) -> dict[str, Any]:
        """Return a filter."""
        kind = self._random.random()
        if depth and kind < 0.35:
            inner = [self.make(depth - 1) for _ in range(self._random.randint(1, 3))]
            return {self._random.choice(["$and", "$or", "$nor"]): inner}
        if kind < 0.5:
            return {PROCESS: {"$elemMatch": self._of_process()}}
        path = self._random.choice(self._paths.all)
        return {path: self._tests(path)}

    def _of_process(self) -> dict[str, Any]:
        parts = []
        for _ in range(self._random.randint(1, 3)):
            path = self._random.choice(self._paths.of_processes)
            parts.append({path.removeprefix(f"{PROCESS}."): self._tests(path)})
        together = {key: value for part in parts for key, value in part.items()}
        return self._random.choice([together, {"$or": parts}, {"$nor": parts}])

    def _tests(self, path: str) -> Any:
        kind = self._random.random()
        if kind < 0.2:
            return self._value(path)
        tests = self._simple(path)
        if kind < 0.3:
            return {"$not": tests}
        return {"$elemMatch": tests} if kind < 0.4 else tests

    def _simple(self, path: str) -> dict[str, Any]:
        random = self._random
        operator = random.choice(
            [*SIGNS, "between", "$eq", "$ne", "$in", "$nin", "$exists", "$regex"]
        )
        if operator in SIGNS:
            return {operator: self._ordered(path)}
        if operator == "between":
            return {"$gte": self._ordered(path), "$lt": self._ordered(path)}
        if operator in {"$eq", "$ne"}:
            return {operator: self._value(path)}
        if operator in {"$in", "$nin"}:
            return {operator: [self._value(path) for _ in range(random.randint(0, 3))]}
        if operator == "$exists":
            return {operator: random.random() < 0.5}
        options = random.choice([{}, {"$options": random.choice(["", "i", "m", "s", "im", "x"])}])
        return {"$regex": random.choice(PATTERNS)} | options

    def _value(self, path: str) -> Any:
        own = self._paths.values[path]
        return self._random.choice(own if own and self._random.random() < 0.8 else ODD_VALUES)

    def _ordered(self, path: str) -> Any:
        value = self._value(path)
        return self._ordered(path) if value is None else value


@pytest.fixture(scope="module")
def paths(documents: list[JsonDocument]) -> Paths:
    """Return the paths of the documents."""
    return Paths(documents)


def found_as_by_a_server(collection, warehouse, query) -> set[str]:
    """Return the ids of the records that meet a filter; fail if a server finds others."""
    found = matching_records(warehouse, MAIN, query).to_list()
    assert len(found) == len(set(found))
    assert set(found) == {one["_id"] for one in collection.find(query, {"_id": 1})}, query
    return set(found)


@pytest.mark.parametrize("operator", ["$eq", "$ne", *SIGNS])
@pytest.mark.parametrize("number", [2**53 - 1, 2**53, 2**53 + 1])
def test_integers_equal_as_floats_are_distinguished(collection, warehouse, operator, number):
    found_as_by_a_server(collection, warehouse, {"big": {operator: number}})


@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 2**32))
def test_the_same_records_are_found_as_by_a_server(collection, warehouse, paths, seed):
    found_as_by_a_server(collection, warehouse, Filters(paths, Random(seed)).make())


NESTED: JsonDocument = reduce(lambda inner, _: {"$not": inner}, range(3000), {"$eq": 1})


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"subjct_id": "1"}, "'subjct_id'. Did you mean 'subject_id'"),
        ({f"{FIT}.params.learnrate": 1}, f"Did you mean '{FIT}.params.learn_rate'"),
        ({"analysis_results.n_trial": 1}, "'analysis_results.n_trials'"),
        ({"status": {"$where": "x"}}, "The operator '$where' at 'status'"),
        ({"$where": "x"}, "The operator '$where' at the filter"),
        ({"status": {"$regx": "x"}}, "Did you mean '$regex'"),
        ({"status": {"$or": []}}, "It belongs outside of paths"),
        ({"$in": ["a"]}, "It belongs at a path"),
        ({"$or": []}, "'$or' takes a list of filters"),
        ({"$and": {"status": "success"}}, "'$and' takes a list of filters"),
        ({"status": {"$in": "success"}}, "take a list of values, not 'success'"),
        ({"status": {"$exists": "yes"}}, "takes True or False, not 'yes'"),
        ({"status": {"$not": "success"}}, "'$not' takes operators"),
        ({"status": {"$regex": "("}}, "'(' cannot be read"),
        ({"status": {"$regex": "a", "$options": "q"}}, "not 'q'"),
        ({"status": {"$options": "i"}}, "needs a '$regex'"),
        ({"status": {"$gt": None}}, "'$gt' compares with None"),
        ({"status": ["success"]}, "compares with ['success']"),
        ({"status": "\ud800"}, "half of a surrogate pair"),
        ({"_id": {"$in": ["_id:\udfff"]}}, "half of a surrogate pair"),
        ({"_id": "_id:\ud800"}, "half of a surrogate pair"),
        ({"analysis_results": {"n_trials": 5}}, "such as 'analysis_results.n_trials'"),
        ({"session_date": date(2024, 10, 24)}, "the date '2024-10-24'. Dates in the documents"),
        ({"": 1}, "'' is not a path"),
        ({"a..b": 1}, "'a..b' is not a path"),
        ({PROCESS: {"$elemMatch": 5}}, "'$elemMatch' takes what an entry must meet"),
        ({1: 2}, "the key 1"),
        ([], "A filter is a dictionary"),
        ({"status": NESTED}, "nested more than 100 levels deep"),
    ],
)
def test_a_mistake_in_a_filter_is_explained(warehouse, query, words):
    with pytest.raises(ArgumentError) as caught:
        matching_records(warehouse, MAIN, query)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "query", [{"words": "é"}, {"words": "B\nb"}, {"words": ESCAPED}, {"_id": "odd processes 0"}]
)
def test_a_text_is_found_however_json_writes_it(collection, warehouse, query):
    assert found_as_by_a_server(collection, warehouse, query)


@pytest.mark.parametrize("path", ["_id", "subject_id", "session_date"])
def test_a_filter_may_have_thousands_of_values(collection, warehouse, path):
    values = [document.get(path) for document in collection.find({}, {path: 1})][::2]
    query = {path: {"$in": [*values, *map(str, range(4000))]}}
    assert found_as_by_a_server(collection, warehouse, query)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"subject_id": 744040}, ["a"]),
        ({"subject_id": {"$gt": 5}}, ["a"]),
        ({"status.odd": 1}, ["b"]),
        ({"status": {"$exists": True}}, ["a", "b"]),
        ({"status": {"$in": ["success"]}}, ["a"]),
        ({"status": {"$ne": "success"}}, ["b"]),
    ],
)
def test_a_value_that_does_not_fit_its_column_is_found_by_the_document(warehouse, query, expected):
    assert sorted(matching_records(warehouse, "misfits", query)) == expected


def test_conditions_may_be_met_by_different_processes_of_a_document(collection, warehouse):
    query = {"$and": [{f"{PROCESS}.place": "left"}, {f"{PROCESS}.place": "right"}]}
    assert found_as_by_a_server(collection, warehouse, query) == {"odd processes 0"}


def test_regular_expressions_of_python_are_understood(warehouse):
    compiled = matching_records(
        warehouse, MAIN, {"nwb_name": re.compile("^BEHAVIOR", re.IGNORECASE)}
    )
    written = {"nwb_name": {"$regex": "^BEHAVIOR", "$options": "i"}}
    assert compiled.len() > 0
    assert set(compiled) == set(matching_records(warehouse, MAIN, written))
    others = matching_records(warehouse, MAIN, {"nwb_name": {"$not": re.compile("(?i)^BEHAVIOR")}})
    assert not set(others) & set(compiled)


# --- whole documents ------------------------------------------------------------------------


def as_text(documents: list[JsonDocument]) -> list[str]:
    """Return documents in a form in which NaN is equal to itself."""
    return [json.dumps(one, sort_keys=True, default=str) for one in documents]


def test_whole_documents_equal_those_of_a_server(collection, warehouse):
    expected = list(collection.find().sort("_id"))
    found = find_documents(warehouse, MAIN, None, None, None)
    assert as_text(found) == as_text(expected)
    assert as_text(find_documents(warehouse, MAIN, {}, {}, 3)) == as_text(expected[:3])


def make_projection(paths: Paths, random: Random) -> dict[str, Any]:
    """Return a projection, sometimes one that a server refuses."""
    known = [path for path in paths.all if not any(step.isdecimal() for step in path.split("."))]
    chosen = [random.choice([*known, "nowhere", "deep.a", "words.b"]) for _ in range(3)]
    kind = random.random()
    flag = random.choice([1, True]) if kind < 0.6 else 0
    projection: dict[str, Any] = dict.fromkeys(chosen[: random.randint(0, 3)], flag)
    if random.random() < 0.1:
        projection[chosen[0]] = 1 - flag
    if kind < 0.4:
        for number in range(random.randint(1, 2)):
            projection[f"new_{number}"] = f"${random.choice(known)}"
    if random.random() < 0.4:
        projection["_id"] = random.randint(0, 1)
    return projection


@settings(max_examples=EXAMPLES // 2)
@given(seed=st.integers(0, 2**32))
def test_documents_are_filtered_and_projected_as_by_a_server(collection, warehouse, paths, seed):
    random = Random(seed)
    projection = make_projection(paths, random)
    query = Filters(paths, random).make() if random.random() < 0.5 else None
    try:
        expected = list(collection.find(query, projection).sort("_id"))
    except OperationFailure:
        with pytest.raises(ArgumentError):
            parse_projection(projection)
        return
    found = find_documents(warehouse, MAIN, query, projection, None)
    assert as_text(found) == as_text(expected), (query, projection)


@pytest.mark.parametrize(
    ("projection", "words"),
    [
        ({"a": 1, "b": 0}, "both includes and excludes"),
        ({"a": {"$slice": 1}}, "Operators are not supported"),
        ({"a": "b"}, "expected 1, 0 or a path such as '$name'"),
        ({"a": "$$ROOT"}, "expected 1, 0 or a path"),
        ({"a.b": "$c"}, "expected a plain name"),
        ({"a": 1, "a.b": 1}, "a path above or below it"),
        ({"a..b": 1}, "expected a dotted path"),
        ({"": 1}, "expected a dotted path"),
        ({"a": None}, "expected 1, 0 or a path"),
        (["a"], "expected a dictionary"),
    ],
)
def test_a_mistake_in_a_projection_is_explained(projection, words):
    with pytest.raises(ArgumentError) as caught:
        parse_projection(projection)
    assert words in str(caught.value)


def test_documents_of_neither_format_are_returned_and_deleted_ones_are_not(warehouse_file):
    warehouse = Warehouse(warehouse_file)
    assert warehouse.documents("mixed", projection={"_id": 1}) == [
        {"_id": ObjectId("65f000000000000000000000")},
        {"_id": "a"},
        {"_id": "b"},
    ]
    assert warehouse.documents("mixed", {"another.kind.of": "document"}) == MIXED[1:2]
    with pytest.raises(ArgumentError, match=f"Did you mean '{MAIN}'"):
        warehouse.documents(MAIN[:-1])
    with pytest.raises(ArgumentError, match="limit is -1"):
        warehouse.documents(MAIN, limit=-1)
