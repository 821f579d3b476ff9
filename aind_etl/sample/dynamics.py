"""How foraging agents choose and learn, for many sessions and parameter candidates at a time.

The module holds the equations of the four families and the loops over a history of choices and
rewards. A *row* is a session under an agent, with several *candidates* of parameters. Rows are
sorted by their number of trials, longest first.

The equations are those of the agents' published implementation: reward-dependent learning and
forgetting of the unchosen side (Hattori et al. 2019), choice kernels (Bari et al. 2019; Wilson
and Collins 2019), loss counting, and comparing a single value to a threshold.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from aind_etl.sample.agents import PLAUSIBLE, Family

FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
IntArray: TypeAlias = npt.NDArray[np.int64]
Parameters: TypeAlias = Mapping[str, FloatArray]
"""Parameter name to its values, shape [candidates]; several rows stacked, [rows, candidates]."""
Latents: TypeAlias = dict[str, FloatArray | BoolArray]
"""Latent variables by name; the last axis is trials."""
_Value = TypeVar("_Value", bound=np.generic)

# The probability of an impossible choice: the log-likelihood then shows how many there are.
SMALLEST_PROBABILITY = 1e-16

_LEFT, _RIGHT = 0, 1
_SIDES = 2


class Dynamics(ABC):
    """The state of many agents of one family between two trials.

    Every array of the state has the axes [..., rows, candidates] or [..., rows, 1], and every
    parameter of all families is [rows, candidates].
    """

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = dict(parameters)
        self._rows, self._candidates = parameters["biasL"].shape
        # Of both sides, left first.
        self.choice_kernel = np.zeros((_SIDES, self._rows, self._candidates))
        self._previous_left: BoolArray | None = None

    @abstractmethod
    def probabilities(self) -> tuple[FloatArray, FloatArray]:
        """Return the probabilities of choosing left and right, each [rows, candidates]."""

    @abstractmethod
    def _learn(self, left: BoolArray, rewarded: BoolArray) -> None:
        """Update the family's own state; ``left`` and ``rewarded`` are [rows, 1]."""

    @abstractmethod
    def latents(self) -> dict[str, FloatArray]:
        """Return the family's own latent variables, each [..., rows, candidates]."""

    def learn(self, left: BoolArray, rewarded: BoolArray) -> None:
        """Update the agents after a trial: whether left was chosen and rewarded, each [rows]."""
        left = left[:, np.newaxis]
        self._learn(left, rewarded[:, np.newaxis])
        error = np.stack([left, ~left]).astype(np.float64) - self.choice_kernel
        step_size = self._parameters["choice_kernel_step_size"]
        self.choice_kernel = self.choice_kernel + step_size * error
        self._previous_left = left

    def keep_active(self, n_trials: IntArray, trial: int) -> int:
        """Drop the rows that have no trial at an index, and return how many are left."""
        rows = int(np.searchsorted(-n_trials, -trial))
        if rows != self._rows:
            self._rows = rows
            self._parameters = {name: values[:rows] for name, values in self._parameters.items()}
            for name, value in vars(self).items():
                if isinstance(value, np.ndarray):
                    setattr(self, name, value[..., :rows, :])
        return rows

    def _switched(self, left: BoolArray) -> BoolArray:
        """Return whether the side differs from the one before, which it does in the first trial."""
        if self._previous_left is None:
            return np.ones_like(left)
        return np.not_equal(left, self._previous_left)

    def _even_odds(self) -> tuple[FloatArray, FloatArray]:
        half = np.full((self._rows, self._candidates), 0.5)
        return half, half


class _QLearning(Dynamics):
    """One value per side; subclasses define how values become choices."""

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        rewarded, unrewarded = parameters["learn_rate_rew"], parameters["learn_rate_unrew"]
        # How a side's value changes, by the side's role in the trial: not chosen, chosen without
        # a reward, chosen and rewarded.
        self._retained = np.stack(
            [1.0 - parameters["forget_rate_unchosen"], 1.0 - unrewarded, 1.0 - rewarded]
        )
        self._gained = np.stack([np.zeros_like(rewarded), np.zeros_like(rewarded), rewarded])
        self._q_value = np.zeros((_SIDES, self._rows, self._candidates))

    def _learn(self, left: BoolArray, rewarded: BoolArray) -> None:
        role = 1 + rewarded[:, 0].astype(np.intp)
        roles = np.stack([np.where(left[:, 0], role, 0), np.where(left[:, 0], 0, role)])
        rows = np.arange(self._rows)
        self._q_value = self._q_value * self._retained[roles, rows] + self._gained[roles, rows]

    def latents(self) -> dict[str, FloatArray]:
        return {"q_value": self._q_value}

    def _preference_for_left(self) -> FloatArray:
        """Return the difference of the sides' values, choice kernel included."""
        weight = self._parameters["choice_kernel_relative_weight"]
        by_value: FloatArray = self._q_value[_LEFT] - self._q_value[_RIGHT]
        by_kernel: FloatArray = weight * (self.choice_kernel[_LEFT] - self.choice_kernel[_RIGHT])
        return by_value + by_kernel


