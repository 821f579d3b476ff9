"""The canonical form of a document, whichever way it arrived."""

import json
import math
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import bson
import orjson
import pytest
from bson import json_util
from hypothesis import example, given
from hypothesis import strategies as st
from worlds import MAIN, read_dump

from aind_etl.sources.canonical import (
    UNREADABLE_PREFIX,
    WITHOUT_ID_PREFIX,
    Document,
    document_from_bson,
    document_from_json,
    record_id_of,
    string_id,
)

INT64 = (-(2**63), 2**63 - 1)
# MongoDB reserves keys that begin with a dollar.
KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="$\0"), max_size=8)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers(*INT64) | st.floats(allow_nan=False) | TEXTS
DOCUMENTS = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_size=6,
)


def exported(document: dict[str, Any]) -> dict[str, Document]:
    """Return the canonical form of a document in each format of MongoDB's tools."""

    def extended(options: json_util.JSONOptions) -> bytes:
        return json_util.dumps(document, json_options=options).encode()

    return {
        "mongodump": document_from_bson(bson.encode(document)),
        "mongoexport": document_from_json(extended(json_util.RELAXED_JSON_OPTIONS)),
        "mongoexport --jsonFormat=canonical": document_from_json(
            extended(json_util.CANONICAL_JSON_OPTIONS)
        ),
    }


def parsed(text: str) -> Any:
    """Return the value of canonical JSON, with NaN and infinities as floats."""

    def restore(value: dict[str, Any]) -> Any:
        return float(value["$numberDouble"]) if value.keys() == {"$numberDouble"} else value

    return json.loads(text, object_hook=restore)


def test_every_export_format_gives_the_same_text_and_hash(sample_dump):
    for document in read_dump(sample_dump, MAIN):
        ways = exported(document) | {"as written": document_from_json(orjson.dumps(document))}
        assert len(set(ways.values())) == 1, ways


@pytest.mark.parametrize(
    "value",
    [
        *(*INT64, 0, 2**31, 2**53 + 1, 1.0, -0.0, 5e-324, 1.7976931348623157e308),
        *(math.nan, math.inf, -math.inf, True, None, "", "NaN", [], {}),
        'a string with "quotes", \\ back slashes, \0 and 日本語 🐭',
        [math.nan, [1.5, math.inf], {"deep": [-math.inf]}],
        *(
            bson.ObjectId("65f0c0ffee65f0c0ffee65f0"),
            bson.Int64(5),
            bson.Timestamp(1_700_000_000, 1),
        ),
        *(bson.Decimal128(Decimal("1.10")), bson.Decimal128("NaN"), bson.MinKey(), bson.MaxKey()),
        *(bson.Regex("^a.*", "i"), bson.Code("function () { return 1; }")),
        *(bson.Binary(b"\0\xff", 0), bson.Binary(b"\0\xff", 128)),
        bson.Binary.from_uuid(UUID("00112233-4455-6677-8899-aabbccddeeff")),
        bson.DBRef("collection", bson.ObjectId("65f0c0ffee65f0c0ffee65f0")),
        datetime(2024, 10, 24, 9, 30, tzinfo=UTC),
        datetime(2024, 10, 24, 9, 30, 15, 123000, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=UTC),
        *(datetime(9999, 12, 31, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)),
        *(bson.DatetimeMS(2**62), bson.DatetimeMS(-(2**62))),
    ],
    ids=repr,
)
def test_a_value_of_any_type_has_one_canonical_form(value):
    ways = exported({"_id": "a", "value": value})
    assert len(set(ways.values())) == 1, ways
    (document,) = set(ways.values())
    assert document_from_json(document.text.encode()) == document


@pytest.mark.parametrize("bare", ["NaN", "Infinity", "-Infinity"])
def test_bare_nan_and_infinity_become_extended_json(bare):
    bare_document = document_from_json(f'{{"_id": "a", "x": [1, {bare}]}}'.encode())
    assert bare_document.text == f'{{"_id":"a","x":[1,{{"$numberDouble":"{bare}"}}]}}'
    assert exported({"_id": "a", "x": [1, float(bare)]})["mongodump"] == bare_document


