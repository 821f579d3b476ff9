"""Fits: a cheap maximum likelihood of every agent for every session, with cross-validation.

A fit draws parameter candidates, some near the subject's disposition and some anywhere within
the bounds, takes the most likely one, and searches once more close to it. Everything recorded of a
fit (information criteria, likelihoods per trial, accuracies) follows from the probabilities of the
choices, so that all numbers agree with each other and with the latent variables.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aind_etl.sample.agents import CATALOGUE, Agent, Family
from aind_etl.sample.calendar import Stream, random_generator
from aind_etl.sample.dispositions import spread
from aind_etl.sample.dynamics import (
    SMALLEST_PROBABILITY,
    FloatArray,
    IntArray,
    Parameters,
    run_over_histories,
    start_agents,
)
from aind_etl.sample.sessions import Session, stack_histories

_POPULATION = 16
_POLISHING = 12
# Number of the population that are drawn from anywhere within the bounds.
_ANYWHERE = 4
# No animal's choices are steeper; candidates above would be wasted.
_STEEPEST_CANDIDATE = 25.0
_POLISHING_SCALE = 0.25
# Rows evaluated together: enough to make a step cheap, few enough for the memory.
_ROWS_TOGETHER = 256


@dataclass(frozen=True)
class CrossValidation:
    """How well fits to parts of a session predict the rest, one value per fold.

    Parameters
    ----------
    prediction_accuracy_test, prediction_accuracy_fit
        Share of predicted choices among the held-out and the fitted trials.
    prediction_accuracy_test_bias_only
        The same for held-out trials, if the side chosen more often in the fitted trials is always
        predicted.
    likelihood_test, likelihood_fit
        Likelihood per trial, exp(LL / n), of the held-out and the fitted trials.
    """

    prediction_accuracy_test: list[float]
    prediction_accuracy_fit: list[float]
    prediction_accuracy_test_bias_only: list[float]
    likelihood_test: list[float]
    likelihood_fit: list[float]


@dataclass(frozen=True)
class Fit:
    """An agent fitted to a session.

    Parameters
    ----------
    n_trials
        Number of valid trials.
    params
        The best parameters, fitted first, then clamped.
    log_likelihood
        Natural logarithm of the probability of all choices under ``params``.
    prediction_accuracy
        Share of choices that were the more likely ones; at even odds the model predicts left.
    params_without_polishing, log_likelihood_without_polishing
        The same before the search close to the best candidate.
    evaluations, iterations, converged
        What the optimizer reports.
    population, energies
        The fitted parameters of all candidates, [candidates, k], and their negative
        log-likelihoods, [candidates].
    """

    agent: Agent
    n_trials: int
    params: Mapping[str, float]
    log_likelihood: float
    prediction_accuracy: float
    params_without_polishing: Mapping[str, float]
    log_likelihood_without_polishing: float
    evaluations: int
    iterations: int
    converged: bool
    population: FloatArray
    energies: FloatArray
    cross_validation: CrossValidation | None

    @property
    def aic(self) -> float:
        """Akaike's information criterion, 2 k - 2 LL (Akaike 1974)."""
        return 2.0 * self.agent.k_model - 2.0 * self.log_likelihood

    @property
    def bic(self) -> float:
        """Bayesian information criterion, k ln n - 2 LL (Schwarz 1978)."""
        return self.agent.k_model * math.log(self.n_trials) - 2.0 * self.log_likelihood

    @property
    def likelihood_per_trial(self) -> float:
        """Geometric mean of the choices' probabilities, exp(LL / n)."""
        return math.exp(self.log_likelihood / self.n_trials)

    @property
    def likelihood_per_trial_aic(self) -> float:
        """Likelihood per trial with AIC's penalty, exp(-AIC / 2n)."""
        return math.exp(-self.aic / 2.0 / self.n_trials)

    @property
    def likelihood_per_trial_bic(self) -> float:
        """Likelihood per trial with BIC's penalty, exp(-BIC / 2n)."""
        return math.exp(-self.bic / 2.0 / self.n_trials)


@dataclass(frozen=True)
class FitRequest:
    """Which agents to fit to a session, and the number of folds of the cross-validation."""

    session: Session
    aliases: tuple[str, ...]
    folds: int | None


