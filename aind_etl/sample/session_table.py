"""The session table, in the two forms in which the institute has it.

It describes a session beyond its choices: the rig, the task, weight and water, the stage of
training, and how well the subject foraged. The older form is a pickled frame with two levels of
columns and one row per session file. The behaviour database has one row per session, with the
columns as the public reader returns them and the asset in Code Ocean.
"""

import json
import pickle
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from itertools import chain
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from aind_etl.sample.calendar import Script, Stream, random_generator
from aind_etl.sample.sessions import Session

_Row = dict[tuple[str, str], object]

_ZONE = ZoneInfo("America/Los_Angeles")
# Fixed, so that a newer Python writes the same bytes.
PICKLE_PROTOCOL = 4

_RIGS = ("447-1-A", "447-1-D", "447-2-B", "447-3-C", "352_EPHYS_1")
_TRAINERS = ("Femi Aldana", "Gro Haddad", "Ines Varga")
_STAGES = ("STAGE_1_WARMUP", "STAGE_1", "STAGE_2", "STAGE_3", "STAGE_FINAL", "GRADUATED")
_CURRICULA = ("Uncoupled Baiting", "Coupled Baiting", "Uncoupled Without Baiting")
_TASKS = {True: "Coupled Baiting", False: "Uncoupled Without Baiting"}
_LEVELS = {True: [[0.4, 0.05], [0.3857, 0.0643], [0.3375, 0.1125]], False: [[0.1, 0.5, 0.9]]}
_SECONDS_A_TRIAL = (6.0, 9.0)
_REWARD_MILLILITRES = 0.003
_FIRST_COLUMNS = (
    *("subject_id", "session_date", "nwb_suffix", "session", "rig", "trainer", "PI"),
    *("curriculum_name", "curriculum_version", "current_stage_actual", "task", "notes"),
)
_CURRICULUM = ("curriculum_name", "curriculum_version", "curriculum_schema_version")
_CURRICULUM_COLUMNS = (*_CURRICULUM, "current_stage_actual")


class SessionTable:
    """Collects the sessions of a world, and returns them as the files of both forms."""

    def __init__(self) -> None:
        self._investigators: dict[str, str] = {}
        self._n_sessions: Counter[str] = Counter()
        self._keys: list[tuple[str, str, int]] = []
        self._rows: list[_Row] = []
        self._in_database: list[dict[str, object]] = []

    def add(self, session: Session) -> None:
        """Add the next session; those of a subject are added in the order of their days."""
        plan, subject_id = session.plan, session.plan.subject.subject_id
        self._investigators[subject_id] = plan.subject.investigator
        self._n_sessions[subject_id] += 1
        row = _table_row(session, self._n_sessions[subject_id])
        day = plan.began.date().isoformat()
        self._keys.append((subject_id, day, nwb_suffix(session)))
        self._rows.append(row)
        if plan.script is Script.NWB_NAME_WITHOUT_TIME:
            # In the first years the files of a day were numbered, and some were saved twice.
            self._keys.append((subject_id, day, 1))
            finished = ("session_stats", "finished_trials")
            too_early: _Row = {
                finished: int(str(row[finished])) // 10,
                ("metadata", "notes"): "saved too early",
                ("session_stats", "foraging_eff"): None,
            }
            self._rows.append(row | too_early)
        self._in_database.append(_database_row(session, row))

    def pickled(self) -> bytes:
        """Return ``df_sessions.pkl``: the table as a pickled frame of pandas."""
        labels = list(dict.fromkeys(chain.from_iterable(self._rows)))
        frame = pd.DataFrame(
            {label: _series([row.get(label) for row in self._rows]) for label in labels},
            index=_multi_index(self._keys, ("subject_id", "session_date", "nwb_suffix")),
        )
        frame.columns = _multi_index(labels, ("type", "variable"))
        return pickle.dumps(frame, protocol=PICKLE_PROTOCOL)

    def in_database(self) -> pd.DataFrame:
        """Return the session table of the behaviour database."""
        names = dict.fromkeys(chain(_FIRST_COLUMNS, *self._in_database))
        # The public reader appends the sessions that only Code Ocean has.
        rows = sorted(self._in_database, key=lambda row: "rig" not in row)
        return pd.DataFrame({name: _series([row.get(name) for row in rows]) for name in names})

    def investigators(self) -> bytes:
        """Return ``mouse_pi_mapping.json``: each subject's investigator."""
        mice = [
            {"subject_id": mouse, "PI": name} for mouse, name in sorted(self._investigators.items())
        ]
        return json.dumps(mice).encode()


