"""Behaviour: sessions of a two-armed foraging task, simulated trial by trial.

The task has reward probabilities that change in blocks, baiting and ignored trials. Dates of
sessions are in :mod:`aind_etl.sample.calendar`.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aind_etl.sample.agents import CATALOGUE, Family
from aind_etl.sample.calendar import SessionPlan, Stream, random_generator
from aind_etl.sample.dynamics import (
    BoolArray,
    FloatArray,
    IntArray,
    Parameters,
    start_agents,
)

_IGNORED_SHARE = 0.07
_COUPLED_PAIRS = np.array([(0.40, 0.05), (0.3857, 0.0643), (0.3375, 0.1125), (0.225, 0.225)])
_UNCOUPLED_LEVELS = np.array([0.1, 0.5, 0.9])
_COUPLED_BLOCK, _UNCOUPLED_BLOCK = (20, 60), (20, 35)


@dataclass(frozen=True)
class Session:
    """What happened in a session.

    Parameters
    ----------
    plan
        The session's place in the calendar, and its subject's disposition.
    left
        Whether the left side was chosen, [valid trials].
    rewarded
        Whether the choice was rewarded, [valid trials].
    valid_at
        Position of each valid trial among all, ignored ones too, [valid trials].
    reward_probabilities
        Probability of a reward on the left and on the right, [trials, 2].
    is_coupled
        Whether the reward probabilities of both sides changed together.
    best_rate
        Share of trials that the best a subject can do would have rewarded, about: the better side
        each time or, where rewards wait until they are collected, all that arrive.
    """

    plan: SessionPlan
    left: BoolArray
    rewarded: BoolArray
    valid_at: IntArray
    reward_probabilities: FloatArray
    is_coupled: bool
    best_rate: float

    @property
    def n_trials(self) -> int:
        """Number of valid trials."""
        return len(self.left)

    @property
    def n_ignored(self) -> int:
        """Number of trials without a response."""
        return len(self.reward_probabilities) - self.n_trials


@dataclass(frozen=True)
class _Task:
    """The random part of a session: what the task and the subject's coin will show."""

    # Whether a reward arrives at a side before each valid trial, [valid trials, 2].
    arrivals: BoolArray
    # Whether a reward waits until it is collected.
    baited: bool
    # The number below which the probability of choosing left makes a left choice.
    coins: FloatArray
    # As in Session.
    valid_at: IntArray
    reward_probabilities: FloatArray
    best_rate: float


