"""The parts that documents of both formats share: the fit's results, and how numbers are stored."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from aind_etl.sample.agents import Agent
from aind_etl.sample.calendar import FEWEST_TRIALS
from aind_etl.sample.fits import Fit
from aind_etl.sample.runs import Run
from aind_etl.sample.sessions import Session

Document: TypeAlias = dict[str, Any]
"""A document in the database, with keys in the writer's order."""

SUCCESS = "success"
SKIPPED = f"skipped. valid trials < {FEWEST_TRIALS}"
FAILED = "failed due to unhandled exception (see log)"

# Both formats have cross-validated likelihoods since then.
_LIKELIHOOD_IN_CROSS_VALIDATION_SINCE = datetime.fromisoformat("2025-07-01")


@dataclass(frozen=True)
class Record:
    """A document with the run and the fit that it describes."""

    document: Document
    run: Run
    # None if there is no successful one.
    fit: Fit | None


def _stored(value: Any) -> Any:  # noqa: ANN401 - any value of a document
    """Return a value as the database returns it: whole numbers are integers."""
    if isinstance(value, dict):
        return {name: _stored(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return list(map(_stored, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


def fitting_results(fit: Fit, run: Run) -> Document:
    """Return a fit as both formats store it; the run decides about cross-validation."""
    agent = fit.agent
    bounds = list(agent.bounds.values())
    settings = {
        "fit_names": list(agent.bounds),
        "lower_bounds": [low for low, _ in bounds],
        "upper_bounds": [high for _, high in bounds],
        "clamp_params": dict(agent.clamped),
        "agent_kwargs": dict(agent.keyword_arguments),
        "agent_class_name": agent.class_name,
        "agent_alias": agent.alias,
    }
    results = {
        "params": fit.params,
        "log_likelihood": fit.log_likelihood,
        **fit.criteria(),
        "k_model": agent.k_model,
        "n_trials": fit.session.n_trials,
        **fit.effort,
        "params_without_polishing": fit.params_without_polishing,
        "log_likelihood_without_polishing": fit.log_likelihood_without_polishing,
        "prediction_accuracy": fit.prediction_accuracy,
    }
    if run.folds is not None and fit.cross_validation is not None:
        results["cross_validation"] = {
            name: values
            for name, values in fit.cross_validation.items()
            if run.began >= _LIKELIHOOD_IN_CROSS_VALIDATION_SINCE or not name.startswith("LPT")
        }
    return {"fit_settings": settings, **_stored(results)}


def fit_arguments(agent: Agent, folds: int | None) -> Document:
    """Return what a job fits, and how."""
    return {
        "agent_class": agent.class_name,
        "agent_kwargs": dict(agent.keyword_arguments),
        "fit_kwargs": {"DE_kwargs": {"polish": True, "seed": 42}, "k_fold_cross_validation": folds},
    }


def histories(session: Session) -> Document:
    """Return the choices (0 left, 1 right) and rewards of a session."""
    return {
        "fit_choice_history": (~session.left).astype(float).tolist(),
        "fit_reward_history": session.rewarded.tolist(),
    }
