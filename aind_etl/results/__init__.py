"""Result folders: the files beside each record in an object store, and the tables read from them.

- ``store``, ``s3``, ``local``, ``folders``, ``faults``: listing and reading many folders at a time
- ``inventory``: the tables `result_folders`, `result_files` and `unclaimed_folders`
- ``result_json``: one result file, from bytes to arrays
- ``trials``, ``trial_rows``: `trials`, `analyses_latents`, `other_latents`, `rejected_results`
- ``figures``: downloads and previews of the figures of fitted sessions

Every table follows `analyses`: a record that is deleted, or whose location changed, loses its rows.
"""

from aind_etl.results.figures import newest_figures
from aind_etl.results.inventory import (
    ResultFilesReport,
    refresh_result_files,
    refresh_unclaimed_folders,
)
from aind_etl.results.store import ResultStore, open_result_store
from aind_etl.results.trials import TrialsReport, refresh_trials

__all__ = [
    "ResultFilesReport",
    "ResultStore",
    "TrialsReport",
    "newest_figures",
    "open_result_store",
    "refresh_result_files",
    "refresh_trials",
    "refresh_unclaimed_folders",
]
