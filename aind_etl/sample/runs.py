"""Runs: which analyses were run over which session, by which pipeline, and when.

A run is one pipeline's work on one session: it writes a document for every agent it fitted. The
module decides which oddities the documents have, other than those that follow from a run's time.
"""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property, partial
from typing import Any

import numpy as np

from aind_etl.sample.agents import CATALOGUE, Family
from aind_etl.sample.calendar import Script, SessionPlan, Stream

MODEL_FITTING = "dynamic-foraging-model-fitting"
PREDECESSOR = "dynamic-foraging-analysis"


class Pipeline(StrEnum):
    """The writer of a document."""

    PROTOTYPE = "prototype"
    FRAMEWORK = "framework"


class Oddity(StrEnum):
    """An unusual property of a run's documents."""

    UNKNOWN_FIELDS = "fields that no other document has"
    ZONED_TIMES = "times with a zone"
    LISTED_OUTPUTS = "output parameters that are a list"
    MISSING_OUTPUTS = "output parameters that are null or empty"
    TWO_PROCESSES = "a second data process"
    NAME_AS_ID = "an id that equals the name"


@dataclass(frozen=True)
class Run:
    """One pipeline's work on one session."""

    plan: SessionPlan
    pipeline: Pipeline
    # From the beginning of the session to that of the run.
    delay: timedelta
    # Agents to fit.
    aliases: tuple[str, ...]
    # How it spells the name of the session's file.
    name_format: str
    # Number of folds of the cross-validation; None for none.
    folds: int | None = 10
    collection: str = MODEL_FITTING
    # Agents whose fit ended in an error.
    failed: AbstractSet[str] = frozenset()
    oddities: AbstractSet[Oddity] = frozenset()

    @cached_property
    def began(self) -> datetime:
        """When it began, in UTC."""
        return self.plan.began + self.delay

    @cached_property
    def nwb_name(self) -> str:
        """The name of the session's file, as the run spells it."""
        began = self.plan.began
        return self.name_format.format(
            subject=self.plan.subject.subject_id, date=began.date(), time=f"{began:%H-%M-%S}"
        )


# All agents that existed before those that compare to a threshold.
_THIRTY_AGENTS = tuple(
    alias for alias, agent in CATALOGUE.items() if agent.family is not Family.COMPARE_TO_THRESHOLD
)
_FIVE_AGENTS = (
    "QLearning_L1F1_CK1_softmax",
    "QLearning_L2F1_softmax",
    "QLearning_L2F1_CK1_softmax",
    "LossCounting",
    "WSLS",
)
_SIX_AGENTS = (*_FIVE_AGENTS, "QLearning_L1F0_softmax")
_FRAMEWORK_AGENTS = (*_FIVE_AGENTS[:3], "WSLS", "ForagingCompareThreshold")
_THRESHOLD_AGENTS = (
    "QLearning_L2F1_CK1_softmax",
    "QLearning_L2F1_CKfull_softmax",
    "ForagingCompareThreshold",
    "ForagingCompareThreshold_CK1",
    "ForagingCompareThreshold_CKfull",
)

_USUAL = "{subject}_{date}_{time}.nwb"
_PREFIXED = "behavior_{subject}_{date}_{time}.nwb"
_UNSUFFIXED = "{subject}_{date}_{time}"
_WITHOUT_TIME = "{subject}_{date}.nwb"
_UNREADABLE = "FIP_{subject}_foraging_test.nwb"


def _run_after(
    pipeline: Pipeline,
    days: float,
    aliases: tuple[str, ...],
    name_format: str = _USUAL,
    **options: Any,  # noqa: ANN401 - fields of Run
) -> Callable[[SessionPlan], Run]:
    """Return a function that returns the run over a session, some days after it."""
    fields = (pipeline, timedelta(days=days), aliases, name_format)
    return lambda plan: Run(plan, *fields, **options)


_prototype = partial(_run_after, Pipeline.PROTOTYPE)
_framework = partial(_run_after, Pipeline.FRAMEWORK, name_format=_PREFIXED)

