"""Comparison of documents with the current versions of the change log."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import polars as pl

from aind_etl.changelog.raw_hashes import Known, raw_hash
from aind_etl.sources.canonical import Document, RawDocument, canonical_document

# How many documents are compared at a time: enough to make a comparison by columns pay.
COMPARED_DOCUMENTS = 2_500
COMPARED_BYTES = 32 << 20

VERSION_COLUMNS = ("record_id", "document", "content_hash", "operation", "extracted_at")


NO_IDS = pl.DataFrame(schema={"record_id": pl.String})
NOTHING_PARSED = pl.DataFrame(
    schema={"record_id": pl.String, "content_hash": pl.String, "raw_hash": pl.Binary}
)
NO_VERSIONS = pl.DataFrame(
    schema={
        "record_id": pl.String,
        "document": pl.String,
        "content_hash": pl.String,
        "operation": pl.String,
    }
)


@dataclass(frozen=True, slots=True)
class Found:
    """What comparing a portion of a split found, or, with no documents, a whole one.

    Attributes
    ----------
    versions
        What is to be appended to the log.
    read, new, changed, unchanged, repeated
        As for :class:`ExtractReport`.
    known
        Number of live documents that the log held of the split.
    gone
        Column ``record_id``: those of them that the source has no more.
    """

    versions: pl.DataFrame = field(default_factory=NO_VERSIONS.clear)
    read: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    repeated: int = 0
    known: int = 0
    gone: pl.DataFrame = field(default_factory=NO_IDS.clear)


class Comparison:
    """Compares documents with what the log holds of a split.

    Parameters
    ----------
    known
        Columns ``record_id`` and ``content_hash``: the live documents.
    """

    def __init__(self, known: pl.DataFrame) -> None:
        self._known = known
        # The records that the pass has come across.
        self._met = NO_IDS
        self._looked_into: list[pl.DataFrame] = [NOTHING_PARSED]

    def compare(self, portions: Iterable[pl.DataFrame]) -> Iterator[Found]:
        """Yield what is new or changed of each portion."""
        for read in portions:
            first_met = (
                read.unique("record_id", keep="first", maintain_order=True)
                .join(self._met, on="record_id", how="anti", maintain_order="left")
                .join(
                    self._known,
                    on="record_id",
                    how="left",
                    suffix="_known",
                    maintain_order="left",
                )
            )
            is_new = pl.col("content_hash_known").is_null()
            is_changed = pl.col("content_hash_known") != pl.col("content_hash")
            differing = first_met.filter(is_new | is_changed)
            new = differing.select(is_new.sum()).item()
            self._met = pl.concat([self._met, first_met.select("record_id")])
            self._looked_into.append(
                first_met.filter(
                    pl.col("raw_hash").is_not_null() & pl.col("document").is_not_null()
                ).select(NOTHING_PARSED.columns)
            )
            yield Found(
                differing.select(
                    "record_id", "document", "content_hash", operation=pl.lit("upsert")
                ),
                read=read.height,
                new=new,
                changed=differing.height - new,
                unchanged=first_met.height - differing.height,
                repeated=read.height - first_met.height,
            )

    def met(self) -> pl.DataFrame:
        """Return the records that the pass has seen."""
        return self._met

    def looked_into(self) -> pl.DataFrame:
        """Return the documents that were parsed, with their raw hashes.

        Returns
        -------
        polars.DataFrame
            Columns ``record_id``, ``content_hash`` and ``raw_hash``.
        """
        return pl.concat(self._looked_into)

    def not_met(self) -> pl.DataFrame:
        """Return the known records that the pass has not seen."""
        return self._known.select("record_id").join(self._met, on="record_id", how="anti")


def in_portions(
    documents: Iterable[RawDocument | Document], known: Known, most_bytes: int
) -> Iterator[pl.DataFrame]:
    """Yield documents as frames of a bounded number and size; see :func:`_compared`."""
    iterator = iter(documents)
    while portion := list(islice(_until_full(iterator, most_bytes), COMPARED_DOCUMENTS)):
        yield _compared(portion, known)


def _compared(portion: list[RawDocument | Document], known: Known) -> pl.DataFrame:
    """Return documents as the frame that is compared, looking into those not recognised.

    Parameters
    ----------
    portion
        The documents. It is empty afterwards: their bytes are not held any longer.
    known
        What is known of bytes.

    Returns
    -------
    polars.DataFrame
        Columns ``record_id``, ``document``, ``content_hash`` and ``raw_hash``, in the same order.
        There is no ``document`` of one that was recognised, and no ``raw_hash`` of one that
        cannot be.
    """
    hashes = [raw_hash(one.raw) if isinstance(one, RawDocument) else None for one in portion]
    looked_up = known.look_up(hashes).with_row_index("position")
    is_recognised = pl.col("record_id").is_not_null()
    positions = looked_up.filter(~is_recognised)["position"].to_list()
    made = [canonical_document(portion[position]) for position in positions]
    portion.clear()
    looked_into = pl.DataFrame(
        {
            "position": positions,
            "record_id": [one.record_id for one in made],
            "document": [one.text for one in made],
            "content_hash": [one.content_hash for one in made],
            # The source may have created this placeholder of an unreadable document.
            "raw_hash": [
                hashes[position] if one.is_readable else None
                for position, one in zip(positions, made, strict=True)
            ],
        },
        schema={
            "position": looked_up.schema["position"],
            "record_id": pl.String,
            "document": pl.String,
            "content_hash": pl.String,
            "raw_hash": pl.Binary,
        },
    )
    recognised = looked_up.filter(is_recognised).with_columns(document=pl.lit(None, pl.String))
    return pl.concat([looked_into, recognised.select(looked_into.columns)]).sort("position")


def _until_full(
    documents: Iterator[RawDocument | Document], most_bytes: int
) -> Iterator[RawDocument | Document]:
    size = 0
    for document in documents:
        yield document
        size += len(document.raw if isinstance(document, RawDocument) else document.text)
        if size > most_bytes:
            return