class _SoftmaxQLearning(_QLearning):
    """The better side is more likely, the more so the lower the temperature."""

    def probabilities(self) -> tuple[FloatArray, FloatArray]:
        inverse_temperature = self._parameters["softmax_inverse_temperature"]
        logit = inverse_temperature * self._preference_for_left() + self._parameters["biasL"]
        # The bounds keep the logit within ±205, far from overflow. This form of the right side's
        # probability stays exact where 1 - left would round to zero.
        odds_of_right = np.exp(-logit)
        left = 1.0 / (1.0 + odds_of_right)
        return left, odds_of_right * left


class _EpsilonGreedyQLearning(_QLearning):
    """The better side, except for a share of random choices."""

    def probabilities(self) -> tuple[FloatArray, FloatArray]:
        advantage = self._preference_for_left() + self._parameters["biasL"]
        worse = self._parameters["epsilon"] / 2.0
        left = np.where(advantage > 0.0, 1.0 - worse, np.where(advantage < 0.0, worse, 0.5))
        right = np.where(advantage > 0.0, worse, np.where(advantage < 0.0, 1.0 - worse, 0.5))
        return left, right


_error_function = np.vectorize(math.erf, otypes=[np.float64])


class _LossCounting(Dynamics):
    """Stay until the losses in a row reach a threshold, drawn from a normal in each trial."""

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        self._loss_count = np.zeros((self._rows, 1), dtype=np.int64)
        # The probability of switching at each loss count met so far, [counts, rows, candidates].
        self._switching = np.empty((0, self._rows, self._candidates))

    def _switching_at(self, loss_count: int) -> FloatArray:
        """Return the probability that a drawn threshold is at most ``loss_count``."""
        # The two small numbers are the published model's: "at least" for a threshold that is a
        # whole number, and no division by zero for a standard deviation of zero.
        mean = self._parameters["loss_count_threshold_mean"] - 1e-10
        deviation = self._parameters["loss_count_threshold_std"] + 1e-16
        standardised = (loss_count - mean) / deviation / math.sqrt(2.0)
        switching: FloatArray = 0.5 * (1.0 + _error_function(standardised))
        return switching

    def probabilities(self) -> tuple[FloatArray, FloatArray]:
        if self._previous_left is None:
            return self._even_odds()
        known, highest = len(self._switching), int(self._loss_count.max())
        if highest >= known:
            more = [self._switching_at(count) for count in range(known, highest + 1)]
            self._switching = np.concatenate([self._switching, np.stack(more)])
        switching = self._switching[self._loss_count[:, 0], np.arange(self._rows)]
        kernel = self.choice_kernel
        by_kernel = 1.0 / (1.0 + np.exp(kernel[_RIGHT] - kernel[_LEFT])) - 0.5
        left = (
            np.where(self._previous_left, 1.0 - switching, switching)
            + by_kernel * self._parameters["choice_kernel_relative_weight"]
            + self._parameters["biasL"]
        )
        left = np.clip(left, 0.0, 1.0)
        return left, 1.0 - left

    def _learn(self, left: BoolArray, rewarded: BoolArray) -> None:
        counted = np.where(self._switched(left), 1, self._loss_count + 1)
        self._loss_count = np.where(rewarded, 0, counted)

    def latents(self) -> dict[str, FloatArray]:
        shape = (self._rows, self._candidates)
        return {"loss_count": np.broadcast_to(self._loss_count, shape).astype(float)}


class _CompareToThreshold(Dynamics):
    """Stay while the value of the present side is above a threshold, else leave."""

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        self._value = parameters["threshold"]

    def _logit_of_staying(self) -> FloatArray:
        advantage = self._value - self._parameters["threshold"]
        return self._parameters["softmax_inverse_temperature"] * advantage

    def _staying(self) -> FloatArray:
        """Return the probability of staying, the bias towards left included."""
        logit = self._logit_of_staying()
        if self._previous_left is not None:
            logit = logit + np.where(self._previous_left, self._parameters["biasL"], 0.0)
        return 1.0 / (1.0 + np.exp(-logit))

    def probabilities(self) -> tuple[FloatArray, FloatArray]:
        if self._previous_left is None:
            return self._even_odds()
        stay, was_left = self._staying(), self._previous_left
        weight, kernel = self._parameters["choice_kernel_relative_weight"], self.choice_kernel
        left = (1.0 - weight) * np.where(was_left, stay, 1.0 - stay) + weight * kernel[_LEFT]
        right = (1.0 - weight) * np.where(was_left, 1.0 - stay, stay) + weight * kernel[_RIGHT]
        # Both are zero only if a kernel that never moves has all the weight: the odds are even.
        total = left + right
        undecided = total <= 0.0
        total = np.where(undecided, 1.0, total)
        return np.where(undecided, 0.5, left / total), np.where(undecided, 0.5, right / total)

    def _learn(self, left: BoolArray, rewarded: BoolArray) -> None:
        before = np.where(self._switched(left), self._parameters["threshold"], self._value)
        error = rewarded.astype(np.float64) - before
        self._value = before + self._parameters["learn_rate"] * error

    def latents(self) -> dict[str, FloatArray]:
        return {
            "value": self._value,
            "threshold": self._parameters["threshold"],
            "staying": self._staying(),
            "p_exploit": 1.0 / (1.0 + np.exp(-self._logit_of_staying())),
        }


