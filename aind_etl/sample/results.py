"""Result folders: the files in S3 beside the documents, as a folder tree.

The module decides which files each pipeline writes, under which names, and which are missing. The
tree also holds the session table and the behaviour database.
"""

import json
import pickle
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import count
from pathlib import Path

from aind_etl.contract.result_files import FIGURE, RESULT_JSONS
from aind_etl.sample import framework, prototype
from aind_etl.sample.behavior_database import BehaviorDatabase
from aind_etl.sample.calendar import Stream, random_generator
from aind_etl.sample.documents import Document, Record, fitting_results, histories
from aind_etl.sample.figures import SessionFigure
from aind_etl.sample.fits import Fit
from aind_etl.sample.runs import MODEL_FITTING, Pipeline
from aind_etl.sample.session_table import PICKLE_PROTOCOL, SessionTable
from aind_etl.sample.sessions import Session

_SESSION_TABLE_FOLDER = "aind-behavior-data/foraging_nwb_bonsai_processed"
_BEHAVIOR_DATABASE = "aind-scratch-data/aind-dynamic-foraging-cache"
_FRAMEWORK_RESULTS, _PROTOTYPE_RESULTS, _EARLY_PROTOTYPE_RESULTS = RESULT_JSONS
_PROTOTYPE_RESULTS_RENAMED = datetime.fromisoformat("2024-11-25")


def _encode(content: object) -> bytes:
    """Return JSON with bare NaN, as the writers write it."""
    return json.dumps(content).encode()


def _metadata(document: Document) -> bytes:
    """Return a framework document as in its folder: without the id that the database gives."""
    return _encode({key: value for key, value in document.items() if key != "_id"})


def _pipeline_files(record: Record, fit: Fit) -> Mapping[str, bytes]:
    """Return the files in which a pipeline writes the results and the job."""
    document, fitted = record.document, fitting_results(fit, record.run)
    results = fitted | {
        "fit_settings": histories(fit.session) | fitted["fit_settings"],
        "population": fit.population.tolist(),
        "population_energies": fit.energies.tolist(),
        "fitted_latent_variables": {name: one.tolist() for name, one in fit.latents.items()},
    }
    if record.run.pipeline is Pipeline.FRAMEWORK:
        return {_FRAMEWORK_RESULTS: _encode(results), "metadata.nd.json": _metadata(document)}
    early = record.run.began < _PROTOTYPE_RESULTS_RENAMED
    name = _EARLY_PROTOTYPE_RESULTS if early else _PROTOTYPE_RESULTS
    described = {key: document[key] for key in ("nwb_name", "status", "analysis_spec")}
    return {
        name: _encode(document | {"analysis_results": results}),
        "docDB_job_manager.json": _encode({"job_hash": document["_id"]} | described),
    }


class ResultFolders:
    """The folder tree ``<root>/<bucket>/<key>/``; figures are as for :func:`write_world`."""

    def __init__(self, root: Path, seed: int, *, shared_figures: bool = False) -> None:
        self._root = root
        self._seed = seed
        self._figure = SessionFigure()
        self._has_shared_figures = shared_figures
        self._shared_figure: bytes | None = None
        self._numbers = count()
        self._locations: set[str] = set()
        self._latest: dict[Pipeline, Mapping[str, bytes]] = {}
        self._session_table = SessionTable()
        self._behavior_database = BehaviorDatabase()

    def write_session(self, session: Session, records: Iterable[Record]) -> None:
        """Write the result folders of a session, and add it to the tables, fitted or not."""
        self._session_table.add(session)
        self._behavior_database.add(session)
        self._shared_figure = None
        for record in records:
            if record.fit is not None:
                self._write_record(record, record.fit)

    def _write_record(self, record: Record, fit: Fit) -> None:
        number = next(self._numbers)
        # One of 60 folders is missing, one of 45 figures and one of 70 results.
        if number % 60 == 17:
            return
        agent = {"agent_alias": fit.agent.alias, "params": fit.params}
        files = {
            **_pipeline_files(record, fit),
            FIGURE: self._draw(record, fit),
            "forager.pkl": pickle.dumps(agent, protocol=PICKLE_PROTOCOL),
        }
        self._latest[record.run.pipeline] = files
        missing = {FIGURE} if number % 45 == 8 else set()
        if number % 70 == 23:
            missing |= {_FRAMEWORK_RESULTS, _PROTOTYPE_RESULTS, _EARLY_PROTOTYPE_RESULTS}
        location = record.document.get("location") or record.document["s3_location"]
        self._write_folder(location, {name: files[name] for name in files if name not in missing})

    def _draw(self, record: Record, fit: Fit) -> bytes:
        if not self._has_shared_figures:
            title = f"{record.run.nwb_name}   {fit.agent.alias}"
            return self._figure.draw(fit.session, fit.latents, title)
        if self._shared_figure is None:
            self._shared_figure = self._figure.draw(fit.session, {}, record.run.nwb_name)
        return self._shared_figure

    def write_project_document(self, document: Document) -> None:
        """Write the result folder of another project's document."""
        parameters = document["processing"]["data_processes"][0]["code"]["parameters"]
        summary = _encode({"parameters": parameters, "inputs_read": True})
        files = {"metadata.nd.json": _metadata(document), "data/summary.json": summary}
        self._write_folder(document["location"], files)

    def write_rest(self) -> None:
        """Write orphaned folders, the session table and the behaviour database."""
        random = random_generator(self._seed, Stream.RESULT_FOLDERS, 0)
        # The framework writes the folder first, and a job may end before it writes the record;
        # records of the prototype were deleted without their folders.
        homes = {
            Pipeline.FRAMEWORK: f"{framework.BUCKET}/{MODEL_FITTING}",
            Pipeline.PROTOTYPE: prototype.BUCKET,
        }
        for pipeline, home in homes.items():
            name = random.bytes(32).hex()
            if pipeline in self._latest:
                self._write_folder(f"{home}/{name}", self._latest[pipeline])
        session_table = {
            "df_sessions.pkl": self._session_table.pickled(),
            "mouse_pi_mapping.json": self._session_table.investigators(),
        }
        self._write_folder(_SESSION_TABLE_FOLDER, session_table)
        database = self._behavior_database.files(self._session_table)
        self._write_folder(_BEHAVIOR_DATABASE, dict(database))

    def _write_folder(self, location: str, files: Mapping[str, bytes]) -> None:
        # Documents of two collections may describe the same job, which has one folder.
        if location in self._locations:
            return
        self._locations.add(location)
        for name, content in files.items():
            path = self._root / location.removeprefix("s3://") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
