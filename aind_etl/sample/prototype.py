"""Documents of the prototype pipeline: the older, flat format."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import numpy as np

from aind_etl.sample.agents import CATALOGUE
from aind_etl.sample.documents import (
    FAILED,
    SKIPPED,
    SUCCESS,
    Document,
    Record,
    fit_arguments,
    fitting_results,
)
from aind_etl.sample.fits import Fit
from aind_etl.sample.runs import Oddity, Run

BUCKET = "aind-dynamic-foraging-analysis-prod-o5171v"

_MODEL_LIBRARY = "aind_dynamic_foraging_models"
_READABLE_NWB_NAME = re.compile(r"(?:behavior_)?(\d{6})_(\d{4}-\d{2}-\d{2})(?:_.*)?")
_LONGEST_RUN_SECONDS = 4 * 3600.0


def record_id(nwb_name: str, specification: Mapping[str, Any]) -> str:
    """Return the id of a document: a hash of the job, not of its results."""
    job = {"nwb_name": nwb_name, "analysis_spec": specification}
    return hashlib.sha256(json.dumps(job).encode()).hexdigest()


def _unknown_fields(random: np.random.Generator) -> Document:
    return {
        "rig_name": f"{int(random.integers(300, 500))}-{int(random.integers(1, 10))}-C",
        "rerun_count": int(random.integers(1, 4)),
        "ignored_share": float(random.random()) * 0.2,
        "is_pilot": bool(random.random() < 0.5),
        "reviewed_by": None,
        "curriculum": {"name": "Uncoupled Without Baiting", "version": "2.3", "stage_number": 6},
        "tags": ["motivated", "left bias"],
        "weights": [{"grams": 21.4, "before": True}, {"grams": 22, "before": False}],
    }


def prototype_records(
    run: Run, fits: Mapping[str, Fit], random: np.random.Generator
) -> Iterator[Record]:
    """Yield the documents that a run of the prototype wrote.

    ``fits`` holds the fits by alias; it is empty if the session was too short.
    """
    readable = _READABLE_NWB_NAME.fullmatch(run.nwb_name.removesuffix(".nwb"))
    subject_id, session_date = readable.groups() if readable else (None, None)
    seconds = random.uniform(0.0, _LONGEST_RUN_SECONDS, size=len(run.aliases)).tolist()
    spent = random.gamma(4.0, 30.0, size=len(run.aliases)).tolist()
    for position, alias in enumerate(run.aliases):
        specification = {
            "analysis_name": "MLE fitting",
            "analysis_ver": "first version @ 0.10.0",
            "analysis_libs_to_track_ver": [_MODEL_LIBRARY],
            "analysis_args": fit_arguments(CATALOGUE[alias], run.folds),
        }
        identifier = record_id(run.nwb_name, specification)
        fit = None if alias in run.failed else fits.get(alias)
        status = FAILED if alias in run.failed else SKIPPED if fit is None else SUCCESS
        document: Document = {
            "_id": identifier,
            "nwb_name": run.nwb_name,
            "status": status,
            "s3_location": None if fit is None else f"s3://{BUCKET}/{identifier}",
            "subject_id": subject_id,
            "session_date": session_date,
            "analysis_spec": specification,
        }
        if fit is not None:
            finished = run.began + timedelta(seconds=seconds[position])
            document |= {
                "analysis_datetime": finished.isoformat(timespec="microseconds"),
                "analysis_time_spent_in_sec": spent[position],
                "analysis_libs_to_track_ver": {_MODEL_LIBRARY: "0.10.0"},
                "analysis_results": fitting_results(fit, run),
            }
        if Oddity.UNKNOWN_FIELDS in run.oddities:
            document |= _unknown_fields(random)
        yield Record(document, run, fit)