def test_a_number_too_large_for_a_float_is_infinite():
    assert document_from_json(b'{"x":-1e999}').text == '{"x":{"$numberDouble":"-Infinity"}}'


def test_no_digit_of_a_long_integer_is_lost():
    digits = "123456789012345678901234567890"
    document = document_from_json(f'{{"_id": "a", "x": {digits}, "y": -{digits}}}'.encode())
    assert document.text == (
        f'{{"_id":"a","x":{{"$numberDecimal":"{digits}"}},"y":{{"$numberDecimal":"-{digits}"}}}}'
    )
    decimals = {"x": bson.Decimal128(digits), "y": bson.Decimal128(f"-{digits}")}
    assert exported({"_id": "a", **decimals})["mongodump"] == document


@pytest.mark.parametrize("other", [b'{"a":[2.0,1]}', b'{"a":[1,2]}', b'{"a":[2,1],"b":null}'])
def test_documents_that_differ_in_type_order_of_a_list_or_nulls_differ(other):
    assert document_from_json(b'{"a":[2,1]}').content_hash != document_from_json(other).content_hash


def test_order_of_keys_and_white_space_do_not_matter():
    one = document_from_json(b'{"_id":"a","b":{"c":1,"d":[1,2]}}')
    other = document_from_json(b' {\r\n\t"b" : {"d":[1 , 2],\n"c": 1} , "_id":"\\u0061"}\n')
    assert one == other
    assert one.text == '{"_id":"a","b":{"c":1,"d":[1,2]}}'


@given(DOCUMENTS)
@example({"_id": {"0": None, "": None}})
def test_canonical_text_keeps_all_values_and_is_stable(document):
    made = document_from_json(json.dumps(document).encode())
    assert parsed(made.text) == document
    again = document_from_json(made.text.encode())
    assert (again.text, again.content_hash) == (made.text, made.content_hash)
    # Objects as ``_id`` differ by the order of their keys, of which the canonical text has one.
    assert again.record_id == made.record_id or "{" in made.record_id


@given(st.dictionaries(KEYS, st.integers() | st.floats() | st.lists(st.integers() | st.floats())))
@example({"a": [*INT64, INT64[0] - 1, INT64[1] + 1, 2**64 - 1, 2**64]})
def test_numbers_of_any_size_keep_their_value(document):
    def exactly(value: Any) -> Any:
        if isinstance(value, dict) and value.keys() == {"$numberDecimal"}:
            return int(value["$numberDecimal"])
        if isinstance(value, list):
            return [exactly(inner) for inner in value]
        return "NaN" if isinstance(value, float) and math.isnan(value) else value

    made = document_from_json(json.dumps(document).encode())
    assert {key: exactly(value) for key, value in parsed(made.text).items()} == {
        key: exactly(value) for key, value in document.items()
    }
    assert document_from_json(made.text.encode()) == made


@given(DOCUMENTS)
def test_bson_and_json_of_a_document_have_the_same_canonical_text(document):
    from_bson = document_from_bson(bson.encode(document))
    assert from_bson == document_from_json(json.dumps(document, sort_keys=True).encode())
    assert parsed(from_bson.text) == document


@given(st.dictionaries(KEYS, st.floats() | st.lists(st.floats())))
def test_floats_of_bson_are_never_lost(document):
    assert len(set(exported(document).values())) == 1
    assert "null" not in document_from_bson(bson.encode({"x": list(document.values())})).text