@dataclass(frozen=True)
class _Row:
    """An agent to fit to a session, with all random numbers of the fit."""

    session: Session
    agent: Agent
    folds: int | None
    # Standard normal and uniform numbers, [candidates, parameters].
    normal: FloatArray
    uniform: FloatArray
    # The order in which trials are assigned to folds.
    order: IntArray
    # Evaluations, iterations, and whether the fit converged.
    effort: tuple[int, int, bool]

    @property
    def n_trials(self) -> int:
        return self.session.n_trials


@dataclass(frozen=True)
class _Evaluation:
    """How well candidates do: in total, [candidates], and per fold, [folds, candidates]."""

    log_likelihood: FloatArray
    correct: FloatArray
    log_likelihood_by_fold: FloatArray
    correct_by_fold: FloatArray


def _draw_rows(request: FitRequest, seed: int) -> Iterator[_Row]:
    random = random_generator(seed, Stream.FITS, request.session.plan.index)
    n_trials = request.session.n_trials
    for alias in sorted(request.aliases):
        agent = CATALOGUE[alias]
        iterations = int(random.integers(12, 140))
        polishing = int(random.integers(5, 60))
        evaluations = 16 * agent.k_model * (iterations + 1) + polishing * (agent.k_model + 1)
        yield _Row(
            session=request.session,
            agent=agent,
            folds=request.folds,
            normal=random.standard_normal((_POPULATION + _POLISHING, agent.k_model)),
            uniform=random.random((_ANYWHERE, agent.k_model)),
            order=random.permutation(n_trials),
            effort=(evaluations, iterations, bool(random.random() < 0.97)),
        )


def _bounds(agent: Agent) -> tuple[FloatArray, FloatArray]:
    low, high = np.array(list(agent.bounds.values())).T
    return low, high


def _first_candidates(row: _Row) -> FloatArray:
    """Return candidates around the subject's disposition and from anywhere, [candidates, k]."""
    low, high = _bounds(row.agent)
    names = list(row.agent.bounds)
    centre = np.array([row.session.plan.disposition.of(row.agent, name) for name in names])
    scale = np.array([spread(row.agent, name) for name in names])
    # The first candidate is the disposition itself.
    reach = np.linspace(0.0, 2.0, _POPULATION - _ANYWHERE)[:, np.newaxis]
    near = centre + row.normal[: len(reach)] * scale * reach
    anywhere = low + row.uniform * (np.minimum(high, _STEEPEST_CANDIDATE) - low)
    candidates: FloatArray = np.concatenate([near, anywhere])
    return candidates.clip(low, high)


def _polishing_candidates(row: _Row, best: FloatArray) -> FloatArray:
    """Return candidates close to the best one, [candidates, k]."""
    low, high = _bounds(row.agent)
    scale = np.array([spread(row.agent, name) for name in row.agent.bounds])
    reach = np.linspace(0.2, 2.0, _POLISHING)[:, np.newaxis] * _POLISHING_SCALE
    # Steps beyond a bound end on it, as in a gradient search.
    candidates: FloatArray = best + row.normal[_POPULATION:] * scale * reach
    return candidates.clip(low, high)


def _named(agent: Agent, candidates: FloatArray) -> dict[str, FloatArray]:
    """Return every parameter's values, [candidates], from the fitted ones, [candidates, k]."""
    fitted = dict(zip(agent.bounds, candidates.T, strict=True))
    return fitted | {
        name: np.full(len(candidates), float(value)) for name, value in agent.clamped.items()
    }


