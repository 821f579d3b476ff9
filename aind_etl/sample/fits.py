"""Fits: a cheap maximum likelihood of every agent for every session, with cross-validation.

A fit draws parameter candidates, some near the subject's disposition and some anywhere within
the bounds, takes the most likely one, and searches once more close to it. Everything recorded of a
fit (information criteria, likelihoods per trial, accuracies) follows from the probabilities of the
choices, so that all numbers agree with each other and with the latent variables.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from aind_etl.sample.agents import CATALOGUE, Agent, Family
from aind_etl.sample.calendar import Stream, random_generator
from aind_etl.sample.dispositions import disposition_for, spread
from aind_etl.sample.dynamics import (
    SMALLEST_PROBABILITY,
    FloatArray,
    IntArray,
    Latents,
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
class Fit:
    """An agent fitted to a session.

    Parameters
    ----------
    params
        The best parameters, fitted first, then clamped.
    log_likelihood
        Natural logarithm of the probability of all choices under ``params``.
    prediction_accuracy
        Share of choices that were the more likely ones; at even odds the model predicts left.
    params_without_polishing, log_likelihood_without_polishing
        The same before the search close to the best candidate.
    effort
        What the optimizer reports: ``nfev``, ``nit`` and ``success``.
    population, energies
        The fitted parameters of all candidates, [candidates, k], and their negative
        log-likelihoods, [candidates].
    cross_validation
        How well fits to parts of the session predict the rest, by the documents' names, one value
        per fold; None without cross-validation.
    latents
        The latent variables under ``params``; empty if nobody needs them.
    """

    session: Session
    agent: Agent
    params: Mapping[str, float]
    log_likelihood: float
    prediction_accuracy: float
    params_without_polishing: Mapping[str, float]
    log_likelihood_without_polishing: float
    effort: Mapping[str, int | bool]
    population: FloatArray
    energies: FloatArray
    cross_validation: Mapping[str, list[float]] | None
    latents: Latents = field(default_factory=dict)

    def criteria(self) -> dict[str, float]:
        """Return information criteria and likelihoods per trial by the documents' names.

        AIC is 2 k - 2 LL (Akaike 1974), BIC k ln n - 2 LL (Schwarz 1978). LPT is the geometric
        mean of the choices' probabilities, exp(LL / n), and with a penalty exp(-AIC / 2n).
        """
        k, n, log_likelihood = self.agent.k_model, self.session.n_trials, self.log_likelihood
        aic = 2.0 * k - 2.0 * log_likelihood
        bic = k * math.log(n) - 2.0 * log_likelihood
        return {
            "AIC": aic,
            "BIC": bic,
            "LPT": math.exp(log_likelihood / n),
            "LPT_AIC": math.exp(-aic / 2.0 / n),
            "LPT_BIC": math.exp(-bic / 2.0 / n),
        }


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
    effort: Mapping[str, int | bool]

    @property
    def n_trials(self) -> int:
        return self.session.n_trials


@dataclass(frozen=True)
class _Evaluation:
    """How well candidates do: in total, [candidates], and per fold, [folds, candidates]."""

    # [candidates, k].
    candidates: FloatArray
    log_likelihood: FloatArray
    correct: FloatArray
    log_likelihood_by_fold: FloatArray
    correct_by_fold: FloatArray

    @property
    def best(self) -> int:
        """Number of the most likely candidate."""
        return int(np.argmax(self.log_likelihood))


def _draw_rows(request: FitRequest, seed: int) -> Iterator[_Row]:
    random = random_generator(seed, Stream.FITS, request.session.plan.index)
    n_trials = request.session.n_trials
    for alias in sorted(request.aliases):
        agent = CATALOGUE[alias]
        iterations = int(random.integers(12, 140))
        polishing = int(random.integers(5, 60))
        yield _Row(
            session=request.session,
            agent=agent,
            folds=request.folds,
            normal=random.standard_normal((_POPULATION + _POLISHING, agent.k_model)),
            uniform=random.random((_ANYWHERE, agent.k_model)),
            order=random.permutation(n_trials),
            effort={
                "nfev": 16 * agent.k_model * (iterations + 1) + polishing * (agent.k_model + 1),
                "nit": iterations,
                "success": bool(random.random() < 0.97),
            },
        )


def _bounds(agent: Agent) -> tuple[FloatArray, FloatArray]:
    low, high = np.array(list(agent.bounds.values())).T
    return low, high


def _first_candidates(row: _Row) -> FloatArray:
    """Return candidates around the subject's disposition and from anywhere, [candidates, k]."""
    low, high = _bounds(row.agent)
    centre = np.array([*disposition_for(row.agent, row.session.plan.disposition).values()])
    scale = np.array(spread(row.agent))
    # The first candidate is the disposition itself.
    reach = np.linspace(0.0, 2.0, _POPULATION - _ANYWHERE)[:, np.newaxis]
    near = centre + row.normal[: len(reach)] * scale * reach
    anywhere = low + row.uniform * (np.minimum(high, _STEEPEST_CANDIDATE) - low)
    candidates: FloatArray = np.concatenate([near, anywhere])
    return candidates.clip(low, high)