def _table_row(session: Session, number: int) -> _Row:
    """Return the values of a subject's session, the number of which counts from 1."""
    random = session.plan.random(Stream.SESSION_TABLE)
    columns = {
        "metadata": _metadata(session, number, random),
        "auto_train": _training(session, number, random),
        "session_stats": _performance(session, random),
    }
    return {(kind, name): value for kind in columns for name, value in columns[kind].items()}


def _training(session: Session, number: int, random: np.random.Generator) -> dict[str, object]:
    """Return the subject's stage in its curriculum; subjects learn at their own pace."""
    plan = session.plan
    of_subject = random_generator(plan.seed, Stream.SESSION_TABLE, int(plan.subject.subject_id))
    curriculum = str(of_subject.choice(_CURRICULA))
    pace = float(of_subject.uniform(0.25, 1.4))
    if random.random() < 0.1:
        # A session outside of any curriculum.
        return dict.fromkeys((*_CURRICULUM_COLUMNS, "if_overriden_by_trainer"))
    stage = min(len(_STAGES) - 1, int(pace * number + random.uniform(0.0, 0.8)))
    return {
        "curriculum_name": curriculum,
        "curriculum_version": "2.3.1" if plan.began.year > 2024 else "1.0",
        "curriculum_schema_version": "1.0",
        "current_stage_actual": _STAGES[stage],
        "if_overriden_by_trainer": bool(random.random() < 0.15),
    }


def nwb_suffix(session: Session) -> int:
    """Return the number that the institute's tables have instead of a session's time of day."""
    if session.plan.script is Script.NWB_NAME_WITHOUT_TIME:
        return 0
    return int(session.plan.began.strftime("%H%M%S"))


def behavior_session_id(session: Session) -> str:
    """Return the name of a session in the behaviour database."""
    plan = session.plan
    return f"{plan.subject.subject_id}_{plan.began:%Y-%m-%d}_{nwb_suffix(session)}"


def _multi_index(rows: Sequence[tuple[object, ...]], names: Sequence[str]) -> pd.MultiIndex:
    """Return an index of texts, and of integers for the suffix."""
    levels = [
        pd.Index([row[level] for row in rows], dtype="int64" if name == "nwb_suffix" else object)
        for level, name in enumerate(names)
    ]
    return pd.MultiIndex.from_arrays(levels, names=names)


def _database_row(session: Session, row: _Row) -> dict[str, object]:
    """Return a session's row of the behaviour database."""
    plan = session.plan
    name = f"behavior_{plan.subject.subject_id}_{plan.began:%Y-%m-%d_%H-%M-%S}"
    identity: dict[str, object] = {
        "subject_id": plan.subject.subject_id,
        "session_date": plan.began.date().isoformat(),
        "nwb_suffix": nwb_suffix(session),
    }
    code_ocean: dict[str, object] = {
        "_session_id": behavior_session_id(session),
        "co_asset_id": f"{plan.index:08x}-0000-4000-8000-000000000000",
        "co_s3_nwb_uri": f"s3://aind-open-data/{name}_processed/nwb/{name}.nwb",
        "nwb_data_source": "co_asset",
    }
    # The pipeline behind the rigs missed one of 20 sessions.
    if plan.index % 20 == 17 or row["metadata", "session"] is None:
        return identity | code_ocean
    columns = {name: value for (_, name), value in row.items()}
    columns["trainer"] = columns.pop("user_name")
    columns |= {name: "None" for name in _CURRICULUM_COLUMNS if columns[name] is None}
    rig_type = "ephys" if "EPHYS" in str(columns["rig"]) else "training"
    room = str(columns["rig"])[:3]
    if plan.began.year == 2023:
        code_ocean |= {"co_asset_id": None, "co_s3_nwb_uri": None, "nwb_data_source": "bonsai_s3"}
    columns |= {
        "session_start_time": str(columns["session_start_time"]),
        "subject_alias": plan.subject.subject_id,
        "PI": plan.subject.investigator,
        "institute": "AIND",
        "rig_type": rig_type,
        "room": room,
        "hardware": "bonsai",
        "data_source": f"AIND_{rig_type}_{room}_bonsai",
        "abs(bias_naive)": abs(float(str(columns["bias_naive"]))),
        "weekday": plan.began.isoweekday(),
    }
    return identity | columns | code_ocean


