"""A pickled frame of any pandas is read as data, and a hostile one runs nothing."""

import builtins
import datetime as dt
import functools
import io
import os
import pickle
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from aind_etl.errors import DataError
from aind_etl.sessions.frame_process import read_pickled_frame
from aind_etl.sessions.pickled_frame import LABELS, RefusedError, read_frame
from aind_etl.sessions.pickled_frame.cells import ColumnReader

FRAMES = sorted((Path(__file__).parent / "frames").glob("*.pkl"))
UTC_MORNING = dt.datetime(2024, 1, 1, 18, tzinfo=dt.UTC)
DAY = dt.date(2024, 1, 1)

EXPECTED: dict[str, list[Any]] = {
    '["subject_id"]': ["1", "2", "3", "4"],
    '["session_date"]': ["2024-01-01"] * 4,
    '["nwb_suffix"]': [83912, 0, 1, 2],
    '["metadata", "rig"]': ["a", "b", None, "ä"],
    '["metadata", "session_start_time"]': [
        dt.datetime(2024, 1, 1, 10),  # noqa: DTZ001 - it has no zone
        dt.datetime(2024, 1, 2),  # noqa: DTZ001
        None,
        None,
    ],
    '["metadata", "zoned"]': [UTC_MORNING] * 4,
    '["metadata", "day"]': [DAY, DAY, None, DAY],
    '["metadata", "clock"]': [dt.time(8, 39, 12), None, None, dt.time(0, 0, 1)],
    '["metadata", "run_time"]': [1.0, 2.0, 3.0, None],
    '["metadata", "mixed"]': ["2024-01-01T00:00:00+00:00", None, "2024-01-01T00:00:00", "7"],
    '["metadata", "lists"]': ["[1, 2.5]", "[1.0, null]", '{"a": [1, null]}', None],
    '["auto_train", "stage"]': ["x", "y", "x", None],
    '["auto_train", "overridden"]': [True, None, False, None],
    '["stats", "efficiency"]': [1.5, None, 2.0, 3.0],
    '["stats", "trials"]': [1, 2, 3, 4],
    '["stats", "small"]': [1, 2, 3, 4],
    '["stats", "half"]': [0.5, 1.5, 2.5, 3.5],
    '["stats", "flag"]': [True, False, True, True],
    '["stats", "integers"]': [1, None, 3, 4],
    '["stats", "booleans"]': [True, None, False, True],
    '["stats", "texts"]': ["p", "q", None, "r"],
    '["stats", "scalars"]': [1, 2, None, 4],
    '["stats", "nothing"]': [None] * 4,
}


def columns_of(table: pa.Table) -> dict[str, list[Any]]:
    """Return the values of each column by its labels."""
    return {
        field.metadata[LABELS].decode(): column.to_pylist()
        for field, column in zip(table.schema, table.columns, strict=True)
    }


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.reduced


