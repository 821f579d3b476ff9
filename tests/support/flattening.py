"""Flattening documents without a lake."""

import json
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import polars as pl
from worlds import MAIN, NOON

from aind_etl.flatten import Flattened, flatten_documents
from aind_etl.sources.canonical import Document, document_from_json

FIT_AT = {
    "prototype": "analysis_results",
    "framework": "processing.data_processes[0].output_parameters.fitting_results",
}
"""Where the fitting results of a format's documents are."""


def canonical(document: object) -> Document:
    """Return a document, given as JSON value or bytes, in canonical form."""
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return document_from_json(raw)


def frame_of(documents: Iterable[object]) -> pl.DataFrame:
    """Return documents, given as JSON values or bytes, as the change log has them."""
    moment = pl.lit(NOON, pl.Datetime("us", "UTC"))
    return pl.DataFrame(
        map(canonical, documents),
        schema=dict.fromkeys(("record_id", "document", "content_hash"), pl.String),
        orient="row",
    ).with_columns(first_seen_at=moment, changed_at=moment + timedelta(days=1))


def flatten(documents: Iterable[object], collection: str = MAIN) -> Flattened:
    """Flatten documents, given as JSON values or bytes."""
    return flatten_documents(collection, frame_of(documents))


def format_of(document: dict[str, Any]) -> str:
    """Return the format of a document."""
    return "framework" if "processing" in document else "prototype"


def fit_of(document: dict[str, Any], index: int = 0) -> Any:
    """Return the fitting results of a document; None if it has none."""
    if format_of(document) == "prototype":
        return document.get("analysis_results")
    outputs = document["processing"]["data_processes"][index]["output_parameters"]
    if isinstance(outputs, list):
        outputs = outputs[0] if outputs else None
    return (outputs or {}).get("fitting_results")
