"""The calendar: the subjects, and the days of their sessions.

The first sessions are scripted, so that even the smallest worlds show every oddity; the others are
drawn at random.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, IntEnum
from itertools import count

import numpy as np

from aind_etl.sample.agents import Disposition, drifting_dispositions


class Stream(IntEnum):
    """Independent random streams, so that one part of the world does not change another."""

    SUBJECTS = 0
    BEHAVIOUR = 1
    RUNS = 2
    FITS = 3
    DOCUMENTS = 4
    LATENTS = 5
    PROJECTS = 6
    RESULT_FOLDERS = 7
    SESSION_TABLE = 8
    TRIAL_TABLE = 9


def random_generator(seed: int, stream: Stream, index: int) -> np.random.Generator:
    """Return the generator of one subject, session or document of a world."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, index)))


FEWEST_TRIALS = 50
"""Sessions with fewer valid trials are not fitted."""


class Script(Enum):
    """The scripted sessions, each of which shows an oddity of the documents.

    The values are the number of the subject and the start of the session.
    """

    NWB_NAME_WITHOUT_TIME = 0, "2023-10-04T10:39:12"
    REFITTED_WITHOUT_CROSS_VALIDATION = 0, "2023-12-12T10:21:45"
    TOO_SHORT_FOR_PROTOTYPE = 0, "2024-01-15T10:44:03"
    FAILED_FITS = 0, "2024-03-05T10:32:50"
    TWO_FOLDS = 1, "2024-06-11T08:55:31"
    FIRST_OF_TWO_ON_A_DAY = 1, "2024-06-12T09:02:17"
    SECOND_OF_TWO_ON_A_DAY = 1, "2024-06-12T14:11:58"
    PREFIXED_AND_UNSUFFIXED_NWB_NAMES = 1, "2024-06-14T09:07:40"
    REFITTED_AFTER_MORE_THAN_A_YEAR = 2, "2024-10-24T16:28:19"
    NO_CROSS_VALIDATION = 2, "2024-11-20T16:40:26"
    UNREADABLE_NWB_NAME = 2, "2024-11-21T16:35:09"
    UNKNOWN_PROTOTYPE_FIELDS = 2, "2025-02-12T16:51:37"
    BOTH_FORMATS_UNTRIMMED = 3, "2025-03-21T13:14:22"
    BOTH_FORMATS = 3, "2025-03-24T13:05:48"
    PREDECESSOR_COLLECTION = 3, "2025-04-02T13:22:01"
    TOO_SHORT_FOR_BOTH_FORMATS = 3, "2025-04-03T13:10:33"
    EARLIEST_FRAMEWORK = 4, "2025-07-08T11:48:54"
    LISTED_OUTPUTS = 4, "2025-07-28T11:59:06"
    TWO_PROCESSES = 4, "2025-08-14T11:40:29"
    TOO_SHORT_FOR_FRAMEWORK = 4, "2025-09-02T11:53:13"
    MISSING_OUTPUTS = 5, "2026-01-26T15:30:55"
    ZONED_TIMES = 5, "2026-02-03T15:26:38"
    REFITTED_BY_FRAMEWORK = 5, "2026-03-10T15:33:11"
    UNKNOWN_FRAMEWORK_FIELDS = 5, "2026-04-15T15:19:47"


_TOO_SHORT = {script for script in Script if script.name.startswith("TOO_SHORT")}


@dataclass(frozen=True)
class Subject:
    """A mouse."""

    subject_id: str
    # Alias of the agent that makes its choices.
    true_agent: str
    investigator: str


@dataclass(frozen=True)
class SessionPlan:
    """A session before it happens."""

    # The world's seed, and the session's number in it, from 0.
    seed: int
    index: int
    subject: Subject
    # In the rig's local time.
    began: datetime
    # Number of trials that the subject will not ignore.
    valid_trials: int
    # The subject's parameters on that day.
    disposition: Disposition
    is_only_one_of_its_day: bool
    # The oddity that the session was scripted to show; None if it was drawn.
    script: Script | None

    @property
    def is_too_short(self) -> bool:
        """Whether it has too few valid trials to be fitted."""
        return self.valid_trials < FEWEST_TRIALS

    def random(self, stream: Stream) -> np.random.Generator:
        """Return a generator of the session's random numbers."""
        return random_generator(self.seed, stream, self.index)