_SCRIPTED: Mapping[Script, list[Callable[[SessionPlan], Run]]] = {
    Script.NWB_NAME_WITHOUT_TIME: [_prototype(416.3, _THIRTY_AGENTS, _WITHOUT_TIME)],
    Script.REFITTED_WITHOUT_CROSS_VALIDATION: [
        _prototype(350.7, _THIRTY_AGENTS),
        _prototype(424.2, _FIVE_AGENTS, folds=None),
    ],
    Script.TOO_SHORT_FOR_PROTOTYPE: [_prototype(320.4, _THIRTY_AGENTS)],
    Script.FAILED_FITS: [
        _prototype(262.1, _THIRTY_AGENTS, failed={"QLearning_L1F0_epsi", "LossCounting_CKfull"})
    ],
    Script.TWO_FOLDS: [_prototype(163.5, _FIVE_AGENTS, folds=2)],
    Script.FIRST_OF_TWO_ON_A_DAY: [_prototype(165.2, _SIX_AGENTS)],
    Script.SECOND_OF_TWO_ON_A_DAY: [_prototype(165.2, _SIX_AGENTS)],
    Script.PREFIXED_AND_UNSUFFIXED_NWB_NAMES: [
        _prototype(170.8, _FIVE_AGENTS, _PREFIXED),
        _prototype(201.6, _SIX_AGENTS, _UNSUFFIXED),
    ],
    Script.REFITTED_AFTER_MORE_THAN_A_YEAR: [
        _prototype(33.2, _THIRTY_AGENTS),
        _prototype(420.6, _THIRTY_AGENTS, folds=None),
    ],
    Script.NO_CROSS_VALIDATION: [_prototype(6.1, _FIVE_AGENTS, folds=None)],
    Script.UNREADABLE_NWB_NAME: [
        _prototype(4.9, _FIVE_AGENTS),
        _prototype(5.3, _FIVE_AGENTS[:2], _UNREADABLE, failed={_FIVE_AGENTS[1]}),
    ],
    Script.UNKNOWN_PROTOTYPE_FIELDS: [
        _prototype(2.4, _FIVE_AGENTS, oddities={Oddity.UNKNOWN_FIELDS}),
        _prototype(9.8, _FIVE_AGENTS, collection=PREDECESSOR),
    ],
    Script.BOTH_FORMATS_UNTRIMMED: [
        _prototype(5.6, _THIRTY_AGENTS),
        _framework(115.2, _FRAMEWORK_AGENTS),
    ],
    Script.BOTH_FORMATS: [_prototype(3.7, _FIVE_AGENTS), _framework(140.4, _FRAMEWORK_AGENTS)],
    Script.PREDECESSOR_COLLECTION: [
        _prototype(12.5, _FIVE_AGENTS),
        _prototype(8.2, _SIX_AGENTS, collection=PREDECESSOR),
    ],
    Script.TOO_SHORT_FOR_BOTH_FORMATS: [
        _prototype(7.3, _FIVE_AGENTS),
        _framework(150.9, _FRAMEWORK_AGENTS),
    ],
    Script.EARLIEST_FRAMEWORK: [_framework(3.2, _FRAMEWORK_AGENTS)],
    Script.LISTED_OUTPUTS: [_framework(6.4, _THRESHOLD_AGENTS, oddities={Oddity.LISTED_OUTPUTS})],
    Script.TWO_PROCESSES: [_framework(20.6, _THRESHOLD_AGENTS, oddities={Oddity.TWO_PROCESSES})],
    Script.TOO_SHORT_FOR_FRAMEWORK: [_framework(4.4, _FRAMEWORK_AGENTS)],
    Script.MISSING_OUTPUTS: [_framework(4.7, _FRAMEWORK_AGENTS, oddities={Oddity.MISSING_OUTPUTS})],
    Script.ZONED_TIMES: [_framework(10.3, _THRESHOLD_AGENTS, oddities={Oddity.ZONED_TIMES})],
    Script.REFITTED_BY_FRAMEWORK: [
        _framework(2.9, _FRAMEWORK_AGENTS, folds=None),
        _framework(30.1, _FRAMEWORK_AGENTS, oddities={Oddity.NAME_AS_ID}),
    ],
    Script.UNKNOWN_FRAMEWORK_FIELDS: [
        _framework(5.8, _FRAMEWORK_AGENTS, oddities={Oddity.UNKNOWN_FIELDS}),
        _framework(105.5, _THRESHOLD_AGENTS, folds=None),
    ],
}

# The prototype pipeline also analysed the sessions before its start.
_PROTOTYPE_STARTED = datetime.fromisoformat("2024-11-20")
_PROTOTYPE_FITTED_THIRTY_UNTIL = datetime.fromisoformat("2025-02-01")
_FRAMEWORK_STARTED = datetime.fromisoformat("2025-07-07")
_PREDECESSOR_STARTED = datetime.fromisoformat("2025-02-01")
_PREDECESSOR_ENDED = datetime.fromisoformat("2026-01-01")
_NOTHING_AFTER = datetime.fromisoformat("2026-08-01")
# Number of fitted models (of 30) to the number of sessions with so many in the real collection.
_MODELS_FITTED = {30: 4253, 29: 115, 28: 33, 27: 9, 26: 6, 24: 1}
_LONGEST_DELAY_DAYS = 425.0
_LATEST_REFIT_DAYS = 440.0


def plan_runs(plan: SessionPlan) -> list[Run]:
    """Return the runs over a session."""
    if plan.script is not None:
        return [run_over(plan) for run_over in _SCRIPTED[plan.script]]
    random = plan.random(Stream.RUNS)
    if plan.began >= _FRAMEWORK_STARTED:
        runs = _draw_framework_runs(plan, random)
    elif plan.began >= _PROTOTYPE_FITTED_THIRTY_UNTIL:
        runs = _draw_later_prototype_runs(plan, random)
    else:
        runs = _draw_thirty_agent_runs(plan, random)
    ends = {MODEL_FITTING: _NOTHING_AFTER, PREDECESSOR: _PREDECESSOR_ENDED}
    return [run for run in runs if run.began < ends[run.collection]]