@pytest.mark.parametrize(
    ("identity", "record_id"),
    [
        ("0f" * 32, "0f" * 32),
        ("", ""),
        ("../\"x\"/'y'\\", "../\"x\"/'y'\\"),
        (bson.ObjectId("65f0c0ffee65f0c0ffee65f0"), '_id:{"$oid":"65f0c0ffee65f0c0ffee65f0"}'),
        (12, "_id:12"),
        (1.5, "_id:1.5"),
        (math.nan, '_id:{"$numberDouble":"NaN"}'),
        (False, "_id:false"),
        (bson.Decimal128("1.10"), '_id:{"$numberDecimal":"1.10"}'),
        (datetime(2024, 10, 24, tzinfo=UTC), '_id:{"$date":"2024-10-24T00:00:00Z"}'),
        (bson.Binary(b"\1\2", 0), '_id:{"$binary":{"base64":"AQI=","subType":"00"}}'),
        ({"b": 1, "a": "x"}, '_id:{"b":1,"a":"x"}'),
        (None, "_id:null"),
        ("_id:5", '_id:"_id:5"'),
        ("_unreadable:5", '_id:"_unreadable:5"'),
        ("_without-id:5", '_id:"_without-id:5"'),
        ("_ids", "_ids"),
    ],
)
def test_an_id_of_any_type_has_one_record_id(identity, record_id):
    ids = {document.record_id for document in exported({"_id": identity}).values()}
    assert ids == {record_id}


IDENTITIES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.text(st.sampled_from('05"{}_id:$'), max_size=6)
    | st.sampled_from([bson.ObjectId("5" * 24), "5" * 24, "_id:5", '{"$oid":"5"}', math.nan]),
    lambda inner: st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


@given(one=IDENTITIES, other=IDENTITIES)
def test_different_ids_have_different_record_ids(one, other):
    is_same = bson.encode({"_id": one}) == bson.encode({"_id": other})
    assert (record_id_of(one) == record_id_of(other)) == is_same


@given(identity=IDENTITIES)
def test_a_string_id_is_restored_from_its_record_id(identity):
    expected = identity if isinstance(identity, str) else None
    assert string_id(record_id_of(identity)) == expected


@pytest.mark.parametrize("made", ['_id:"cut', "_unreadable:0", "_without-id:0", "_id:5"])
def test_a_record_id_that_no_string_has_is_not_restored(made):
    assert string_id(made) is None


@pytest.mark.parametrize("raw", [b"{}", b'{"x":{"_id":1}}', b"[1]", b"5", b'"text"', b"null"])
def test_a_document_without_id_gets_one_derived_from_its_content(raw):
    document = document_from_json(raw)
    assert document.record_id.startswith(WITHOUT_ID_PREFIX)
    assert document_from_json(b" " + raw) == document
    assert json.loads(document.text) == json.loads(raw)


NOT_JSON = {
    "a word": b"oops",
    "cut off": b'{"_id": "a", "x": [1, 2',
    "a trailing comma": b'{"_id": "a",}',
    "single quotes": b"{'_id': 'a'}",
    "two documents": b'{"_id": "a"} {"_id": "b"}',
    "not UTF-8": b'{"_id": "\xff\xfe"}',
    "half a surrogate pair": b'{"_id": "a", "x": "\\ud800"}',
    "a raw control character": b'{"_id": "a\x01"}',
    "nested too deeply to read": b'{"x":' * 100_000,
    "nested too deeply to write": b'{"x":' * 600 + b"1" + b"}" * 600,
    "an endless integer": b'{"x": ' + b"1" * 10_000 + b"}",
    "zeros": b"\0\0\0",
}


