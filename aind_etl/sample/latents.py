"""Latent variables of fits with the names, shapes and gaps that the writers give them."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from aind_etl.sample.agents import CATALOGUE, Family
from aind_etl.sample.calendar import Stream, random_generator
from aind_etl.sample.dynamics import FloatArray, Latents, record_latents
from aind_etl.sample.fits import Fit
from aind_etl.sample.sessions import stack_histories

_ORDER = (
    *("q_value", "loss_count", "value", "threshold", "exploiting"),
    *("choice_kernel", "choice_prob", "p_exploit"),
)
_ALIASES = tuple(CATALOGUE)


def latent_variables(fits: Sequence[Fit], seed: int) -> list[Latents]:
    """Return the latent variables of each fit.

    All agents have ``choice_prob`` [2, n] and ``choice_kernel`` [2, n + 1] (0 and then NaN for
    agents without a kernel); Q-learning has ``q_value`` [2, n + 1]; loss counting ``loss_count``
    [n + 1]; comparing to a threshold ``value``, ``threshold`` and ``p_exploit`` [n + 1] and
    ``exploiting`` [n]. Row 0 is left.
    """
    by_family: dict[Family, list[int]] = defaultdict(list)
    for number, fit in enumerate(fits):
        by_family[fit.agent.family].append(number)
    found: dict[int, Latents] = {}
    for family, numbers in by_family.items():
        numbers.sort(key=lambda number: -fits[number].session.n_trials)
        members = [fits[number] for number in numbers]
        left, rewarded, n_trials = stack_histories([fit.session for fit in members])
        parameters = [
            {name: np.array([value], dtype=np.float64) for name, value in fit.params.items()}
            for fit in members
        ]
        recorded = record_latents(family, parameters, left, rewarded, n_trials)
        for number, fit, variables in zip(numbers, members, recorded, strict=True):
            found[number] = _as_written(fit, variables, seed)
    return [found[number] for number in range(len(fits))]


def _as_written(fit: Fit, recorded: dict[str, FloatArray], seed: int) -> Latents:
    variables: Latents = dict(recorded)
    if not fit.agent.has_choice_kernel:
        kernel = np.full_like(recorded["choice_kernel"], np.nan)
        kernel[:, 0] = 0.0
        variables["choice_kernel"] = kernel
    if "staying" in recorded:
        # The published simulator draws at random whether the agent exploits.
        random = random_generator(seed, Stream.LATENTS, fit.session.plan.index)
        draws = random.random((len(_ALIASES), fit.session.n_trials))
        variables["exploiting"] = draws[_ALIASES.index(fit.agent.alias)] < recorded["staying"]
    return {name: variables[name] for name in _ORDER if name in variables}
