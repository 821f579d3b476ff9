"""Write the frame of ``test_pickled_frame.py``, as the installed pandas pickles it.

The files beside this one were written by the versions in their names, like this::

    python tests/sessions/frames/write_frame.py pandas-2.2.3.pkl
"""

import datetime as dt
import sys
from pathlib import Path

import numpy as np
import pandas as pd


def frame() -> pd.DataFrame:
    """Return a frame with two levels of columns and of every kind of value."""
    day = dt.date(2024, 1, 1)
    moments = pd.to_datetime(["2024-01-01 10:00:00", "2024-01-02 00:00:00", None, None])
    zoned = pd.to_datetime(["2024-01-01 10:00:00"] * 4).tz_localize("America/Los_Angeles")
    mixed = [pd.Timestamp("2024-01-01", tz="UTC"), pd.NaT, dt.datetime(2024, 1, 1), 7]  # noqa: DTZ001 - it has no zone
    columns = {
        ("metadata", "rig"): ["a", "b", None, "ä"],
        ("metadata", "session_start_time"): moments,
        ("metadata", "zoned"): zoned,
        ("metadata", "day"): [day, day, None, day],
        ("metadata", "clock"): [dt.time(8, 39, 12), None, None, dt.time(0, 0, 1)],
        ("metadata", "run_time"): pd.to_timedelta([1, 2, 3, None], unit="s"),
        ("metadata", "mixed"): pd.Series(mixed, dtype=object),
        ("metadata", "lists"): [[1, 2.5], np.array([1.0, np.nan]), {"a": (1, None)}, None],
        ("auto_train", "stage"): pd.Categorical(["x", "y", "x", None]),
        ("auto_train", "overridden"): pd.Series([True, np.nan, False, None], dtype=object),
        ("stats", "efficiency"): [1.5, np.nan, 2.0, 3.0],
        ("stats", "trials"): [1, 2, 3, 4],
        ("stats", "small"): np.array([1, 2, 3, 4], dtype=np.int8),
        ("stats", "half"): np.array([0.5, 1.5, 2.5, 3.5], dtype=np.float32),
        ("stats", "flag"): [True, False, True, True],
        ("stats", "integers"): pd.array([1, None, 3, 4], dtype="Int64"),
        ("stats", "booleans"): pd.array([True, None, False, True], dtype="boolean"),
        ("stats", "texts"): pd.array(["p", "q", None, "r"], dtype="string"),
        ("stats", "scalars"): pd.Series(
            [np.int64(1), np.int64(2), None, np.int64(4)], dtype=object
        ),
        ("stats", "nothing"): pd.Series([None] * 4, dtype=object),
    }
    made = pd.concat([pd.Series(values) for values in columns.values()], axis=1)
    made.columns = pd.MultiIndex.from_tuples(columns, names=["type", "variable"])
    made.index = pd.MultiIndex.from_arrays(
        [list("1234"), ["2024-01-01"] * 4, [83912, 0, 1, 2]],
        names=["subject_id", "session_date", "nwb_suffix"],
    )
    return made


if __name__ == "__main__":
    frame().to_pickle(Path(__file__).with_name(sys.argv[1]))
