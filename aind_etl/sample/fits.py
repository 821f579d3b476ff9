"""Fits: a cheap maximum likelihood of every agent for every session, with cross-validation.

A fit draws parameter candidates, some near the subject's disposition and some anywhere within
the bounds, takes the most likely one, and searches once more close to it. Everything recorded of a
fit (information criteria, likelihoods per trial, accuracies) follows from the probabilities of the
choices, so that all numbers agree with each other and with the latent variables.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter

import numpy as np

from aind_etl.sample.agents import CATALOGUE, Agent, Family, disposition_for, spread
from aind_etl.sample.calendar import Stream
from aind_etl.sample.dynamics import (
    SMALLEST_PROBABILITY,
    BoolArray,
    FloatArray,
    IntArray,
    Latents,
    record_latents,
    run_over_histories,
)
from aind_etl.sample.sessions import Session

_POPULATION = 16
_POLISHING = 12
# Number of the population that are drawn from anywhere within the bounds.
_ANYWHERE = 4
# No animal's choices are steeper; candidates above would be wasted.
_STEEPEST_CANDIDATE = 25.0
_POLISHING_SCALE = 0.25
# Rows evaluated together: enough to make a step cheap, few enough for the memory.
_ROWS_TOGETHER = 256
_ALIASES = tuple(CATALOGUE)
# The latent variables in the order in which the writers write them.
_LATENTS = (
    *("q_value", "loss_count", "value", "threshold", "exploiting"),
    *("choice_kernel", "choice_prob", "p_exploit"),
)


@dataclass(frozen=True)
class Fit:
    """An agent fitted to a session."""

    session: Session
    agent: Agent
    # The best parameters, fitted first, then clamped.
    params: Mapping[str, float]
    # Natural logarithm of the probability of all choices under ``params``.
    log_likelihood: float
    # Share of choices that were the more likely ones; at even odds the model predicts left.
    prediction_accuracy: float
    # The same before the search close to the best candidate.
    params_without_polishing: Mapping[str, float]
    log_likelihood_without_polishing: float
    # The fitted parameters of all candidates, [candidates, k], and their negative log-likelihoods.
    population: FloatArray
    energies: FloatArray
    # What the optimizer reports: ``nfev``, ``nit`` and ``success``.
    effort: Mapping[str, int | bool]
    # How well fits to parts of the session predict the rest, by the documents' names, one value per
    # fold; None without cross-validation.
    cross_validation: Mapping[str, list[float]] | None
    # The latent variables under ``params`` as they are written; empty if nobody needs them.
    latents: Latents

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
    """Which agents to fit to a session, and what to record of the fits."""

    session: Session
    aliases: tuple[str, ...]
    # Number of folds of the cross-validation.
    folds: int | None
    with_latents: bool


@dataclass(frozen=True)
class _Row:
    """An agent to fit to a session, with all random numbers of the fit."""

    request: FitRequest
    agent: Agent
    # Standard normal and uniform numbers, [candidates, parameters].
    normal: FloatArray
    uniform: FloatArray
    # The order in which trials are assigned to folds.
    order: IntArray
    effort: Mapping[str, int | bool]

    @property
    def session(self) -> Session:
        return self.request.session

    @property
    def n_trials(self) -> int:
        return self.session.n_trials

    @cached_property
    def fold_starts(self) -> IntArray:
        """The start of each fold: equal lengths, and the remainder in the last."""
        folds = self.request.folds or 1
        return np.arange(folds) * (self.n_trials // folds)


@dataclass(frozen=True)
class _Evaluation:
    """How well candidates of an agent's parameters do: in total, and per fold."""

    agent: Agent
    # The fitted parameters, [candidates, k].
    candidates: FloatArray
    # Natural logarithms of the probability of all choices, [candidates].
    log_likelihoods: FloatArray
    # Log-likelihoods and numbers of correct predictions, [folds, candidates].
    log_likelihood_by_fold: FloatArray
    correct_by_fold: FloatArray

    @cached_property
    def best(self) -> int:
        """Number of the most likely candidate."""
        return int(np.argmax(self.log_likelihoods))

    @property
    def log_likelihood(self) -> float:
        """That of the most likely candidate."""
        return float(self.log_likelihoods[self.best])

    @property
    def params(self) -> dict[str, float]:
        """Parameters of the most likely candidate, fitted first, then clamped."""
        fitted = self.candidates[self.best].tolist()
        clamped = {name: float(value) for name, value in self.agent.clamped.items()}
        return dict(zip(self.agent.bounds, fitted, strict=True)) | clamped