_FAMILIES: Mapping[Family, type[Dynamics]] = {
    Family.SOFTMAX_Q_LEARNING: _SoftmaxQLearning,
    Family.EPSILON_GREEDY_Q_LEARNING: _EpsilonGreedyQLearning,
    Family.LOSS_COUNTING: _LossCounting,
    Family.COMPARE_TO_THRESHOLD: _CompareToThreshold,
}


def start_agents(family: Family, rows: Sequence[Parameters]) -> Dynamics:
    """Return agents before their first trial, from each row's parameters, [candidates].

    A parameter that a row's agent does not have is neutral: no forgetting, no choice kernel;
    a single learning rate applies to rewarded and unrewarded trials.
    """
    neutral = np.zeros_like(rows[0]["biasL"])
    rates = ("learn_rate_rew", "learn_rate_unrew")
    rows = [{**dict.fromkeys(rates, row.get("learn_rate", neutral)), **row} for row in rows]
    parameters = {name: np.stack([row.get(name, neutral) for row in rows]) for name in PLAUSIBLE}
    return _FAMILIES[family](parameters)


def stack(histories: Sequence[npt.NDArray[_Value]]) -> npt.NDArray[_Value]:
    """Return each row's values, [its trials, ...], as [trials, rows, ...]; zero beyond its end."""
    longest = histories[0]
    stacked = np.zeros((len(longest), len(histories), *longest.shape[1:]), longest.dtype)
    for row, values in enumerate(histories):
        stacked[: len(values), row] = values
    return stacked


def run_over_histories(
    family: Family,
    rows: Sequence[Parameters],
    left: Sequence[BoolArray],
    rewarded: Sequence[BoolArray],
) -> list[FloatArray]:
    """Return the probability that agents gave to each choice, for every row [trials, candidates].

    ``left`` and ``rewarded`` are the choices and rewards of every row, [trials].
    """
    agents = start_agents(family, rows)
    n_trials = np.array(list(map(len, left)))
    choices, rewards = stack(left), stack(rewarded)
    probability = np.ones((len(left), len(choices), agents.choice_kernel.shape[-1]))
    for trial in range(len(choices)):
        active = agents.keep_active(n_trials, trial)
        chosen_left = choices[trial, :active]
        of_left, of_right = agents.probabilities()
        probability[:active, trial] = np.where(chosen_left[:, np.newaxis], of_left, of_right)
        agents.learn(chosen_left, rewards[trial, :active])
    return [values[:n] for values, n in zip(probability, n_trials, strict=True)]


def record_latents(
    family: Family,
    rows: Sequence[Parameters],
    left: Sequence[BoolArray],
    rewarded: Sequence[BoolArray],
) -> list[dict[str, FloatArray]]:
    """Return the latent variables of every row, with one candidate of parameters each.

    A row of n trials has ``choice_prob`` [2, n], ``choice_kernel`` [2, n + 1], the family's own
    variables, [n + 1] or [2, n + 1], and, for agents that compare to a threshold, the probability
    of ``staying`` [n].
    """
    agents = start_agents(family, rows)
    n_trials = np.array(list(map(len, left)))
    choices, rewards = stack(left), stack(rewarded)
    longest = len(choices)
    recorded: dict[str, FloatArray] = {}
    for trial in range(longest + 1):
        # A row's state is recorded once more after its last trial.
        active = agents.keep_active(n_trials, trial - 1)
        state = agents.latents() | {"choice_kernel": agents.choice_kernel}
        if trial < longest:
            state["choice_prob"] = np.stack(agents.probabilities())
            agents.learn(choices[trial, :active], rewards[trial, :active])
        for name, value in state.items():
            if name not in recorded:
                recorded[name] = np.full((*value.shape[:-2], len(rows), longest + 1), np.nan)
            recorded[name][..., :active, trial] = value[..., 0]
    before_trials_only = {"choice_prob", "staying"}
    return [
        {
            name: values[..., row, : length + (name not in before_trials_only)]
            for name, values in recorded.items()
        }
        for row, length in enumerate(n_trials.tolist())
    ]