def stack_global(module: str, name: str) -> bytes:
    """Return the beginning of a pickle that loads what a name refers to."""
    texts = (b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    return b"".join([b"\x80\x04", *texts, b"\x93"])


def asking_for(module: str, name: str, *arguments: object) -> bytes:
    """Return a pickle that calls what a name refers to."""
    return stack_global(module, name) + pickle.dumps(arguments, protocol=4)[2:-1] + b"R."


def frame_with(cell: object) -> bytes:
    """Return a pickled frame that is like any other, but for one cell."""
    cells = np.empty(3, dtype=object)
    cells[:] = ["a", None, "b"]
    cells[1] = cell
    return pickle.dumps(pd.DataFrame({("metadata", "notes"): cells}), protocol=4)


# --- frames ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FRAMES, ids=[path.stem for path in FRAMES])
def test_a_frame_of_every_pandas_is_read_value_for_value(path: Path) -> None:
    assert columns_of(read_frame(path.read_bytes())) == EXPECTED


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_the_protocol_of_the_pickle_makes_no_difference(protocol: int) -> None:
    frame = pd.read_pickle(FRAMES[-1])
    assert columns_of(read_frame(pickle.dumps(frame, protocol=protocol))) == EXPECTED


def as_before(
    frame: pd.DataFrame, change: Callable[[list[dict[str, Any]]], object] = lambda _blocks: None
) -> bytes:
    """Return a frame pickled as by pandas 1.2, after a change of its blocks."""

    class AsBefore(pickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            if type(obj).__name__ != "BlockManager":
                return NotImplemented
            axes = list(obj.axes)
            blocks = [
                {"values": block.values, "mgr_locs": block.mgr_locs.as_array}  # noqa: PD011 - no frame's
                for block in obj.blocks
            ]
            change(blocks)
            state = (axes, [], [], {"0.14.1": {"axes": axes, "blocks": blocks}})
            return type(obj), (), state

    file = io.BytesIO()
    AsBefore(file, protocol=4).dump(frame)
    return file.getvalue()


OBJECTS = pd.DataFrame({"a": [1.5, None], "b": ["x", None], "c": [True, False]}, dtype=object)


def test_a_frame_of_pandas_before_1_3_is_read() -> None:
    found = columns_of(read_frame(as_before(OBJECTS)))
    assert found == {'["a"]': [1.5, None], '["b"]': ["x", None], '["c"]': [True, False]}


def test_times_of_pandas_before_1_5_are_read_as_nanoseconds() -> None:
    made = pd.Timestamp("2024-01-01").__reduce__()[0]
    cell = Calls(made, 1704103200 * 10**9, None, dt.UTC)
    (notes,) = columns_of(read_frame(frame_with(cell))).values()
    assert notes == ["a", "2024-01-01T10:00:00+00:00", "b"]


def test_numbers_too_large_for_a_column_become_text() -> None:
    frame = pd.DataFrame({"a": pd.Series([2**70, 1, None], dtype=object)})
    assert columns_of(read_frame(pickle.dumps(frame)))['["a"]'] == [str(2**70), "1", None]
    assert read_frame(pickle.dumps(frame.head(0))).num_rows == 0


# --- what is refused ------------------------------------------------------------------------

FORBIDDEN = {
    "a command": ("posix", "system", "touch ran"),
    "os.system by its other name": ("os", "system", "touch ran"),
    "a process": ("subprocess", "Popen", ["touch", "ran"]),
    "eval": ("builtins", "eval", "open('ran', 'w')"),
    "exec": ("builtins", "exec", "open('ran', 'w')"),
    "a file": ("builtins", "open", "ran", "w"),
    "an import": ("builtins", "__import__", "os"),
    "another pickle": ("pandas", "read_pickle", "other.pkl"),
    "another pickle, by its module": ("pandas.io.pickle", "read_pickle", "other.pkl"),
    "pandas' own eval": ("pandas.core.computation.eval", "eval", "1 + 1"),
    "pandas' own eval, in short": ("pandas", "eval", "1 + 1"),
    "a method by a dotted name": ("pandas.core.frame", "DataFrame.eval", "1 + 1"),
    "a module by a dotted name": ("pandas", "io.common.os.system", "touch ran"),
    "numpy's loader": ("numpy", "load", "other.npy"),
    "memory from numpy": ("numpy", "zeros", (1 << 31,)),
    "an attribute": ("operator", "attrgetter", "system"),
    "a partial call": ("functools", "partial", 1),
    "a class made on the spot": ("builtins", "type", "Name", (), {}),
}


@pytest.mark.parametrize("asked", FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_name_that_a_frame_does_not_need_is_refused(
    asked: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module, name, *arguments = asked
    with pytest.raises(RefusedError, match=f"asks for '{module}.{name}'"):
        read_frame(asking_for(module, name, *arguments))
    assert not any(tmp_path.iterdir())


def test_an_attribute_of_an_admitted_name_is_refused() -> None:
    hostile = Calls(builtins.getattr, pd.DataFrame, "eval")
    with pytest.raises(RefusedError, match="asks for the attribute 'eval' of 'DataFrame'"):
        read_frame(pickle.dumps(hostile))


def test_a_call_hidden_in_a_cell_of_a_good_frame_is_refused(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with pytest.raises(RefusedError, match=r"asks for 'posix.system'"):
        read_frame(frame_with(Calls(os.system, f"touch {ran}")))
    with pytest.raises(RefusedError, match=r"asks for 'posix.system'"):
        read_frame(frame_with([{"a": np.array([Calls(os.system, f"touch {ran}")], dtype=object)}]))
    with pytest.raises(RefusedError, match=r"asks for 'functools.partial'"):
        read_frame(frame_with(functools.partial(os.system, f"touch {ran}")))
    assert not ran.exists()


@pytest.mark.parametrize("name", [("pandas", "DataFrame"), ("builtins", "bytearray")])
def test_a_state_that_a_pickle_sets_on_a_class_or_function_changes_nothing(
    name: tuple[str, str],
) -> None:
    """The opcode BUILD sets attributes of what is on the stack."""
    hostile = stack_global(*name) + b"N}\x8c\x08__init__K\x01s\x86b."
    with pytest.raises(RefusedError):
        read_frame(hostile)
    assert columns_of(read_frame(FRAMES[0].read_bytes())) == EXPECTED


def test_objects_outside_the_pickle_are_refused() -> None:
    with pytest.raises(RefusedError, match="outside itself"):
        read_frame(b"\x80\x04\x8c\x03oneQ.")


@pytest.mark.parametrize("content", [b"", b"<html></html>"], ids=["nothing", "a page"])
def test_a_file_that_is_not_a_pickle_is_refused(content: bytes) -> None:
    with pytest.raises(RefusedError, match="not a pickle: it begins with"):
        read_frame(content)


@pytest.mark.parametrize(
    "value",
    [{"a": 1}, [1, 2], pd.Series([1]), dt.date(2024, 1, 1), np.arange(3)],
    ids=["an object", "a list", "a series", "a date", "an array"],
)
def test_a_pickle_of_something_else_is_refused(value: object) -> None:
    with pytest.raises(RefusedError):
        read_frame(pickle.dumps(value))


@pytest.mark.parametrize("path", FRAMES, ids=[path.stem for path in FRAMES])
def test_a_pickle_cut_off_anywhere_is_refused(path: Path) -> None:
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        with pytest.raises(RefusedError):
            read_frame(content[:length])


def test_an_unknown_kind_of_values_is_refused_by_its_name() -> None:
    frame = pd.DataFrame({"a": pd.period_range("2024-01", periods=2, freq="M")})
    with pytest.raises(RefusedError, match="Period"):
        read_frame(pickle.dumps(frame))
    with pytest.raises(RefusedError, match="c16"):
        read_frame(pickle.dumps(pd.DataFrame({"a": [1 + 2j]})))


@pytest.mark.parametrize(
    "change",
    [
        lambda blocks: blocks.clear(),
        lambda blocks: blocks.append(blocks[0]),
        lambda blocks: blocks[0].update(mgr_locs=np.array([0, 1, 99])),
        lambda blocks: blocks[0].update(mgr_locs=np.array([0, 1, -1])),
        lambda blocks: blocks[0].update(mgr_locs=np.array([0, 1])),
        lambda blocks: blocks[0].update(values=np.zeros((3, 9))),
        lambda blocks: blocks[0].update(values=np.zeros(2)),
        lambda blocks: blocks[0].update(values="text"),
    ],
    ids=["none", "twice", "beyond", "before", "too few", "too long", "one", "a text"],
)
def test_columns_that_do_not_fit_together_are_refused(
    change: Callable[[list[dict[str, Any]]], object],
) -> None:
    with pytest.raises(RefusedError):
        read_frame(as_before(OBJECTS, change))


# --- too much memory or time ----------------------------------------------------------------


def nested(depth: int, width: int = 10) -> list[Any]:
    """Return lists in lists, each many times the same."""
    inner: list[Any] = ["ha"] * width
    for _ in range(depth):
        inner = [inner] * width
    return inner


def test_a_billion_laughs_are_refused() -> None:
    with pytest.raises(RefusedError, match="repeats itself"):
        read_frame(frame_with(nested(9)))


def test_only_the_values_in_lists_count_as_repeated() -> None:
    cells = np.empty(3, dtype=object)
    cells[:] = [[1, 2]] * 3
    assert ColumnReader(most_values=6).read(cells).to_pylist() == ["[1, 2]"] * 3
    with pytest.raises(RefusedError, match="repeats itself"):
        ColumnReader(most_values=5).read(cells)


def test_lists_nested_without_end_are_refused() -> None:
    content = frame_with(["MARK"])
    deep = b"]" * 100_000 + b"a" * 99_999
    marked = content.replace(b"\x8c\x04MARK\x94", deep)
    assert marked != content
    # Frames of the protocol say their length; without one the pickle is read as it comes.
    assert marked[2:3] == b"\x95"
    with pytest.raises(RefusedError):
        read_frame(marked[:2] + marked[11:])


def test_a_frame_with_too_many_rows_is_refused() -> None:
    frame = pd.DataFrame(index=pd.RangeIndex(1 << 40), columns=[])
    with pytest.raises(RefusedError, match="rows"):
        read_frame(pickle.dumps(frame))


TWO_GIGABYTES = 2 << 30


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x05\x96" + struct.pack("<Q", TWO_GIGABYTES) + b"x" * 100,
        b"\x80\x05\x8e" + struct.pack("<Q", TWO_GIGABYTES) + b"x" * 100,
        b"\x80\x04Nr" + struct.pack("<I", 0xFFFFFFFF) + b".",
        pickle.dumps(Calls(bytearray, TWO_GIGABYTES)),
        pickle.dumps(Calls(np.ndarray, (TWO_GIGABYTES,))),
    ],
    ids=["an array of bytes", "bytes", "a place in the memo", "a bytearray", "an array of numpy"],
)
def test_two_gigabytes_are_not_allocated(content: bytes) -> None:
    with pytest.raises(DataError, match="Nothing in it was run"):
        read_pickled_frame(content)


def test_a_pickle_that_takes_too_long_is_stopped() -> None:
    """Hashing tuples of tuples, each with the one before twice, would take years."""
    twice = b"\x80\x04)" + b"2\x86" * 60
    key_of_an_object = b"\x80\x04}" + twice[2:] + b"Ns."
    with pytest.raises(DataError, match="took more than 1 s"):
        read_pickled_frame(key_of_an_object, cpu_seconds=1)
    with pytest.raises(DataError, match=r"not read after 0\.5 s"):
        read_pickled_frame(key_of_an_object, wall_seconds=0.5)


def test_a_process_that_dies_is_a_refusal() -> None:
    """Hashing a million nested tuples overflows the stack."""
    deep = b"\x80\x04})" + b"\x85" * 3_000_000 + b"Ns."
    with pytest.raises(DataError, match="Nothing in it was run"):
        read_pickled_frame(deep)


# --- the process ----------------------------------------------------------------------------


def test_a_good_frame_is_the_same_from_the_process_which_has_no_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AIND_ETL_SOURCE", "mongodb://me:secret@host/analysis")
    environments = []
    run = subprocess.run

    def watched(*arguments: Any, **named: Any) -> Any:
        environments.append(named["env"])
        return run(*arguments, **named)

    monkeypatch.setattr(subprocess, "run", watched)
    content = FRAMES[0].read_bytes()
    assert read_pickled_frame(content).equals(read_frame(content))
    assert len(environments) == 1
    assert "secret" not in repr(environments)


def test_the_process_refuses_a_hostile_frame_with_what_it_asked_for(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with pytest.raises(DataError, match=r"asks for 'posix.system'.*Nothing in it was run"):
        read_pickled_frame(pickle.dumps(Calls(os.system, f"touch {ran}")))
    assert not ran.exists()