def _draw_rows(request: FitRequest) -> Iterator[_Row]:
    random = request.session.plan.random(Stream.FITS)
    for alias in sorted(request.aliases):
        agent = CATALOGUE[alias]
        iterations = int(random.integers(12, 140))
        polishing = int(random.integers(5, 60))
        yield _Row(
            request=request,
            agent=agent,
            normal=random.standard_normal((_POPULATION + _POLISHING, agent.k_model)),
            uniform=random.random((_ANYWHERE, agent.k_model)),
            order=random.permutation(request.session.n_trials),
            effort={
                "nfev": 16 * agent.k_model * (iterations + 1) + polishing * (agent.k_model + 1),
                "nit": iterations,
                "success": bool(random.random() < 0.97),
            },
        )


def _bounds(agent: Agent) -> tuple[FloatArray, FloatArray]:
    low, high = np.array(list(agent.bounds.values())).T
    return low, high


def _around(row: _Row, centre: FloatArray, normal: FloatArray, reach: FloatArray) -> FloatArray:
    """Return candidates that differ from a centre by some of what animals do, [candidates, k].

    Steps beyond a bound end on it, as in a gradient search.
    """
    near: FloatArray = centre + normal * np.array(spread(row.agent)) * reach[:, np.newaxis]
    return near.clip(*_bounds(row.agent))


def _first_candidates(row: _Row) -> FloatArray:
    """Return candidates around the subject's disposition and from anywhere, [candidates, k]."""
    centre = np.array([*disposition_for(row.agent, row.session.plan.disposition).values()])
    # The first candidate is the disposition itself.
    reach = np.linspace(0.0, 2.0, _POPULATION - _ANYWHERE)
    low, high = _bounds(row.agent)
    anywhere = low + row.uniform * (np.minimum(high, _STEEPEST_CANDIDATE) - low)
    return np.concatenate([_around(row, centre, row.normal[: len(reach)], reach), anywhere])


def _polishing_candidates(row: _Row, first: _Evaluation) -> FloatArray:
    """Return candidates close to the best of the first ones, [candidates, k]."""
    reach = np.linspace(0.2, 2.0, _POLISHING) * _POLISHING_SCALE
    return _around(row, first.candidates[first.best], row.normal[_POPULATION:], reach)


def _evaluate(rows: Sequence[_Row], candidates: Sequence[FloatArray]) -> list[_Evaluation]:
    """Run all candidates of rows of one family, longest first."""
    parameters = [
        dict(zip(row.agent.bounds, values.T, strict=True))
        | {name: np.full(len(values), float(value)) for name, value in row.agent.clamped.items()}
        for row, values in zip(rows, candidates, strict=True)
    ]
    probabilities = run_over_histories(rows[0].agent.family, parameters, *_histories(rows))
    return list(map(_summarise, rows, candidates, probabilities))


def _histories(rows: Sequence[_Row]) -> tuple[list[BoolArray], list[BoolArray]]:
    return [row.session.left for row in rows], [row.session.rewarded for row in rows]


def _summarise(row: _Row, candidates: FloatArray, probability: FloatArray) -> _Evaluation:
    """Return log-likelihoods and correct predictions from the choices' probabilities."""
    logarithm = np.log(np.where(probability <= 0.0, SMALLEST_PROBABILITY, probability))
    tie = (probability == 0.5) & row.session.left[:, np.newaxis]
    correct = ((probability > 0.5) | tie).astype(np.float64)
    return _Evaluation(
        row.agent,
        candidates,
        logarithm.sum(axis=0),
        np.add.reduceat(logarithm[row.order], row.fold_starts, axis=0),
        np.add.reduceat(correct[row.order], row.fold_starts, axis=0),
    )


