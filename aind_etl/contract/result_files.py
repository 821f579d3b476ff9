"""The files of a result folder, and the latent variables that have columns in `trials`."""

from collections.abc import Mapping

RESULT_JSONS = (
    "original_results_mle_fitting.json",
    "docDB_mle_fitting.json",
    "docDB_record.json",
)
"""Names of the result file; the first one that exists is read."""

FIGURE = "fitted_session.png"
"""Name of the figure of a fitted session."""

LATENT_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "q_value": ("q_left", "q_right"),
    "choice_kernel": ("choice_kernel_left", "choice_kernel_right"),
    "choice_prob": ("choice_prob_left", "choice_prob_right"),
    "loss_count": ("loss_count",),
    "value": ("value",),
    "threshold": ("threshold",),
    "p_exploit": ("p_exploit",),
    "exploiting": ("exploiting",),
}
"""Name of a latent variable to the columns of `trials` that hold its rows."""

WITHOUT_FINAL_STATE = frozenset({"choice_prob", "exploiting"})
"""The variables that end with the last trial; the others include the state after it."""