def _reward_probabilities(random: np.random.Generator, trials: int, *, coupled: bool) -> FloatArray:
    """Return the reward probabilities of both sides, [trials, 2]."""
    if coupled:
        lengths = random.integers(*_COUPLED_BLOCK, size=trials // _COUPLED_BLOCK[0] + 1)
        pairs = random.permuted(random.choice(_COUPLED_PAIRS, size=len(lengths)), axis=1)
        return np.asarray(np.repeat(pairs, lengths, axis=0)[:trials])
    sides = []
    for _ in range(2):
        lengths = random.integers(*_UNCOUPLED_BLOCK, size=trials // _UNCOUPLED_BLOCK[0] + 1)
        levels = random.choice(_UNCOUPLED_LEVELS, size=len(lengths))
        sides.append(np.repeat(levels, lengths)[:trials])
    return np.stack(sides, axis=1)


def _prepare_task(plan: SessionPlan, seed: int) -> _Task:
    random = random_generator(seed, Stream.BEHAVIOUR, plan.index)
    ignored = random.geometric(1.0 - _IGNORED_SHARE, size=plan.valid_trials) - 1
    valid = np.cumsum(1 + ignored) - 1
    trials = int(valid[-1]) + 1
    coupled = bool(random.random() < 0.4)
    probabilities = _reward_probabilities(random, trials, coupled=coupled)
    drawn = random.random((trials, 2)) < probabilities
    # A bait laid during ignored trials is still there at the next valid one.
    first_since = np.concatenate([[0], valid[:-1] + 1])
    arrivals = np.logical_or.reduceat(drawn, first_since, axis=0) if coupled else drawn[valid]
    return _Task(
        arrivals=arrivals,
        baited=coupled,
        coins=random.random(plan.valid_trials),
        valid_at=valid,
        reward_probabilities=probabilities,
        best_rate=float((probabilities.sum if coupled else probabilities.max)(axis=1).mean()),
    )


def _play(
    family: Family, parameters: Sequence[Parameters], tasks: Sequence[_Task]
) -> list[tuple[BoolArray, BoolArray]]:
    """Return the choices and rewards of agents of one family, each in its own task.

    The tasks come longest first.
    """
    agents = start_agents(family, parameters)
    n_trials = np.array([len(task.coins) for task in tasks])
    longest, rows = int(n_trials[0]), len(tasks)
    arrivals = np.zeros((longest, rows, 2), dtype=np.bool_)
    coins = np.zeros((longest, rows))
    for row, task in enumerate(tasks):
        arrivals[: n_trials[row], row] = task.arrivals
        coins[: n_trials[row], row] = task.coins
    keeps_reward = np.array([[task.baited] for task in tasks])
    waiting = np.zeros((rows, 2), dtype=np.bool_)
    left = np.zeros((longest, rows), dtype=np.bool_)
    rewarded = np.zeros((longest, rows), dtype=np.bool_)
    active = rows
    for trial in range(longest):
        still_active = int(np.searchsorted(-n_trials, -trial))
        if still_active < active:
            active = still_active
            agents.keep(active)
        of_left, _ = agents.probabilities()
        chosen_left = coins[trial, :active] < of_left[:, 0]
        sides = np.stack([chosen_left, ~chosen_left], axis=1)
        waiting = (waiting[:active] & keeps_reward[:active]) | arrivals[trial, :active]
        collected = (waiting & sides).any(axis=1)
        waiting &= ~sides
        left[trial, :active], rewarded[trial, :active] = chosen_left, collected
        agents.learn(chosen_left, collected)
    return [
        (left[:length, row].copy(), rewarded[:length, row].copy())
        for row, length in enumerate(n_trials.tolist())
    ]


def simulate_sessions(plans: Sequence[SessionPlan], seed: int) -> list[Session]:
    """Return what happened in each of the planned sessions.

    A session's behaviour follows from the seed and its own plan, not from the sessions it is
    simulated with.

    Parameters
    ----------
    plans
        Sessions to simulate together.
    seed
        Seed of the world.
    """
    by_family: dict[Family, list[SessionPlan]] = defaultdict(list)
    for plan in sorted(plans, key=lambda plan: -plan.valid_trials):
        by_family[CATALOGUE[plan.subject.true_agent].family].append(plan)
    sessions: dict[int, Session] = {}
    for family, members in by_family.items():
        parameters = [_true_parameters(plan) for plan in members]
        tasks = [_prepare_task(plan, seed) for plan in members]
        histories = _play(family, parameters, tasks)
        for plan, task, (left, rewarded) in zip(members, tasks, histories, strict=True):
            sessions[plan.index] = Session(
                plan,
                left,
                rewarded,
                task.valid_at,
                task.reward_probabilities,
                task.baited,
                task.best_rate,
            )
    return [sessions[plan.index] for plan in plans]


def _true_parameters(plan: SessionPlan) -> Parameters:
    agent = CATALOGUE[plan.subject.true_agent]
    values = {
        **{name: plan.disposition.of(agent, name) for name in agent.bounds},
        **agent.clamped,
    }
    return {name: np.array([value], dtype=np.float64) for name, value in values.items()}


def stack_histories(sessions: Sequence[Session]) -> tuple[BoolArray, BoolArray, IntArray]:
    """Return what happened in several sessions as arrays.

    Parameters
    ----------
    sessions
        Sessions, longest first.

    Returns
    -------
    left, rewarded
        Choices and rewards, [trials, sessions], False beyond a session's end.
    n_trials
        Number of valid trials, [sessions].
    """
    n_trials = np.array([session.n_trials for session in sessions], dtype=np.int64)
    left = np.zeros((int(n_trials[0]), len(sessions)), dtype=np.bool_)
    rewarded = np.zeros_like(left)
    for column, session in enumerate(sessions):
        left[: session.n_trials, column] = session.left
        rewarded[: session.n_trials, column] = session.rewarded
    return left, rewarded, n_trials
