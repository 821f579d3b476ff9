"""The sample world as files on disk.

The simulation runs over a block of sessions at a time, so that memory does not grow with the world.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Literal

import bson
import orjson

from aind_etl.sample.calendar import SessionPlan, Stream, plan_sessions
from aind_etl.sample.documents import Document, Record
from aind_etl.sample.fits import Fit, FitRequest, fit_agents
from aind_etl.sample.framework import framework_records, holds_untrimmed_results
from aind_etl.sample.projects import PROJECT_COLLECTIONS, project_documents
from aind_etl.sample.prototype import prototype_records
from aind_etl.sample.runs import MODEL_FITTING, PREDECESSOR, Pipeline, Run, plan_runs
from aind_etl.sample.sessions import Session, simulate_sessions

COLLECTIONS = tuple(sorted([MODEL_FITTING, PREDECESSOR, *PROJECT_COLLECTIONS]))
"""Names of the collections."""

_SESSIONS_TOGETHER = 32


def _analysed_sessions(
    sessions: int, seed: int, *, with_latents: bool
) -> Iterator[tuple[Session, list[Record]]]:
    """Yield each session with its records, whose fits may all have latent variables."""
    plans = islice(plan_sessions(seed), sessions)
    while block := list(islice(plans, _SESSIONS_TOGETHER)):
        # A function of its own, so that the fits of a block are freed before the next is fitted.
        yield from _analyse(block, with_latents=with_latents)


def _analyse(
    plans: Sequence[SessionPlan], *, with_latents: bool
) -> Iterator[tuple[Session, list[Record]]]:
    """Simulate sessions together, and fit the agents that their runs fitted."""
    sessions = simulate_sessions(plans)
    runs = list(map(plan_runs, plans))
    requests = [
        _request(session, of_session, with_latents=with_latents)
        for session, of_session in zip(sessions, runs, strict=True)
    ]
    fits = fit_agents(requests)
    for session, of_session, fitted in zip(sessions, runs, fits, strict=True):
        yield session, list(_records(session.plan, of_session, fitted))


def _request(session: Session, runs: Sequence[Run], *, with_latents: bool) -> FitRequest:
    """Return one request for all runs over a session, because they fit the same choices."""
    is_fitted = not session.plan.is_too_short
    aliases = {alias for run in runs for alias in run.aliases if is_fitted}
    folds = next((run.folds for run in runs if run.folds is not None), None)
    with_latents = with_latents or any(map(holds_untrimmed_results, runs))
    return FitRequest(session, tuple(aliases), folds, with_latents)


def _records(plan: SessionPlan, runs: Sequence[Run], fits: Mapping[str, Fit]) -> Iterator[Record]:
    random = plan.random(Stream.DOCUMENTS)
    for run in runs:
        written = prototype_records if run.pipeline is Pipeline.PROTOTYPE else framework_records
        yield from written(run, fits, random)


def write_world(  # noqa: PLR0913 - each says something different of the world
    directory: Path,
    *,
    sessions: int,
    seed: int,
    formats: Sequence[Literal["jsonl", "bson"]] = ("jsonl",),
    results: bool = True,
    shared_figures: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Write a sample world to disk.

    Parameters
    ----------
    directory
        The target: ``<collection>.jsonl`` (a document per line), ``<collection>.bson`` (as written
        by ``mongodump``) and ``results/<bucket>/<key>/`` with the result files. It is created if
        necessary; files of the same names are replaced.
    sessions
        Number of behaviour sessions of the main collection. With at least 24, every oddity of the
        documents occurs. A larger world begins with the sessions of a smaller one.
    results
        Whether to write the result folders, which takes far longer than the documents.
    shared_figures
        Whether the agents of a session share one figure, of the behaviour alone: drawing one for
        each takes most of the time.
    progress
        Called after each session with the number of sessions done and the total.

    Returns
    -------
    dict
        Number of documents of each collection. The same arguments write the same bytes.

    Raises
    ------
    ValueError
        The number of sessions or the seed is negative.
    """
    if sessions < 0 or seed < 0:
        raise ValueError(
            f"A sample world cannot have {sessions} sessions and seed {seed}; neither may be "
            "negative."
        )
    directory.mkdir(parents=True, exist_ok=True)
    folders = None
    if results:
        # Imported here: documents alone need neither pandas nor matplotlib.
        from aind_etl.sample.results import ResultFolders  # noqa: PLC0415

        folders = ResultFolders(directory / "results", seed, shared_figures=shared_figures)
    counts = dict.fromkeys(COLLECTIONS, 0)
    with ExitStack() as stack:
        files = {
            (collection, name): stack.enter_context((directory / f"{collection}.{name}").open("wb"))
            for collection in COLLECTIONS
            for name in formats
        }

        def write(collection: str, document: Document) -> None:
            counts[collection] += 1
            for name in formats:
                is_bson = name == "bson"
                encoded = bson.encode(document) if is_bson else orjson.dumps(document) + b"\n"
                files[collection, name].write(encoded)

        analysed = _analysed_sessions(sessions, seed, with_latents=results)
        for done, (session, records) in enumerate(analysed, start=1):
            for record in records:
                write(record.run.collection, record.document)
            if folders is not None:
                folders.write_session(session, records)
            if progress is not None:
                progress(done, sessions)
        for collection, document in project_documents(sessions, seed):
            write(collection, document)
            if folders is not None:
                folders.write_project_document(document)
    if folders is not None:
        folders.write_rest()
    return counts
