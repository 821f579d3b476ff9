"""Result folders: what lies beside each record in an object store, and what is read from it.

- ``store``: listing and reading many folders at a time, and what is done when the store fails
- ``inventory``: the tables `result_folders`, `result_files` and `unclaimed_folders`
- ``result_json``: one result file, from bytes to arrays
- ``trials``: the tables `trials`, `analyses_latents`, `other_latents` and `rejected_results`
- ``session_table``, ``pickled_frame``: the table `sessions`, from a pickle that is never run
- ``figures``: the figures of fitted sessions, as files and as previews

Every table but `sessions` follows `analyses`: a record that is gone, or whose location changed,
loses its rows. Nothing of Dagster belongs here.
"""

from aind_etl.results.figures import Figure, newest_figures
from aind_etl.results.inventory import (
    ResultFilesReport,
    ResultLimits,
    refresh_result_files,
    refresh_unclaimed_folders,
)
from aind_etl.results.store import ResultStore, open_result_store
from aind_etl.results.trials import TrialsReport, refresh_trials

__all__ = [
    "Figure",
    "ResultFilesReport",
    "ResultLimits",
    "ResultStore",
    "SessionsReport",
    "TrialsReport",
    "newest_figures",
    "open_result_store",
    "refresh_result_files",
    "refresh_sessions",
    "refresh_trials",
    "refresh_unclaimed_folders",
]
