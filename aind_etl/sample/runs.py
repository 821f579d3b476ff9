"""Runs: which analyses were run over which session, by which pipeline, and when.

A run is one pipeline's work on one session: it writes a document for every agent it fitted. The
module decides which oddities the documents have, other than those that follow from a run's time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

import numpy as np

from aind_etl.sample.agents import CATALOGUE, Family
from aind_etl.sample.calendar import Script, SessionPlan, Stream, random_generator

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

    pipeline: Pipeline
    # The session's file, as the run spells it.
    nwb_name: str
    # Agents to fit.
    aliases: tuple[str, ...]
    # UTC.
    began: datetime
    # Number of folds of the cross-validation; None for none.
    folds: int | None = 10
    collection: str = MODEL_FITTING
    # Agents whose fit ended in an error.
    failed: frozenset[str] = frozenset()
    oddities: frozenset[Oddity] = frozenset()


THIRTY_AGENTS = tuple(
    alias for alias, agent in CATALOGUE.items() if agent.family is not Family.COMPARE_TO_THRESHOLD
)
"""All agents that existed before those that compare to a threshold."""
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


def _nwb_name(plan: SessionPlan, form: str = _USUAL) -> str:
    return form.format(
        subject=plan.subject.subject_id,
        date=f"{plan.began:%Y-%m-%d}",
        time=f"{plan.began:%H-%M-%S}",
    )


def _prototype(plan: SessionPlan, days: float, aliases: tuple[str, ...] = _FIVE_AGENTS) -> Run:
    """Return a run of the prototype pipeline, some days after the session."""
    return Run(Pipeline.PROTOTYPE, _nwb_name(plan), aliases, plan.began + timedelta(days=days))


def _framework(plan: SessionPlan, days: float, aliases: tuple[str, ...] = _FRAMEWORK_AGENTS) -> Run:
    """Return a run of the framework, some days after the session."""
    name = _nwb_name(plan, _PREFIXED)
    return Run(Pipeline.FRAMEWORK, name, aliases, plan.began + timedelta(days=days))


def _odd(run: Run, *oddities: Oddity) -> Run:
    return replace(run, oddities=frozenset(oddities))


def _named(run: Run, plan: SessionPlan, form: str) -> Run:
    return replace(run, nwb_name=_nwb_name(plan, form))


_SCRIPTED: Mapping[Script, Callable[[SessionPlan], tuple[Run, ...]]] = {
    Script.NWB_NAME_WITHOUT_TIME: lambda plan: (
        _named(_prototype(plan, 416.3, THIRTY_AGENTS), plan, _WITHOUT_TIME),
    ),
    Script.REFITTED_WITHOUT_CROSS_VALIDATION: lambda plan: (
        _prototype(plan, 350.7, THIRTY_AGENTS),
        replace(_prototype(plan, 424.2), folds=None),
    ),
    Script.TOO_SHORT_FOR_PROTOTYPE: lambda plan: (_prototype(plan, 320.4, THIRTY_AGENTS),),
    Script.FAILED_FITS: lambda plan: (
        replace(
            _prototype(plan, 262.1, THIRTY_AGENTS),
            failed=frozenset({"QLearning_L1F0_epsi", "LossCounting_CKfull"}),
        ),
    ),
    Script.TWO_FOLDS: lambda plan: (replace(_prototype(plan, 163.5), folds=2),),
    Script.FIRST_OF_TWO_ON_A_DAY: lambda plan: (_prototype(plan, 165.2, _SIX_AGENTS),),
    Script.SECOND_OF_TWO_ON_A_DAY: lambda plan: (_prototype(plan, 165.2, _SIX_AGENTS),),
    Script.PREFIXED_AND_UNSUFFIXED_NWB_NAMES: lambda plan: (
        _named(_prototype(plan, 170.8), plan, _PREFIXED),
        _named(_prototype(plan, 201.6, _SIX_AGENTS), plan, _UNSUFFIXED),
    ),
    Script.REFITTED_AFTER_MORE_THAN_A_YEAR: lambda plan: (
        _prototype(plan, 33.2, THIRTY_AGENTS),
        replace(_prototype(plan, 420.6, THIRTY_AGENTS), folds=None),
    ),
    Script.NO_CROSS_VALIDATION: lambda plan: (replace(_prototype(plan, 6.1), folds=None),),
    Script.UNREADABLE_NWB_NAME: lambda plan: (
        _prototype(plan, 4.9),
        replace(
            _named(_prototype(plan, 5.3, _FIVE_AGENTS[:2]), plan, _UNREADABLE),
            failed=frozenset(_FIVE_AGENTS[1:2]),
        ),
    ),
    Script.UNKNOWN_PROTOTYPE_FIELDS: lambda plan: (
        _odd(_prototype(plan, 2.4), Oddity.UNKNOWN_FIELDS),
        replace(_prototype(plan, 9.8), collection=PREDECESSOR),
    ),
    Script.BOTH_FORMATS_UNTRIMMED: lambda plan: (
        _prototype(plan, 5.6, THIRTY_AGENTS),
        _framework(plan, 115.2),
    ),
    Script.BOTH_FORMATS: lambda plan: (_prototype(plan, 3.7), _framework(plan, 140.4)),
    Script.PREDECESSOR_COLLECTION: lambda plan: (
        _prototype(plan, 12.5),
        replace(_prototype(plan, 8.2, _SIX_AGENTS), collection=PREDECESSOR),
    ),
    Script.TOO_SHORT_FOR_BOTH_FORMATS: lambda plan: (
        _prototype(plan, 7.3),
        _framework(plan, 150.9),
    ),
    Script.EARLIEST_FRAMEWORK: lambda plan: (_framework(plan, 3.2),),
    Script.LISTED_OUTPUTS: lambda plan: (
        _odd(_framework(plan, 6.4, _THRESHOLD_AGENTS), Oddity.LISTED_OUTPUTS),
    ),
    Script.TWO_PROCESSES: lambda plan: (
        _odd(_framework(plan, 20.6, _THRESHOLD_AGENTS), Oddity.TWO_PROCESSES),
    ),
    Script.TOO_SHORT_FOR_FRAMEWORK: lambda plan: (_framework(plan, 4.4),),
    Script.MISSING_OUTPUTS: lambda plan: (_odd(_framework(plan, 4.7), Oddity.MISSING_OUTPUTS),),
    Script.ZONED_TIMES: lambda plan: (
        _odd(_framework(plan, 10.3, _THRESHOLD_AGENTS), Oddity.ZONED_TIMES),
    ),
    Script.REFITTED_BY_FRAMEWORK: lambda plan: (
        replace(_framework(plan, 2.9), folds=None),
        _odd(_framework(plan, 30.1), Oddity.NAME_AS_ID),
    ),
    Script.UNKNOWN_FRAMEWORK_FIELDS: lambda plan: (
        _odd(_framework(plan, 5.8), Oddity.UNKNOWN_FIELDS),
        replace(_framework(plan, 105.5, _THRESHOLD_AGENTS), folds=None),
    ),
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


def plan_runs(plan: SessionPlan, seed: int) -> tuple[Run, ...]:
    """Return the runs over a session."""
    if plan.script is not None:
        return _SCRIPTED[plan.script](plan)
    random = random_generator(seed, Stream.RUNS, plan.index)
    if plan.began >= _FRAMEWORK_STARTED:
        runs = _draw_framework_runs(plan, random)
    elif plan.began >= _PROTOTYPE_FITTED_THIRTY_UNTIL:
        runs = _draw_later_prototype_runs(plan, random)
    else:
        runs = _draw_thirty_agent_runs(plan, random)
    ends = {MODEL_FITTING: _NOTHING_AFTER, PREDECESSOR: _PREDECESSOR_ENDED}
    return tuple(run for run in runs if run.began < ends[run.collection])


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
        return [_spelt_by_chance(_prototype(plan, days), plan, random)]
    counts = np.array(list(_MODELS_FITTED.values()))
    n_models = int(random.choice(list(_MODELS_FITTED), p=counts / counts.sum()))
    missing = random.permutation(THIRTY_AGENTS)[n_models:].tolist()
    first = _prototype(plan, days, THIRTY_AGENTS)
    if random.random() < 0.5:
        first = replace(first, failed=frozenset(missing))
    else:
        present = tuple(alias for alias in THIRTY_AGENTS if alias not in missing)
        first = replace(first, aliases=present)
    first = _spelt_by_chance(first, plan, random)
    runs = [first]
    if random.random() < 0.4:
        later = float(random.uniform(days + 2.0, _LATEST_REFIT_DAYS))
        began = plan.began + timedelta(days=later)
        again = replace(first, began=began, folds=None, failed=frozenset())
        if random.random() < 0.2:
            again = replace(again, aliases=_FIVE_AGENTS)
        runs.append(again)
    return runs + _draw_second_format(plan, random)


def _draw_later_prototype_runs(plan: SessionPlan, random: np.random.Generator) -> list[Run]:
    aliases = THIRTY_AGENTS if random.random() < 0.15 else _FIVE_AGENTS
    run = _spelt_by_chance(_prototype(plan, _draw_delay(plan, random), aliases), plan, random)
    if random.random() < 0.25:
        run = replace(run, folds=None)
    runs = [run]
    if random.random() < 0.15:
        days = _days_after(plan, _PREDECESSOR_STARTED, _draw_delay(plan, random))
        runs.append(replace(_prototype(plan, days), collection=PREDECESSOR))
    return runs + _draw_second_format(plan, random)


def _draw_framework_runs(plan: SessionPlan, random: np.random.Generator) -> list[Run]:
    run = _draw_framework_run(plan, random, _draw_delay(plan, random))
    runs = [run]
    if random.random() < 0.1:
        later = run.began + timedelta(days=float(random.uniform(1.0, 90.0)))
        # The other kind of cross-validation, so that the two differ in more than their time.
        runs.append(replace(run, began=later, folds=10 if run.folds is None else None))
    if random.random() < 0.08:
        runs.append(_prototype(plan, _draw_delay(plan, random)))
    return runs


def _draw_second_format(plan: SessionPlan, random: np.random.Generator) -> list[Run]:
    """Return a run of the framework over a session of the prototype's time, or none."""
    waiting = (_FRAMEWORK_STARTED - plan.began) / timedelta(days=1)
    if random.random() >= 0.12 or waiting > _LONGEST_DELAY_DAYS:
        return []
    return [_draw_framework_run(plan, random, float(random.uniform(waiting, _LATEST_REFIT_DAYS)))]