_TRUE_AGENTS = {
    "QLearning_L2F1_CK1_softmax": 0.3,
    "QLearning_L2F1_CKfull_softmax": 0.2,
    "QLearning_L1F1_CK1_softmax": 0.15,
    "QLearning_L2F1_softmax": 0.15,
    "ForagingCompareThreshold": 0.1,
    "LossCounting_CK1": 0.1,
}
_INVESTIGATORS = ("Ada Fontana", "Bruno Okafor", "Chiara Lindqvist", "Dev Marchetti", "Ewa Sato")
_FIRST_SUBJECT_ID, _SUBJECT_ID_STEP = 652_000, 61
_SESSIONS_OF_A_SUBJECT = (20, 60)
# Subjects start in three waves: the share of subjects, the first and the last day of a start.
_WAVES = (
    (0.62, datetime.fromisoformat("2023-10-02"), datetime.fromisoformat("2024-12-01")),
    (0.16, datetime.fromisoformat("2024-12-02"), datetime.fromisoformat("2025-05-31")),
    (0.22, datetime.fromisoformat("2025-07-01"), datetime.fromisoformat("2026-03-15")),
)
_TWICE_A_DAY = 0.015
_TOO_SHORT_SHARE = 0.05
_SATURDAY = 5


def _draw_valid_trials(random: np.random.Generator, script: Script | None) -> int:
    by_chance = bool(random.random() < _TOO_SHORT_SHARE)
    if script in _TOO_SHORT or (script is None and by_chance):
        return int(random.integers(6, FEWEST_TRIALS))
    return int(np.clip(random.normal(430.0, 140.0), FEWEST_TRIALS, 1000.0))


def _draw_days(random: np.random.Generator) -> list[datetime]:
    """Return when the sessions of a subject began: over weeks to months."""
    _, first, last = _WAVES[random.choice(len(_WAVES), p=[share for share, _, _ in _WAVES])]
    day = first + timedelta(days=int(random.integers((last - first).days)))
    usual = timedelta(hours=float(random.uniform(8.0, 16.0)))
    began = []
    for _ in range(int(random.integers(*_SESSIONS_OF_A_SUBJECT))):
        day += timedelta(days=1 + int(random.random() < 0.1))
        while day.weekday() >= _SATURDAY:
            day += timedelta(days=1)
        late = timedelta(seconds=int(random.integers(-1800, 1800)))
        began.append(day + timedelta(seconds=round(usual.total_seconds())) + late)
        if random.random() < _TWICE_A_DAY:
            began.append(began[-1] + timedelta(seconds=int(random.integers(7200, 14400))))
    return began


def plan_sessions(seed: int) -> Iterator[SessionPlan]:
    """Yield the sessions of the world subject by subject, without end."""
    indices, scripts = count(), iter(Script)
    for number in count():
        random = random_generator(seed, Stream.SUBJECTS, number)
        offset = int(random.integers(_SUBJECT_ID_STEP))
        subject = Subject(
            subject_id=str(_FIRST_SUBJECT_ID + number * _SUBJECT_ID_STEP + offset),
            true_agent=str(random.choice(list(_TRUE_AGENTS), p=list(_TRUE_AGENTS.values()))),
            investigator=str(random.choice(_INVESTIGATORS)),
        )
        scripted = [script.value[1] for script in Script if script.value[0] == number]
        days = list(map(datetime.fromisoformat, scripted)) or _draw_days(random)
        sessions_of_day = Counter(began.date() for began in days)
        dispositions = drifting_dispositions(random, len(days))
        for began, disposition in zip(days, dispositions, strict=True):
            script = next(scripts, None)
            yield SessionPlan(
                seed=seed,
                index=next(indices),
                subject=subject,
                began=began,
                valid_trials=_draw_valid_trials(random, script),
                disposition=disposition,
                is_only_one_of_its_day=sessions_of_day[began.date()] == 1,
                script=script,
            )
