"""Documents of the analysis framework: the newer, nested format.

The module builds the outer part of all projects' documents, and the documents of model fitting.
Documents of other projects are in :mod:`aind_etl.sample.projects`.
"""

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone

import numpy as np

from aind_etl.sample.agents import CATALOGUE, Agent
from aind_etl.sample.documents import (
    SKIPPED,
    SUCCESS,
    Document,
    Record,
    fit_arguments,
    fitting_results,
    histories,
)
from aind_etl.sample.fits import Fit
from aind_etl.sample.runs import Oddity, Pipeline, Run

BUCKET = "aind-analysis-prod-o5171v"

_SCHEMA_HOME = (
    "https://raw.githubusercontent.com/AllenNeuralDynamics/aind-data-schema/main/src/"
    "aind_data_schema/core"
)
_ASSET_BUCKET = "s3://codeocean-s3datasetsbucket-1u41qdg42ur9"
_PROCESS = "han_df_mle_aind-analysis-wrapper"
_FIGURES_PROCESS = "foraging_session_figures"

# When the writers changed.
_HISTORIES_TRIMMED_SINCE = datetime.fromisoformat("2025-07-20")
_SECOND_VERSION_SINCE = datetime.fromisoformat("2025-12-01")
_INPUTS_ACCUMULATED_SINCE = datetime.fromisoformat("2026-01-28")
_INPUTS_ACCUMULATED_UNTIL = datetime.fromisoformat("2026-07-26")
_COMMIT_HASH_SINCE = datetime.fromisoformat("2026-02-01")
_SCHEMA_VERSIONS = (
    (datetime.fromisoformat("2026-05-01"), "2.4.0"),
    (_SECOND_VERSION_SINCE, "2.1.3"),
    (datetime.fromisoformat("2025-01-01"), "2.0.71"),
)
_MOUNTAIN_TIME = timezone(timedelta(hours=-7))


def holds_untrimmed_results(run: Run) -> bool:
    """Return whether a run's documents hold latent variables and histories, as the earliest do."""
    return run.pipeline is Pipeline.FRAMEWORK and run.began < _HISTORIES_TRIMMED_SINCE


def schema_version_at(moment: datetime) -> str:
    """Return the schema version of documents of a time."""
    return next(version for since, version in _SCHEMA_VERSIONS if moment >= since)


def make_uuid(random: np.random.Generator) -> uuid.UUID:
    """Return a UUID of version 4 from a seeded generator."""
    return uuid.UUID(bytes=random.bytes(16), version=4)


def data_asset(random: np.random.Generator) -> Document:
    """Return an input of a job with a new id."""
    return {"object_type": "Data asset", "url": f"{_ASSET_BUCKET}/{make_uuid(random)}"}


def make_code(
    url: str, name: str | None, version: str, inputs: list[Document], parameters: Document
) -> Document:
    """Return the code block of a process."""
    return {
        "object_type": "Code",
        "url": url,
        "name": name,
        "version": version,
        "container": None,
        "run_script": "code/run",
        "language": None,
        "language_version": None,
        "input_data": inputs,
        "parameters": parameters,
        "core_dependency": None,
    }


def _experimenter(name: str, moment: datetime) -> Document | str:
    if moment >= _SECOND_VERSION_SINCE:
        return name
    orcid = {"name": "Open Researcher and Contributor ID", "abbreviation": "ORCID"}
    return {"object_type": "Person", "name": name, "registry": orcid, "registry_identifier": None}


def make_process(  # noqa: PLR0913 - a process has that many parts
    name: str,
    code: Document,
    outputs: Document | list[Document] | None,
    *,
    began: datetime,
    times: tuple[str, str],
    experimenter: str,
) -> Document:
    """Return a data process; ``times`` are its start and end as text."""
    return {
        "object_type": "Data process",
        "process_type": "Analysis",
        "name": name,
        "stage": "Analysis",
        "pipeline_name": None,
        "start_date_time": times[0],
        "end_date_time": times[1],
        "output_path": None,
        "output_parameters": outputs,
        "notes": None,
        "resources": None,
        "experimenters": [_experimenter(experimenter, began)],
        "code": code,
    }


def make_metadata(
    identifier: str | None, collection: str, code: Document, processes: list[Document], version: str
) -> Document:
    """Return a whole document; each of its processes depends on those before it.

    Its name, which is its id if there is no other, is a hash of a code block.
    """
    name = hashlib.sha256(json.dumps(code).encode()).hexdigest()
    names = [process["name"] for process in processes]
    return {
        "_id": identifier or name,
        "object_type": "Metadata",
        "describedBy": f"{_SCHEMA_HOME}/metadata.py",
        "schema_version": version,
        "name": name,
        "location": f"s3://{BUCKET}/{collection}/{name}",
        "other_identifiers": None,
        "subject": None,
        "data_description": None,
        "procedures": None,
        "instrument": None,
        "processing": {
            "object_type": "Processing",
            "describedBy": f"{_SCHEMA_HOME}/processing.py",
            "schema_version": version,
            "data_processes": processes,
            "pipelines": None,
            "notes": None,
            "dependency_graph": {name: names[:place] for place, name in enumerate(names)},
        },
        "acquisition": None,
        "quality_control": None,
        "model": None,
    }