def _draw_framework_run(plan: SessionPlan, random: np.random.Generator, days: float) -> Run:
    aliases = _FRAMEWORK_AGENTS if random.random() < 0.7 else _THRESHOLD_AGENTS
    run = _framework(plan, days, aliases)
    if random.random() < 0.35:
        run = replace(run, folds=None)
    shares = {
        Oddity.UNKNOWN_FIELDS: 0.04,
        Oddity.ZONED_TIMES: 0.1,
        Oddity.LISTED_OUTPUTS: 0.02,
        Oddity.MISSING_OUTPUTS: 0.01,
        Oddity.TWO_PROCESSES: 0.02,
        Oddity.NAME_AS_ID: 0.1,
    }
    return _odd(run, *(oddity for oddity, share in shares.items() if random.random() < share))


def _spelt_by_chance(run: Run, plan: SessionPlan, random: np.random.Generator) -> Run:
    """Return a prototype run with one of the spellings of the NWB name, and perhaps odd fields."""
    chance = random.random()
    if chance < 0.1:
        run = _named(run, plan, _PREFIXED)
    elif chance < 0.12:
        run = _named(run, plan, _UNSUFFIXED)
    elif chance < 0.15 and plan.is_only_one_of_its_day:
        run = _named(run, plan, _WITHOUT_TIME)
    return _odd(run, Oddity.UNKNOWN_FIELDS) if random.random() < 0.03 else _odd(run)