def _metadata(session: Session, number: int, random: np.random.Generator) -> dict[str, object]:
    plan = session.plan
    trials = session.n_trials + session.n_ignored
    duration = timedelta(seconds=round(trials * random.uniform(*_SECONDS_A_TRIAL)))
    began = plan.began.replace(tzinfo=_ZONE)
    base_weight = float(np.round(random.normal(24.0, 2.0), 1))
    foraged = float(np.round(int(session.rewarded.sum()) * _REWARD_MILLILITRES, 3))
    given = float(np.round(random.uniform(0.0, 0.3), 3))
    weight = float(np.round(base_weight * random.uniform(0.82, 0.9), 1))
    positions = np.round(random.normal((4200.0, 3900.0, 7100.0), 300.0), 1).tolist()
    return {
        "rig": str(random.choice(_RIGS)),
        "user_name": str(random.choice(_TRAINERS)),
        "experiment_description": "behavior training",
        "task": _TASKS[session.task.is_coupled],
        "notes": None if random.random() < 0.7 else "mouse was slow to start",
        "session_start_time": began,
        "session_end_time": (plan.began + duration).isoformat(),
        "session_run_time_in_min": duration.total_seconds() // 60,
        "session": None if random.random() < 0.02 else float(number),
        "has_video": bool(random.random() < 0.8),
        "has_ephys": bool(random.random() < 0.05),
        # Set for the oldest files only.
        "old_bpod_session": True if plan.began.year == 2023 else None,
        "commit_ID": random.bytes(20).hex(),
        "base_weight": base_weight,
        "target_weight": float(np.round(base_weight * 0.85, 2)),
        "weight_after": weight,
        "weight_after_ratio": weight / base_weight,
        "water_in_session_foraging": foraged,
        "water_in_session_manual": given,
        "water_in_session_total": foraged + given,
        "water_after_session": float(np.round(max(0.0, 1.0 - foraged - given), 3)),
        "water_day_total": max(1.0, foraged + given),
        "reward_probabilities": _LEVELS[session.task.is_coupled],
        "p_reward_sum_mean": 0.45 if session.task.is_coupled else 1.0,
        "p_reward_contrast_mean": float(random.uniform(2.0, 8.0)),
        "effective_block_length_median": float(random.integers(20, 45)),
        "duration_gocue_stop_mean": float(random.normal(1.2, 0.1)),
        "duration_delay_period_mean": float(random.normal(0.1, 0.01)),
        "duration_iti_mean": float(random.normal(5.0, 0.6)),
        "reward_volume_left_mean": 2.0,
        "reward_volume_right_mean": 2.0,
        **{f"lickspout_initial_pos_{axis}": positions[n] for n, axis in enumerate("xyz")},
        **{f"lickspout_movement_range_{axis}": float(random.exponential(90.0)) for axis in "xyz"},
    }


def _performance(session: Session, random: np.random.Generator) -> dict[str, object]:
    finished, ignored = session.n_trials, session.n_ignored
    rewards = int(session.rewarded.sum())
    total = finished + ignored
    autowater = int(random.integers(0, 6))
    rate = finished / total
    # Very short sessions have no efficiency.
    efficiency = None if session.plan.is_too_short else rewards / finished / session.task.best_rate
    right = float((~session.left).mean())
    reaction = float(random.lognormal(-1.2, 0.3))
    return {
        "total_trials_with_autowater": total + autowater,
        "finished_trials_with_autowater": finished + autowater,
        "finished_rate_with_autowater": (finished + autowater) / (total + autowater),
        "ignore_rate_with_autowater": ignored / (total + autowater),
        "autowater_collected": autowater,
        "autowater_ignored": 0,
        "total_trials": total,
        "finished_trials": finished,
        "ignored_trials": ignored,
        "finished_rate": rate,
        "ignore_rate": 1.0 - rate,
        "reward_trials": rewards,
        "reward_rate": rewards / finished,
        "foraging_eff": efficiency,
        "foraging_eff_random_seed": efficiency and efficiency * float(random.normal(1.0, 0.03)),
        "foraging_performance": efficiency and efficiency * rate,
        "bias_naive": 2.0 * (right - 0.5),
        "reaction_time_median": reaction,
        "reaction_time_mean": reaction * 1.2,
        "early_lick_rate": float(random.beta(2.0, 12.0)),
        "invalid_lick_ratio": float(random.beta(2.0, 8.0)),
        "double_dipping_rate_finished_trials": float(random.beta(1.5, 10.0)),
        "lick_consistency_mean_finished_trials": float(random.beta(9.0, 1.5)),
    }


def _series(values: list[object]) -> object:
    """Return values as a pandas column with the pipeline's types.

    Numbers with gaps are floats with NaN; texts, flags with gaps and lists are objects with NaN.
    """
    kinds = {type(value) for value in values if value is not None}
    if None not in values and kinds <= {bool}:
        return np.array(values, dtype=np.bool_)
    if None not in values and kinds == {int}:
        return np.array(values, dtype=np.int64)
    if kinds and kinds <= {int, float}:
        return np.array([np.nan if value is None else value for value in values])
    if any(hasattr(value, "tzinfo") for value in values):
        return pd.DatetimeIndex(values)
    column = np.empty(len(values), dtype=object)
    for position, value in enumerate(values):
        column[position] = np.nan if value is None else value
    return column
