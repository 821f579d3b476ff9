"""Behaviour: sessions of a two-armed foraging task, simulated trial by trial.

The task has reward probabilities that change in blocks, baiting and ignored trials. Dates of
sessions are in :mod:`aind_etl.sample.calendar`.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from aind_etl.sample.agents import CATALOGUE, Family, disposition_for
from aind_etl.sample.calendar import SessionPlan, Stream
from aind_etl.sample.dynamics import BoolArray, FloatArray, IntArray, stack, start_agents

_IGNORED_SHARE = 0.07
_COUPLED_PAIRS = np.array([(0.40, 0.05), (0.3857, 0.0643), (0.3375, 0.1125), (0.225, 0.225)])
_UNCOUPLED_LEVELS = np.array([0.1, 0.5, 0.9])
_COUPLED_BLOCK, _UNCOUPLED_BLOCK = (20, 60), (20, 35)


@dataclass(frozen=True)
class Task:
    """What a session was going to be, whatever the subject does."""

    # Index of each valid trial among all trials, ignored ones included, [valid trials].
    valid_at: IntArray
    # Probability of a reward on the left and on the right, [trials, 2].
    reward_probabilities: FloatArray
    # Whether the probabilities of both sides changed together, and rewards waited to be collected.
    is_coupled: bool
    # Whether a reward arrives at a side before each valid trial, [valid trials, 2].
    arrivals: BoolArray
    # The subject chooses left if its probability of left is above this number, [valid trials].
    coins: FloatArray

    @property
    def best_rate(self) -> float:
        """About the share of trials in which the best possible subject would be rewarded.

        It takes always the better side or, if rewards wait, every reward.
        """
        best = np.sum if self.is_coupled else np.max
        return float(best(self.reward_probabilities, axis=1).mean())


@dataclass(frozen=True)
class Session:
    """What happened in a session."""

    plan: SessionPlan
    task: Task
    # Whether left was chosen, and whether the choice was rewarded, [valid trials].
    left: BoolArray
    rewarded: BoolArray

    @property
    def n_trials(self) -> int:
        """Number of valid trials."""
        return len(self.left)

    @property
    def n_ignored(self) -> int:
        """Number of trials without a response."""
        return len(self.task.reward_probabilities) - self.n_trials


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


def _prepare_task(plan: SessionPlan) -> Task:
    random = plan.random(Stream.BEHAVIOUR)
    ignored = random.geometric(1.0 - _IGNORED_SHARE, size=plan.valid_trials) - 1
    valid = np.cumsum(1 + ignored) - 1
    trials = int(valid[-1]) + 1
    coupled = bool(random.random() < 0.4)
    probabilities = _reward_probabilities(random, trials, coupled=coupled)
    drawn = random.random((trials, 2)) < probabilities
    # A reward that arrives during ignored trials waits for the next valid one.
    first_since = np.concatenate([[0], valid[:-1] + 1])
    arrivals = np.logical_or.reduceat(drawn, first_since, axis=0) if coupled else drawn[valid]
    return Task(valid, probabilities, coupled, arrivals, random.random(plan.valid_trials))


def _play(family: Family, plans: Sequence[SessionPlan]) -> Iterator[Session]:
    """Yield the sessions of agents of one family, longest first, each in its own task."""
    agents = start_agents(family, [_true_parameters(plan) for plan in plans])
    tasks = list(map(_prepare_task, plans))
    n_trials = np.array([len(task.coins) for task in tasks])
    arrivals = stack([task.arrivals for task in tasks])
    coins = stack([task.coins for task in tasks])
    keeps_reward = np.array([[task.is_coupled] for task in tasks])
    waiting = np.zeros((len(tasks), 2), dtype=np.bool_)
    left = np.zeros(coins.shape, dtype=np.bool_)
    rewarded = np.zeros_like(left)
    for trial in range(len(left)):
        active = agents.keep_active(n_trials, trial)
        of_left, _ = agents.probabilities()
        chosen_left = coins[trial, :active] < of_left[:, 0]
        sides = np.stack([chosen_left, ~chosen_left], axis=1)
        waiting = (waiting[:active] & keeps_reward[:active]) | arrivals[trial, :active]
        collected = (waiting & sides).any(axis=1)
        waiting &= ~sides
        left[trial, :active], rewarded[trial, :active] = chosen_left, collected
        agents.learn(chosen_left, collected)
    for row, (plan, task) in enumerate(zip(plans, tasks, strict=True)):
        length = len(task.coins)
        yield Session(plan, task, left[:length, row].copy(), rewarded[:length, row].copy())


def _true_parameters(plan: SessionPlan) -> dict[str, FloatArray]:
    agent = CATALOGUE[plan.subject.true_agent]
    values = disposition_for(agent, plan.disposition) | dict(agent.clamped)
    return {name: np.array([value], dtype=np.float64) for name, value in values.items()}


def simulate_sessions(plans: Sequence[SessionPlan]) -> list[Session]:
    """Return what happens in each of the planned sessions, in the order of their numbers.

    It depends on the session's own plan, not on the other sessions.
    """
    by_family: dict[Family, list[SessionPlan]] = defaultdict(list)
    for plan in sorted(plans, key=lambda plan: -plan.valid_trials):
        by_family[CATALOGUE[plan.subject.true_agent].family].append(plan)
    sessions = [one for family, members in by_family.items() for one in _play(family, members)]
    return sorted(sessions, key=lambda session: session.plan.index)
