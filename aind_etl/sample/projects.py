"""Documents of the other projects in the framework's format.

They have no output parameters, subjects or sessions, and parameters of any kind.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta

import numpy as np

from aind_etl.sample.calendar import Stream, random_generator
from aind_etl.sample.documents import Document
from aind_etl.sample.framework import (
    data_asset,
    make_code,
    make_metadata,
    make_process,
    make_uuid,
    schema_version_at,
)

_NEUROMODULATORS = "dynamic-foraging-nm"

_WRAPPER = "aind-analysis-wrapper"
_EARLIEST = datetime.fromisoformat("2025-06-20T08:00:00")
_DAYS = 380
# Documents before the schema's second version, and the names of keys then.
_FIRST_SCHEMA_VERSION = "1.1.4"
_FIRST_SCHEMA_NAMES = {"instrument": "rig", "acquisition": "session"}


def _neuromodulator_parameters(random: np.random.Generator) -> Document:
    cohort = int(random.integers(1, 6))
    return {
        "dry run": str(int(random.integers(2))),
        "name": f"LC/VTA cohort {cohort}",
        "channels": {"G_0": "LC: Norepinephrine", "R_0": "NAcc: DA", "G_1": "PL: Calcium"},
        "fitted_model": "QLearning_L2F1_CK1_softmax",
        "preprocessing": "dff-bright_mc-iso-IRLS",
        "file_location": [f"{data_asset(random)['url']}/photometry.nwb.zarr"],
    }


def _lifetime_parameters(random: np.random.Generator) -> Document:
    return {
        "dry run": "0",
        "minimal session count": str(int(random.integers(3, 12))),
        "window in seconds": [-1, 3.5],
        "sensor": "dLight",
        "keep baseline": bool(random.random() < 0.5),
    }


def _example_parameters(random: np.random.Generator) -> Document:
    return {
        "analysis_name": "Unit filtering",
        "analysis_tag": f"Filter {int(random.integers(1, 9))}",
        "isi_violations_cutoff": round(float(random.uniform(0.01, 0.5)), 3),
        "presence_ratio_cutoff": 1,
    }


# For each project its parameters, the fewest and most inputs of a job, and the number of sessions
# in the main collection per document.
_PROJECTS: Mapping[str, tuple[Callable[[np.random.Generator], Document], tuple[int, int], int]] = {
    _NEUROMODULATORS: (_neuromodulator_parameters, (8, 40), 60),
    "dynamic-foraging-lifetime": (_lifetime_parameters, (12, 80), 90),
    "architecture_example_v2": (_example_parameters, (1, 2), 400),
}
PROJECT_COLLECTIONS = tuple(_PROJECTS)
_FEWEST_DOCUMENTS = 4


def project_documents(sessions: int, seed: int) -> Iterator[tuple[str, Document]]:
    """Yield the documents of the other projects, each with its collection.

    Their number grows with the number of sessions of the main collection.
    """
    for project, (collection, (_, _, sessions_each)) in enumerate(_PROJECTS.items()):
        for number in range(max(_FEWEST_DOCUMENTS, sessions // sessions_each)):
            random = random_generator(seed, Stream.PROJECTS, number * len(_PROJECTS) + project)
            yield collection, _make_document(collection, number, random)


def _make_document(collection: str, number: int, random: np.random.Generator) -> Document:
    parameters, (fewest, most), _ = _PROJECTS[collection]
    began = _EARLIEST + timedelta(seconds=int(random.integers(_DAYS * 86400)))
    ended = began + timedelta(seconds=int(random.integers(4, 3000)))
    code = make_code(
        url=f"https://github.com/AllenNeuralDynamics/{_WRAPPER}.git",
        name=_WRAPPER,
        version=random.bytes(20).hex(),
        inputs=[data_asset(random) for _ in range(int(random.integers(fewest, most)))],
        parameters=parameters(random),
    )
    process = make_process(
        _WRAPPER,
        code,
        {},
        began=began,
        times=(began.isoformat(), ended.isoformat()),
        experimenter=str(make_uuid(random)),
    )
    is_old = collection == _NEUROMODULATORS and number == 0
    version = _FIRST_SCHEMA_VERSION if is_old else schema_version_at(began)
    document = make_metadata(make_uuid(random).hex, collection, code, [process], version)
    if is_old:
        document = {_FIRST_SCHEMA_NAMES.get(key, key): document[key] for key in document}
    return document
