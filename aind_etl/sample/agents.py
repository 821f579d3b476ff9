"""The catalogue of foraging agents, and the parameters of simulated animals.

Bounds limit what a fit may return; a disposition is what a simulated animal has. It has a value for
every parameter of every agent, so that the fit of each agent has a sensible starting point.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import product, starmap
from typing import TypeAlias

import numpy as np


class Family(StrEnum):
    """A group of agents that learn and choose by the same equations."""

    SOFTMAX_Q_LEARNING = "Q-learning, softmax"
    EPSILON_GREEDY_Q_LEARNING = "Q-learning, epsilon-greedy"
    LOSS_COUNTING = "loss counting"
    COMPARE_TO_THRESHOLD = "compare to threshold"


@dataclass(frozen=True)
class Agent:
    """A foraging agent that can be fitted to a session."""

    # Such as ``QLearning_L2F1_CK1_softmax``.
    alias: str
    # The class that implements the agent, and its arguments.
    class_name: str
    family: Family
    keyword_arguments: Mapping[str, int | bool | str]
    # Lowest and highest value of every fitted parameter, in the order of the fit.
    bounds: Mapping[str, tuple[float, float]]
    # Value of every fixed parameter.
    clamped: Mapping[str, int]

    @property
    def k_model(self) -> int:
        """Number of fitted parameters."""
        return len(self.bounds)

    @property
    def has_choice_kernel(self) -> bool:
        """Whether earlier choices bias the agent's next one."""
        return self.keyword_arguments["choice_kernel"] != "none"


_UNIT_INTERVAL = (0.0, 1.0)
_SIDE_BIAS = (-5.0, 5.0)
_KERNEL_WEIGHT = {"choice_kernel_relative_weight": _UNIT_INTERVAL}
_STEP_SIZE = "choice_kernel_step_size"
# For each choice kernel the suffix of aliases, and the bounds and clamped values that it adds.
_KERNELS: Mapping[str, tuple[str, dict[str, tuple[float, float]], dict[str, int]]] = {
    "none": ("", {}, {}),
    "one_step": ("_CK1", _KERNEL_WEIGHT, {_STEP_SIZE: 1}),
    "full": ("_CKfull", _KERNEL_WEIGHT | {_STEP_SIZE: _UNIT_INTERVAL}, {}),
}


def _q_learning(learn_rates: int, forget_rates: int, kernel: str, selection: str) -> Agent:
    names = ["learn_rate"] if learn_rates == 1 else ["learn_rate_rew", "learn_rate_unrew"]
    if forget_rates:
        names.append("forget_rate_unchosen")
    kernel_suffix, kernel_bounds, clamped = _KERNELS[kernel]
    softmax = selection == "softmax"
    policy = {"softmax_inverse_temperature": (0.0, 100.0)} if softmax else {"epsilon": (0.0, 1.0)}
    suffix = kernel_suffix + ("_softmax" if softmax else "_epsi")
    rates = dict.fromkeys(names, _UNIT_INTERVAL)
    return Agent(
        alias=f"QLearning_L{learn_rates}F{forget_rates}{suffix}",
        class_name="ForagerQLearning",
        family=Family.SOFTMAX_Q_LEARNING if softmax else Family.EPSILON_GREEDY_Q_LEARNING,
        keyword_arguments={
            "number_of_learning_rate": learn_rates,
            "number_of_forget_rate": forget_rates,
            "choice_kernel": kernel,
            "action_selection": selection,
        },
        bounds={**rates, **kernel_bounds, "biasL": _SIDE_BIAS, **policy},
        clamped=clamped,
    )


def _loss_counting(win_stay_lose_switch: bool, kernel: str) -> Agent:
    suffix, kernel_bounds, clamped = _KERNELS[kernel]
    bounds = {"biasL": (-1.0, 1.0), **kernel_bounds}
    mean, deviation = "loss_count_threshold_mean", "loss_count_threshold_std"
    if win_stay_lose_switch:
        clamped = {mean: 1, deviation: 0, **clamped}
    else:
        bounds = {mean: (0.0, 10.0), deviation: (0.0, 10.0), **bounds}
    return Agent(
        alias=("WSLS" if win_stay_lose_switch else "LossCounting") + suffix,
        class_name="ForagerLossCounting",
        family=Family.LOSS_COUNTING,
        keyword_arguments={"win_stay_lose_switch": win_stay_lose_switch, "choice_kernel": kernel},
        bounds=bounds,
        clamped=clamped,
    )


def _compare_to_threshold(kernel: str) -> Agent:
    suffix, kernel_bounds, clamped = _KERNELS[kernel]
    return Agent(
        # The alias says Foraging, the class Forager: so do the real ones.
        alias=f"ForagingCompareThreshold{suffix}",
        class_name="ForagerCompareThreshold",
        family=Family.COMPARE_TO_THRESHOLD,
        keyword_arguments={"choice_kernel": kernel},
        bounds={
            "learn_rate": _UNIT_INTERVAL,
            "threshold": (-1.0, 1.0),
            "softmax_inverse_temperature": (1e-11, 100.0),
            "biasL": _SIDE_BIAS,
            **kernel_bounds,
        },
        clamped=clamped,
    )


_AGENTS = (
    *starmap(_q_learning, product((1, 2), (0, 1), _KERNELS, ("softmax", "epsilon-greedy"))),
    *starmap(_loss_counting, product((False, True), _KERNELS)),
    *map(_compare_to_threshold, _KERNELS),
)
CATALOGUE: Mapping[str, Agent] = {agent.alias: agent for agent in _AGENTS}
"""The 33 agents by alias."""

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