def _fold_starts(n_trials: int, folds: int) -> IntArray:
    """Return the start of each fold: equal lengths, and the remainder in the last."""
    return np.arange(folds) * (n_trials // folds)


def _evaluate(rows: Sequence[_Row], candidates: Sequence[FloatArray]) -> list[_Evaluation]:
    """Run all candidates of rows of one family, longest first."""
    left, rewarded, n_trials = stack_histories([row.session for row in rows])
    parameters: list[Parameters] = [
        _named(row.agent, values) for row, values in zip(rows, candidates, strict=True)
    ]
    agents = start_agents(rows[0].agent.family, parameters)
    probabilities = run_over_histories(agents, left, rewarded, n_trials)
    return [
        _summarise(row, probabilities[number, : row.n_trials]) for number, row in enumerate(rows)
    ]


def _summarise(row: _Row, probability: FloatArray) -> _Evaluation:
    """Return log-likelihoods and correct predictions from the choices' probabilities."""
    logarithm = np.log(np.where(probability <= 0.0, SMALLEST_PROBABILITY, probability))
    tie = (probability == 0.5) & row.session.left[:, np.newaxis]
    correct = ((probability > 0.5) | tie).astype(np.float64)
    starts = _fold_starts(row.n_trials, row.folds or 1)
    return _Evaluation(
        logarithm.sum(axis=0),
        correct.sum(axis=0),
        np.add.reduceat(logarithm[row.order], starts, axis=0),
        np.add.reduceat(correct[row.order], starts, axis=0),
    )


def _cross_validate(row: _Row, folds: int, tried: Sequence[_Evaluation]) -> CrossValidation:
    """Return how well the best candidate of the other folds does on each fold."""
    test_likelihoods = np.concatenate([one.log_likelihood_by_fold for one in tried], axis=1)
    test_correct = np.concatenate([one.correct_by_fold for one in tried], axis=1)
    fit_likelihoods = test_likelihoods.sum(axis=0) - test_likelihoods
    fit_correct = test_correct.sum(axis=0) - test_correct
    best = np.argmax(fit_likelihoods, axis=1)
    fold = np.arange(folds)
    starts = _fold_starts(row.n_trials, folds)
    n_test = np.diff(starts, append=row.n_trials)
    n_fit = row.n_trials - n_test
    left_test = np.add.reduceat(row.session.left[row.order].astype(np.int64), starts)
    left_fit = left_test.sum() - left_test
    by_bias = np.where(2 * left_fit >= n_fit, left_test, n_test - left_test)
    return CrossValidation(
        prediction_accuracy_test=(test_correct[fold, best] / n_test).tolist(),
        prediction_accuracy_fit=(fit_correct[fold, best] / n_fit).tolist(),
        prediction_accuracy_test_bias_only=(by_bias / n_test).tolist(),
        likelihood_test=np.exp(test_likelihoods[fold, best] / n_test).tolist(),
        likelihood_fit=np.exp(fit_likelihoods[fold, best] / n_fit).tolist(),
    )


def _fit_rows(rows: Sequence[_Row]) -> Iterator[Fit]:
    """Yield the fits of rows of one family, longest first."""
    population = [_first_candidates(row) for row in rows]
    first = _evaluate(rows, population)
    best = [int(np.argmax(one.log_likelihood)) for one in first]
    polishing = [
        _polishing_candidates(row, values[number])
        for row, values, number in zip(rows, population, best, strict=True)
    ]
    second = _evaluate(rows, polishing)
    for row, values, more_values, one, two, number in zip(
        rows, population, polishing, first, second, best, strict=True
    ):
        winner, winners, place = one, values, number
        polished = int(np.argmax(two.log_likelihood))
        if two.log_likelihood[polished] > one.log_likelihood[number]:
            winner, winners, place = two, more_values, polished
        evaluations, iterations, converged = row.effort
        yield Fit(
            agent=row.agent,
            n_trials=row.n_trials,
            params=_parameters_of(row.agent, winners[place]),
            log_likelihood=float(winner.log_likelihood[place]),
            prediction_accuracy=float(winner.correct[place]) / row.n_trials,
            params_without_polishing=_parameters_of(row.agent, values[number]),
            log_likelihood_without_polishing=float(one.log_likelihood[number]),
            evaluations=evaluations,
            iterations=iterations,
            converged=converged,
            population=values,
            energies=-one.log_likelihood,
            cross_validation=_cross_validate(row, row.folds, (one, two)) if row.folds else None,
        )


def _parameters_of(agent: Agent, fitted: FloatArray) -> dict[str, float]:
    values = [*fitted.tolist(), *map(float, agent.clamped.values())]
    return dict(zip(agent.parameter_names, values, strict=True))


def fit_agents(requests: Sequence[FitRequest], seed: int) -> dict[tuple[int, str], Fit]:
    """Return the fits by session number and agent alias.

    A fit depends on the seed and its own session and agents, not on the other sessions.
    """
    by_family: dict[Family, list[_Row]] = defaultdict(list)
    for request in requests:
        for row in _draw_rows(request, seed):
            by_family[row.agent.family].append(row)
    fits: dict[tuple[int, str], Fit] = {}
    for members in by_family.values():
        members.sort(key=lambda row: -row.n_trials)
        for start in range(0, len(members), _ROWS_TOGETHER):
            rows = members[start : start + _ROWS_TOGETHER]
            for row, fit in zip(rows, _fit_rows(rows), strict=True):
                fits[row.session.plan.index, row.agent.alias] = fit
    return fits
