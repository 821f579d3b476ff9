"""The institute's behaviour database: a table of sessions, and the trials of each subject.

Trials without a response are included. As in the real database, the files of subjects differ in
columns and types, because three programs read the sessions' NWB files.
"""

import io
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aind_etl.sample.calendar import Stream
from aind_etl.sample.session_table import SessionTable, behavior_session_id, nwb_suffix
from aind_etl.sample.sessions import Session

_Columns = dict[str, NDArray[Any]]

LEFT, RIGHT, IGNORED = 0, 1, 2
"""The responses of an animal in the database."""

_AUTOWATER_SHARE = 0.01
_LASER_SHARE = 0.1
_SECONDS_A_TRIAL = 7.0
_DELAY_TO_REWARD_SECONDS = 0.2


class BehaviorDatabase:
    """Collects the sessions of a world, and returns them as the files of the database."""

    def __init__(self) -> None:
        self._trials: dict[str, list[pa.Table]] = defaultdict(list)

    def add(self, session: Session) -> None:
        """Add the next session; those of a subject are added in the order of their days."""
        subject_id = session.plan.subject.subject_id
        write = _WRITERS[int(subject_id) % len(_WRITERS)]
        self._trials[subject_id].append(_trial_table(session, write(_trials(session))))

    def files(self, sessions: SessionTable) -> Iterator[tuple[str, bytes]]:
        """Yield the path and the content of each file of the database."""
        frame = sessions.in_database()
        yield "session_table.parquet", _parquet(pa.Table.from_pandas(frame, preserve_index=False))
        for subject_id, trials in sorted(self._trials.items()):
            name = f"trial_table/subject_id={subject_id}/{subject_id}.parquet"
            yield name, _parquet(pa.concat_tables(trials))


def _trials(session: Session) -> _Columns:
    """Return the columns of all trials, ignored ones included, each [trials]."""
    random = session.plan.random(Stream.TRIAL_TABLE)
    n = len(session.task.reward_probabilities)
    valid = session.task.valid_at
    response = np.full(n, IGNORED)
    response[valid] = np.where(session.left, LEFT, RIGHT)
    earned = np.zeros(n, dtype=bool)
    earned[valid] = session.rewarded
    go_cue = np.cumsum(random.normal(_SECONDS_A_TRIAL, 1.0, n).clip(2.0))
    reaction = np.where(response == IGNORED, np.nan, random.lognormal(-1.2, 0.4, n))
    choice = go_cue + reaction
    autowater = random.random((n, 2)) < _AUTOWATER_SHARE
    laser = random.random(n) < _LASER_SHARE
    return {
        "trial": np.arange(n, dtype=float),
        "animal_response": response,
        "earned_reward": earned,
        "rewarded_historyL": earned & (response == LEFT),
        "rewarded_historyR": earned & (response == RIGHT),
        "reward_probabilityL": session.task.reward_probabilities[:, 0],
        "reward_probabilityR": session.task.reward_probabilities[:, 1],
        "auto_waterL": autowater[:, 0].astype(np.int64),
        "auto_waterR": autowater[:, 1].astype(np.int64),
        "goCue_start_time_in_session": go_cue,
        "choice_time_in_session": choice,
        "reward_time_in_session": np.where(earned, choice + _DELAY_TO_REWARD_SECONDS, np.nan),
        "reaction_time": reaction,
        "laser_on_trial": laser.astype(float),
        "laser_power": np.where(laser, 5.0, np.nan),
        "laser_location": np.where(laser, "Laser_1", "none").astype(object),
    }


def _by_current_reader(trials: _Columns) -> _Columns:
    return trials | {"animal_response": trials["animal_response"].astype(float)}


def _by_older_reader(trials: _Columns) -> _Columns:
    """Return the columns of a reader that writes integers and no laser."""
    kept = {name: values for name, values in trials.items() if not name.startswith("laser_")}
    return kept | {"earned_reward": trials["earned_reward"].astype(np.int64)}


def _by_oldest_reader(trials: _Columns) -> _Columns:
    """Return the columns of a reader with other names of times and no reaction time."""
    kept = {
        name.removesuffix("_in_session"): values
        for name, values in _by_older_reader(trials).items()
        if name != "reaction_time"
    }
    return kept | {"bait_left": (trials["reward_probabilityL"] > 0.5).astype(float)}


_WRITERS = (_by_current_reader, _by_older_reader, _by_oldest_reader)


def _trial_table(session: Session, columns: _Columns) -> pa.Table:
    n = len(session.task.reward_probabilities)
    identity = {
        "session_id": [behavior_session_id(session)] * n,
        "session_date": [session.plan.began.date().isoformat()] * n,
        "nwb_suffix": [nwb_suffix(session)] * n,
    }
    # NaN is written as NULL, as by pandas.
    arrays = {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
    return pa.table(identity | arrays)


def _parquet(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()