def _draw_delay(plan: SessionPlan, random: np.random.Generator) -> float:
    """Return the number of days from the session to a run."""
    longest = min((_NOTHING_AFTER - plan.began) / timedelta(days=1) - 1.0, _LONGEST_DELAY_DAYS)
    return float(min(1.0 + random.exponential(20.0), longest))


def _days_after(plan: SessionPlan, earliest: datetime, delay: float) -> float:
    """Return a delay after which the pipeline of a run had started."""
    waiting = (earliest - plan.began) / timedelta(days=1)
    return min(max(delay, waiting + 2.0 * delay), _LONGEST_DELAY_DAYS)


def _draw_thirty_agent_runs(plan: SessionPlan, random: np.random.Generator) -> list[Run]:
    days = _days_after(plan, _PROTOTYPE_STARTED, _draw_delay(plan, random))
    if random.random() < 0.03:
        return [_spelt_by_chance(_prototype(days, _FIVE_AGENTS)(plan), random)]
    counts = np.array(list(_MODELS_FITTED.values()))
    n_models = int(random.choice(list(_MODELS_FITTED), p=counts / counts.sum()))
    missing = set(random.permutation(_THIRTY_AGENTS)[n_models:].tolist())
    first = _prototype(days, _THIRTY_AGENTS, failed=missing)(plan)
    if random.random() >= 0.5:
        present = tuple(alias for alias in _THIRTY_AGENTS if alias not in missing)
        first = replace(first, aliases=present, failed=frozenset())
    first = _spelt_by_chance(first, random)
    runs = [first]
    if random.random() < 0.4:
        delay = timedelta(days=float(random.uniform(days + 2.0, _LATEST_REFIT_DAYS)))
        aliases = _FIVE_AGENTS if random.random() < 0.2 else first.aliases
        again = replace(first, delay=delay, folds=None, failed=frozenset(), aliases=aliases)
        runs.append(again)
    return runs + _draw_second_format(plan, random)


def _draw_later_prototype_runs(plan: SessionPlan, random: np.random.Generator) -> list[Run]:
    aliases = _THIRTY_AGENTS if random.random() < 0.15 else _FIVE_AGENTS
    run = _spelt_by_chance(_prototype(_draw_delay(plan, random), aliases)(plan), random)
    if random.random() < 0.25:
        run = replace(run, folds=None)
    runs = [run]
    if random.random() < 0.15:
        days = _days_after(plan, _PREDECESSOR_STARTED, _draw_delay(plan, random))
        runs.append(_prototype(days, _FIVE_AGENTS, collection=PREDECESSOR)(plan))
    return runs + _draw_second_format(plan, random)


def _draw_framework_runs(plan: SessionPlan, random: np.random.Generator) -> list[Run]:
    run = _draw_framework_run(plan, random, _draw_delay(plan, random))
    runs = [run]
    if random.random() < 0.1:
        delay = run.delay + timedelta(days=float(random.uniform(1.0, 90.0)))
        # The other kind of cross-validation, so that the two differ in more than their time.
        runs.append(replace(run, delay=delay, folds=10 if run.folds is None else None))
    if random.random() < 0.08:
        runs.append(_prototype(_draw_delay(plan, random), _FIVE_AGENTS)(plan))
    return runs


def _draw_second_format(plan: SessionPlan, random: np.random.Generator) -> list[Run]:
    """Return a run of the framework over a session of the prototype's time, or none."""
    waiting = (_FRAMEWORK_STARTED - plan.began) / timedelta(days=1)
    if random.random() >= 0.12 or waiting > _LONGEST_DELAY_DAYS:
        return []
    return [_draw_framework_run(plan, random, float(random.uniform(waiting, _LATEST_REFIT_DAYS)))]


def _draw_framework_run(plan: SessionPlan, random: np.random.Generator, days: float) -> Run:
    aliases = _FRAMEWORK_AGENTS if random.random() < 0.7 else _THRESHOLD_AGENTS
    folds = None if random.random() < 0.35 else 10
    shares = {
        Oddity.UNKNOWN_FIELDS: 0.04,
        Oddity.ZONED_TIMES: 0.1,
        Oddity.LISTED_OUTPUTS: 0.02,
        Oddity.MISSING_OUTPUTS: 0.01,
        Oddity.TWO_PROCESSES: 0.02,
        Oddity.NAME_AS_ID: 0.1,
    }
    oddities = {oddity for oddity, share in shares.items() if random.random() < share}
    return _framework(days, aliases, folds=folds, oddities=oddities)(plan)


def _spelt_by_chance(run: Run, random: np.random.Generator) -> Run:
    """Return a prototype run with one of the spellings of the NWB name, and perhaps odd fields."""
    chance, name_format = random.random(), _USUAL
    if chance < 0.1:
        name_format = _PREFIXED
    elif chance < 0.12:
        name_format = _UNSUFFIXED
    elif chance < 0.15 and run.plan.is_only_one_of_its_day:
        name_format = _WITHOUT_TIME
    oddities = {Oddity.UNKNOWN_FIELDS} if random.random() < 0.03 else frozenset()
    return replace(run, name_format=name_format, oddities=oddities)