def _polishing_candidates(row: _Row, best: FloatArray) -> FloatArray:
    """Return candidates close to the best one, [candidates, k]."""
    low, high = _bounds(row.agent)
    scale = np.array(spread(row.agent))
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
        _summarise(row, tried, probability[: row.n_trials])
        for row, tried, probability in zip(rows, candidates, probabilities, strict=True)
    ]


def _summarise(row: _Row, candidates: FloatArray, probability: FloatArray) -> _Evaluation:
    """Return log-likelihoods and correct predictions from the choices' probabilities."""
    logarithm = np.log(np.where(probability <= 0.0, SMALLEST_PROBABILITY, probability))
    tie = (probability == 0.5) & row.session.left[:, np.newaxis]
    correct = ((probability > 0.5) | tie).astype(np.float64)
    starts = _fold_starts(row.n_trials, row.folds or 1)
    return _Evaluation(
        candidates,
        logarithm.sum(axis=0),
        correct.sum(axis=0),
        np.add.reduceat(logarithm[row.order], starts, axis=0),
        np.add.reduceat(correct[row.order], starts, axis=0),
    )


def _cross_validate(row: _Row, folds: int, tried: Sequence[_Evaluation]) -> dict[str, list[float]]:
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
    # Always predicting the side that was chosen more often in the fitted trials.
    by_bias = np.where(2 * left_fit >= n_fit, left_test, n_test - left_test)
    shares = {
        "prediction_accuracy_test": test_correct[fold, best] / n_test,
        "prediction_accuracy_fit": fit_correct[fold, best] / n_fit,
        "prediction_accuracy_test_bias_only": by_bias / n_test,
        "LPT_test": np.exp(test_likelihoods[fold, best] / n_test),
        "LPT_fit": np.exp(fit_likelihoods[fold, best] / n_fit),
    }
    return {name: values.tolist() for name, values in shares.items()}


def _fit_rows(rows: Sequence[_Row]) -> Iterator[Fit]:
    """Yield the fits of rows of one family, longest first."""
    first = _evaluate(rows, [_first_candidates(row) for row in rows])
    polishing = [
        _polishing_candidates(row, one.candidates[one.best])
        for row, one in zip(rows, first, strict=True)
    ]
    for row, one, two in zip(rows, first, _evaluate(rows, polishing), strict=True):
        is_improved = two.log_likelihood[two.best] > one.log_likelihood[one.best]
        winner = two if is_improved else one
        yield Fit(
            session=row.session,
            agent=row.agent,
            params=_parameters_of(row.agent, winner),
            log_likelihood=float(winner.log_likelihood[winner.best]),
            prediction_accuracy=float(winner.correct[winner.best]) / row.n_trials,
            params_without_polishing=_parameters_of(row.agent, one),
            log_likelihood_without_polishing=float(one.log_likelihood[one.best]),
            effort=row.effort,
            population=one.candidates,
            energies=-one.log_likelihood,
            cross_validation=_cross_validate(row, row.folds, (one, two)) if row.folds else None,
        )


def _parameters_of(agent: Agent, tried: _Evaluation) -> dict[str, float]:
    values = _named(agent, tried.candidates[[tried.best]])
    return {name: float(value[0]) for name, value in values.items()}


def fit_agents(requests: Sequence[FitRequest], seed: int) -> dict[int, dict[str, Fit]]:
    """Return the fits to each session, by its number and the agent's alias.

    A fit depends on the seed and its own session and agents, not on the other sessions.
    """
    by_family: dict[Family, list[_Row]] = defaultdict(list)
    for request in requests:
        for row in _draw_rows(request, seed):
            by_family[row.agent.family].append(row)
    fits: dict[int, dict[str, Fit]] = {request.session.plan.index: {} for request in requests}
    for members in by_family.values():
        members.sort(key=lambda row: -row.n_trials)
        for start in range(0, len(members), _ROWS_TOGETHER):
            for fit in _fit_rows(members[start : start + _ROWS_TOGETHER]):
                fits[fit.session.plan.index][fit.agent.alias] = fit
    return fits
