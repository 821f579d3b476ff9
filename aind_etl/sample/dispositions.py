"""Dispositions: plausible parameter values of every agent, and how they drift.

Bounds limit what a fit may return; a disposition is what a simulated animal has. It has a value for
every parameter of every agent, so that the fit of each agent has a sensible starting point.
"""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from aind_etl.sample.agents import Agent, Family

Disposition: TypeAlias = Mapping[str, float]
"""A subject's parameters on one day."""

PLAUSIBLE: Mapping[str, tuple[float, float]] = {
    "learn_rate": (0.2, 0.7),
    "learn_rate_rew": (0.3, 0.9),
    "learn_rate_unrew": (0.05, 0.4),
    "forget_rate_unchosen": (0.05, 0.5),
    "choice_kernel_relative_weight": (0.05, 0.45),
    "choice_kernel_step_size": (0.2, 0.9),
    "biasL": (-0.5, 0.5),
    "softmax_inverse_temperature": (2.0, 6.0),
    "epsilon": (0.08, 0.45),
    "loss_count_threshold_mean": (1.5, 4.0),
    "loss_count_threshold_std": (0.8, 2.5),
    "threshold": (0.15, 0.55),
}
"""Lowest and highest value of each parameter among animals."""

# Loss counting adds its bias to a probability, the other families to a log-odds.
_BIAS_IN_PROBABILITY = 0.15
# How far a parameter moves from one session to the next, as a share of its plausible range.
_DRIFT = 0.04


def spread(agent: Agent) -> list[float]:
    """Return how much animals differ in each fitted parameter, in the parameter's unit."""
    return [np.ptp(PLAUSIBLE[name]) * _bias_scale(agent, name) / 4.0 for name in agent.bounds]


def disposition_for(agent: Agent, disposition: Disposition) -> dict[str, float]:
    """Return the values of the agent's fitted parameters, in the agent's units."""
    return {name: disposition[name] * _bias_scale(agent, name) for name in agent.bounds}


def _bias_scale(agent: Agent, name: str) -> float:
    in_probability = agent.family is Family.LOSS_COUNTING and name == "biasL"
    return _BIAS_IN_PROBABILITY if in_probability else 1.0


def drifting_dispositions(random: np.random.Generator, sessions: int) -> list[Disposition]:
    """Return a subject's disposition in each of its sessions.

    Parameters start anywhere in their plausible range and then drift.
    """
    low, high = np.array(list(PLAUSIBLE.values())).T
    start = random.uniform(low, high)
    steps = random.normal(0.0, _DRIFT, size=(sessions, len(PLAUSIBLE))) * (high - low)
    values = np.clip(start + np.cumsum(steps, axis=0), low, high)
    return [dict(zip(PLAUSIBLE, row, strict=True)) for row in values.tolist()]
