"""Comparison of documents with the current versions in the change log."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from threading import Lock

import polars as pl

from aind_etl.changelog.raw_hashes import KNOWN_COLUMNS, raw_hash
from aind_etl.sources.canonical import Document, RawDocument, canonical_document

# The most documents compared at a time: enough for columnar operations to pay off.
COMPARED_DOCUMENTS = 2_500
COMPARED_BYTES = 32 << 20

# Hashing a document releases the interpreter, and threads that parse at the same time then wait for
# it at each document: two take longer than one.
_PARSING = Lock()

_NO_IDS = pl.DataFrame(schema={"record_id": pl.String})


@dataclass(frozen=True, slots=True)
class Found:
    """The result of comparing a portion of a split, or, without documents, at the split's end.

    Attributes
    ----------
    versions
        What to append to the change log.
    read, new, changed, unchanged, repeated
        As in :class:`~aind_etl.changelog.passes.ExtractReport`.
    known
        Number of live documents of the split in the change log.
    gone
        Column ``record_id``: those of them that the source no longer has.
    """

    versions: pl.DataFrame = field(default_factory=pl.DataFrame)
    read: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    repeated: int = 0
    known: int = 0
    gone: pl.DataFrame = field(default_factory=_NO_IDS.clear)


class Comparison:
    """Compares documents with the live documents of a split.

    Parameters
    ----------
    live
        Columns ``record_id`` and ``content_hash``: the live documents.
    most_bytes
        The most bytes of documents compared at a time.

    Attributes
    ----------
    seen
        Column ``record_id``: the records compared so far.
    parsed
        Columns ``record_id``, ``content_hash`` and ``raw_hash``: the documents parsed so far.
    """

    def __init__(self, live: pl.DataFrame, most_bytes: int) -> None:
        self._live = live.select("record_id", "content_hash")
        self._most_bytes = most_bytes
        self.seen = _NO_IDS
        self.parsed = pl.DataFrame(schema=KNOWN_COLUMNS)

    def compare(
        self, documents: Iterable[RawDocument | Document], known: pl.DataFrame
    ) -> Iterator[Found]:
        """Yield what is new or changed among documents; those with known hashes are not parsed.

        ``known`` is from :meth:`~aind_etl.changelog.raw_hashes.RawHashes.known`.
        """
        for read in _in_portions(documents, known, self._most_bytes):
            first_seen = (
                read.unique("record_id", keep="first", maintain_order=True)
                .join(self.seen, on="record_id", how="anti", maintain_order="left")
                .join(self._live, on="record_id", how="left", suffix="_live", maintain_order="left")
            )
            is_new = pl.col("content_hash_live").is_null()
            is_changed = pl.col("content_hash_live") != pl.col("content_hash")
            differing = first_seen.filter(is_new | is_changed)
            new = differing.select(is_new.sum()).item()
            self.seen = pl.concat([self.seen, first_seen.select("record_id")])
            parsed = first_seen.drop_nulls(["raw_hash", "document"]).select(*KNOWN_COLUMNS)
            self.parsed = pl.concat([self.parsed, parsed])
            yield Found(
                differing.select(
                    "record_id", "document", "content_hash", operation=pl.lit("upsert")
                ),
                read=read.height,
                new=new,
                changed=differing.height - new,
                unchanged=first_seen.height - differing.height,
                repeated=read.height - first_seen.height,
            )

    def not_seen(self) -> pl.DataFrame:
        """Return the ids of the live records that have not been compared."""
        return self._live.select("record_id").join(self.seen, on="record_id", how="anti")


def _in_portions(
    documents: Iterable[RawDocument | Document], known: pl.DataFrame, most_bytes: int
) -> Iterator[pl.DataFrame]:
    """Yield documents as frames of a bounded number and size; see :func:`_as_frame`."""
    portion: list[RawDocument | Document] = []
    size = 0
    for document in documents:
        portion.append(document)
        size += len(document.raw if isinstance(document, RawDocument) else document.text)
        if len(portion) >= COMPARED_DOCUMENTS or size > most_bytes:
            yield _as_frame(portion, known)
            size = 0
    if portion:
        yield _as_frame(portion, known)


def _as_frame(portion: list[RawDocument | Document], known: pl.DataFrame) -> pl.DataFrame:
    """Return documents as a frame in the same order, and empty the list.

    ``document`` is null if the bytes are known, ``raw_hash`` if they must not be cached.
    """
    with _PARSING:
        hashes = [raw_hash(one.raw) if isinstance(one, RawDocument) else None for one in portion]
    looked_up = (
        pl.DataFrame({"raw_hash": hashes}, schema={"raw_hash": pl.Binary})
        .join(known, on="raw_hash", how="left", maintain_order="left")
        .with_row_index("position")
    )
    is_known = pl.col("record_id").is_not_null()
    positions = looked_up.filter(~is_known)["position"].to_list()
    with _PARSING:
        documents = [canonical_document(portion[position]) for position in positions]
    # The raw bytes are not held any longer.
    portion.clear()
    parsed = pl.DataFrame(
        {
            "position": positions,
            "record_id": [one.record_id for one in documents],
            "document": [one.text for one in documents],
            "content_hash": [one.content_hash for one in documents],
            # The id of an unreadable document may come from its source, not from its bytes.
            "raw_hash": [
                hashes[position] if one.is_readable else None
                for position, one in zip(positions, documents, strict=True)
            ],
        },
        schema={"position": pl.get_index_type(), "document": pl.String, **KNOWN_COLUMNS},
    )
    unparsed = looked_up.filter(is_known).with_columns(document=pl.lit(None, pl.String))
    return pl.concat([parsed, unparsed.select(parsed.columns)]).sort("position")