def _cross_validate(row: _Row, tried: Sequence[_Evaluation]) -> dict[str, list[float]]:
    """Return how well the best candidate of the other folds does on each fold."""
    test_likelihoods = np.concatenate([one.log_likelihood_by_fold for one in tried], axis=1)
    test_correct = np.concatenate([one.correct_by_fold for one in tried], axis=1)
    fit_likelihoods = test_likelihoods.sum(axis=0) - test_likelihoods
    fit_correct = test_correct.sum(axis=0) - test_correct
    best = np.argmax(fit_likelihoods, axis=1)
    fold = np.arange(len(best))
    n_test = np.diff(row.fold_starts, append=row.n_trials)
    n_fit = row.n_trials - n_test
    left_test = np.add.reduceat(row.session.left[row.order].astype(np.int64), row.fold_starts)
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
    """Yield the fits of rows of one family, longest first, without latent variables."""
    first = _evaluate(rows, list(map(_first_candidates, rows)))
    polished = _evaluate(rows, list(map(_polishing_candidates, rows, first)))
    for row, *pair in zip(rows, first, polished, strict=True):
        # At equal likelihoods the first.
        winner = max(pair, key=attrgetter("log_likelihood"))
        yield Fit(
            session=row.session,
            agent=row.agent,
            params=winner.params,
            log_likelihood=winner.log_likelihood,
            prediction_accuracy=float(winner.correct_by_fold[:, winner.best].sum()) / row.n_trials,
            params_without_polishing=pair[0].params,
            log_likelihood_without_polishing=pair[0].log_likelihood,
            population=pair[0].candidates,
            energies=-pair[0].log_likelihoods,
            effort=row.effort,
            cross_validation=_cross_validate(row, pair) if row.request.folds else None,
            latents={},
        )


def _latents(rows: Sequence[_Row], fits: Sequence[Fit]) -> list[Latents]:
    """Return the latent variables of each fit as the writers write them; empty if unrequested.

    All agents have ``choice_prob`` [2, n] and ``choice_kernel`` [2, n + 1] (0 and then NaN for
    agents without a kernel); Q-learning has ``q_value`` [2, n + 1]; loss counting ``loss_count``
    [n + 1]; comparing to a threshold ``value``, ``threshold`` and ``p_exploit`` [n + 1] and
    ``exploiting`` [n]. Row 0 is left.
    """
    latents: list[Latents] = [{} for _ in rows]
    if chosen := [number for number, row in enumerate(rows) if row.request.with_latents]:
        parameters = [
            {name: np.array([value]) for name, value in fits[number].params.items()}
            for number in chosen
        ]
        histories = _histories([rows[number] for number in chosen])
        recorded = record_latents(rows[0].agent.family, parameters, *histories)
        for number, variables in zip(chosen, recorded, strict=True):
            latents[number] = _as_written(rows[number], variables)
    return latents


def _as_written(row: _Row, recorded: dict[str, FloatArray]) -> Latents:
    variables: Latents = dict(recorded)
    if not row.agent.has_choice_kernel:
        kernel = np.full_like(recorded["choice_kernel"], np.nan)
        kernel[:, 0] = 0.0
        variables["choice_kernel"] = kernel
    if "staying" in recorded:
        # The published simulator draws at random whether the agent exploits.
        draws = row.session.plan.random(Stream.LATENTS).random((len(_ALIASES), row.n_trials))
        variables["exploiting"] = draws[_ALIASES.index(row.agent.alias)] < recorded["staying"]
    return {name: variables[name] for name in _LATENTS if name in variables}


def fit_agents(requests: Sequence[FitRequest]) -> list[dict[str, Fit]]:
    """Return the fits of each request by the agent's alias.

    A fit depends on its own session and agents, not on the other sessions.
    """
    by_family: dict[Family, list[_Row]] = defaultdict(list)
    for request in requests:
        for row in _draw_rows(request):
            by_family[row.agent.family].append(row)
    fitted: list[tuple[list[_Row], list[Fit]]] = []
    for rows in by_family.values():
        rows.sort(key=lambda row: -row.n_trials)
        for start in range(0, len(rows), _ROWS_TOGETHER):
            together = rows[start : start + _ROWS_TOGETHER]
            fitted.append((together, list(_fit_rows(together))))
    fits: dict[int, dict[str, Fit]] = {request.session.plan.index: {} for request in requests}
    # Afterwards, because evaluations and latent variables both take much memory.
    for together, without in fitted:
        for fit, latents in zip(without, _latents(together, without), strict=True):
            fits[fit.session.plan.index][fit.agent.alias] = replace(fit, latents=latents)
    return list(fits.values())