@pytest.mark.parametrize("raw", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_invalid_json_is_kept_under_an_id_derived_from_its_content(raw):
    document = document_from_json(raw)
    assert document.record_id.startswith(UNREADABLE_PREFIX)
    assert document_from_json(raw) == document
    assert json.loads(document.text) == raw.decode("utf-8", "backslashreplace")


def test_different_unreadable_documents_have_different_ids():
    assert len({document_from_json(raw).record_id for raw in NOT_JSON.values()}) == len(NOT_JSON)


def test_invalid_bson_is_kept_under_an_id_derived_from_its_content():
    raw = bytearray(bson.encode({"_id": "a", "x": 1.5}))
    raw[4] = 0x77  # no type of BSON
    document = document_from_bson(bytes(raw))
    assert document.record_id.startswith(UNREADABLE_PREFIX)
    assert document_from_bson(bytes(raw)) == document


@pytest.mark.parametrize(
    "promise",
    [
        '{"$date":"yesterday"}',
        '{"$date":"9999-12-31T23:59:59-01:00"}',
        '{"$date":{"$numberLong":"soon"}}',
        '{"$date":[]}',
        '{"$numberLong":"many"}',
        '{"$numberInt":null}',
        '{"$numberInt":{"$numberDouble":"Infinity"}}',
        '{"$numberDouble":"much"}',
        '{"$oid":5}',
        '{"$unheard":{"of":1}}',
    ],
)
def test_invalid_extended_json_stays_as_it_is(promise):
    document = document_from_json(f'{{"_id":"a","x":{promise}}}'.encode())
    assert document.record_id == "a"
    assert document.text == f'{{"_id":"a","x":{promise}}}'


@pytest.mark.parametrize("endless", ["1e999", "1" * 400])
@pytest.mark.parametrize("key", ["$numberInt", "$numberLong", "$numberDouble", "$date"])
def test_a_number_out_of_range_in_extended_json_is_read(key, endless):
    document = document_from_json(f'{{"_id":"a","x":{{"{key}":{endless}}}}}'.encode())
    assert document.record_id == "a"
    assert "null" not in document.text


@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles", "Asia/Kolkata"])
def test_a_date_without_a_zone_is_utc_in_any_time_zone(monkeypatch, zone):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        document = document_from_json(b'{"x":{"$date":"2024-10-24T09:30:00"}}')
    finally:
        monkeypatch.undo()
        time.tzset()
    assert document.text == '{"x":{"$date":"2024-10-24T09:30:00Z"}}'


def test_dates_with_offsets_are_converted_to_utc():
    texts = {
        document_from_json(f'{{"x":{{"$date":"{text}"}}}}'.encode()).text
        for text in (
            "2024-10-24T09:30:00Z",
            "2024-10-24T09:30:00.000Z",
            "2024-10-24T11:30:00.000+02:00",
            "2024-10-24T02:30:00-0700",
        )
    }
    assert texts == {'{"x":{"$date":"2024-10-24T09:30:00Z"}}'}


@given(st.binary(max_size=60))
def test_any_bytes_can_be_read_as_json(raw):
    document = document_from_json(raw)
    assert document_from_json(raw) == document
    json.loads(document.text)


@given(data=st.data(), document=DOCUMENTS)
def test_damaged_bson_can_be_read(data, document):
    raw = bytearray(bson.encode(document | {"when": bson.DatetimeMS(0), "what": 1.5, "b": b"x"}))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(4, len(raw) - 1))] = data.draw(st.integers(0, 255))
    made = document_from_bson(bytes(raw))
    assert document_from_bson(bytes(raw)) == made
    json.loads(made.text)


@given(
    key=st.sampled_from(["$date", "$numberInt", "$numberLong", "$numberDouble", "$oid", "$binary"]),
    inner=st.recursive(
        SCALARS | st.floats() | st.integers() | st.text("0123456789-:.TZ+", max_size=25),
        lambda value: (
            st.lists(value, max_size=2)
            | st.dictionaries(st.sampled_from(["$numberLong", "$date", "x"]), value, max_size=2)
        ),
        max_leaves=4,
    ),
)
@example(key="$date", inner="0001-01-01T00:00:00+01:00")
def test_any_extended_json_can_be_read(key, inner):
    document = document_from_json(json.dumps({"_id": "a", "x": {key: inner}}).encode())
    assert document.record_id == "a"
    assert document_from_json(document.text.encode()) == document