def _parameters(agent: Agent, run: Run, earlier_jobs: int) -> Document:
    tag = "v0.2" if run.began >= _SECOND_VERSION_SINCE else "v0.1"
    # The tag was called a version at first.
    tag_name = "analysis_ver" if holds_untrimmed_results(run) else "analysis_tag"
    parameters: Document = {
        "analysis_name": "MLE fitting",
        tag_name: f"aind-analysis-framework {tag}",
        **fit_arguments(agent, run.folds),
    }
    if earlier_jobs:
        # Left over from another job of the same worker.
        parameters["fit_bounds_override"] = {"biasL": [-2.0, 2.0]}
    return parameters


def _times(run: Run, position: int, spent: Sequence[float]) -> tuple[str, str]:
    """Return when a job of a run began and ended, as the writer of the time wrote it."""
    is_precise = run.began >= _SECOND_VERSION_SINCE
    start = run.began.replace(microsecond=0)
    if is_precise:
        start = run.began + timedelta(seconds=sum(spent[:position]))
    end = start + timedelta(seconds=spent[position])
    if Oddity.ZONED_TIMES in run.oddities:
        zone = _MOUNTAIN_TIME if position % 3 == 2 else UTC
        start, end = (moment.replace(tzinfo=UTC).astimezone(zone) for moment in (start, end))
    elif not is_precise:
        end = end.replace(microsecond=0)
    texts = start.isoformat(), end.isoformat()
    if Oddity.ZONED_TIMES in run.oddities and position % 3 == 0:
        return texts[0].replace("+00:00", "Z"), texts[1].replace("+00:00", "Z")
    return texts


def _outputs(run: Run, fit: Fit | None) -> Document:
    results = {} if fit is None else fitting_results(fit, run)
    if fit is not None and fit.latents and holds_untrimmed_results(run):
        results["fit_settings"] = histories(fit.session) | results["fit_settings"]
        results["fitted_latent_variables"] = {
            name: np.where(np.isnan(values), None, values).tolist()  # type: ignore[call-overload]
            for name, values in fit.latents.items()
        }
    return {
        "additional_info": SKIPPED if fit is None else SUCCESS,
        "subject_id": run.plan.subject.subject_id,
        "session_date": run.plan.began.date().isoformat(),
        "nwb_name": run.nwb_name,
        "fitting_results": results,
    }


def _as_stored(run: Run, position: int, outputs: Document) -> Document | list[Document] | None:
    """Return output parameters in the form that the run's oddities give them."""
    if Oddity.MISSING_OUTPUTS in run.oddities and position < 2:
        return None if position == 0 else {}
    if Oddity.LISTED_OUTPUTS in run.oddities:
        return [] if position == 0 else [outputs]
    return outputs


def _add_unknown_fields(document: Document, outputs: Document) -> None:
    document["ingested"] = {"by": "loader", "attempts": 2, "checked": True, "share": 0.5}
    document["watchers"] = ["behavior", "physiology"]
    outputs |= {
        "curriculum": {"name": "Coupled Baiting", "version": "1.0", "stage_number": 4},
        "foraging_efficiency": 0.71,
        "finished_early": False,
        "bias_events": [12, 230],
        "rig_name": "446-8-B",
        "reward_size_microliters": 2,
    }


def _figures_process(fitting: Document) -> Document:
    """Return a process that draws figures after a fit."""
    code = fitting["code"] | {"name": _FIGURES_PROCESS, "parameters": {"dpi": 150}}
    return fitting | {
        "name": _FIGURES_PROCESS,
        "start_date_time": fitting["end_date_time"],
        "output_parameters": None,
        "code": code,
    }


def framework_records(
    run: Run, fits: Mapping[str, Fit], random: np.random.Generator
) -> Iterator[Record]:
    """Yield the documents of model fitting that a run of the framework wrote.

    ``fits`` holds the fits by alias; it is empty if the session was too short.
    """
    asset = data_asset(random)
    commit = random.bytes(20).hex()
    spent = random.gamma(4.0, 30.0, size=len(run.aliases)).tolist()
    accumulates = _INPUTS_ACCUMULATED_SINCE <= run.began < _INPUTS_ACCUMULATED_UNTIL
    n_inherited = int(random.integers(1, 9)) if accumulates else 0
    inherited = [data_asset(random) for _ in range(n_inherited)]
    for position, alias in enumerate(run.aliases):
        # The worker's list of inputs grew from job to job; the job's own input is the last.
        inputs = [*inherited, *[asset] * (position + 1 if accumulates else 1)]
        code = make_code(
            url="https://codeocean.allenneuraldynamics.org/capsule/4544861",
            name=None if accumulates else _PROCESS,
            version=commit,
            inputs=inputs,
            parameters=_parameters(CATALOGUE[alias], run, n_inherited),
        )
        if run.began >= _COMMIT_HASH_SINCE:
            code["commit_hash"] = commit
        fit = fits.get(alias)
        outputs = _outputs(run, fit)
        fitting = make_process(
            _PROCESS,
            code,
            _as_stored(run, position, outputs),
            began=run.began,
            times=_times(run, position, spent),
            experimenter=run.plan.subject.investigator,
        )
        processes = [fitting]
        if Oddity.TWO_PROCESSES in run.oddities:
            figures = _figures_process(fitting)
            processes = [fitting, figures] if position % 2 == 0 else [figures, fitting]
        identifier = None if Oddity.NAME_AS_ID in run.oddities else make_uuid(random).hex
        document = make_metadata(
            identifier, run.collection, code, processes, schema_version_at(run.began)
        )
        if Oddity.UNKNOWN_FIELDS in run.oddities:
            _add_unknown_fields(document, outputs)
        yield Record(document, run, fit)
