"""The built-in sample as a source: a dump that is made when it is first asked for."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from filelock import FileLock

from aind_etl.contract.id_ranges import ALL_IDS, Split
from aind_etl.errors import ConfigurationError
from aind_etl.sources.canonical import Document, RawDocument
from aind_etl.sources.dump import DumpSource
from aind_etl.sources.kinds import SourceOptions, known_kinds

_DEFAULT_SESSIONS = 24
_DEFAULT_SEED = 0


class SampleSource:
    """The sample world of a size and a seed.

    Parameters
    ----------
    sessions
        Number of behaviour sessions.
    seed
        Seed of the simulation; the same seed gives the same documents.
    """

    def __init__(self, sessions: int, seed: int) -> None:
        self._sessions = sessions
        self.connections = 1
        self._seed = seed
        self.name = f"sample:?sessions={sessions}&seed={seed}"
        self._made: DumpSource | None = None
        self._cleanup = ExitStack()

    @property
    def _dump(self) -> DumpSource:
        if self._made is None:
            # Imported here: the simulation's libraries are of no use to other sources.
            from aind_etl.sample import write_world  # noqa: PLC0415

            folder = Path(self._cleanup.enter_context(TemporaryDirectory(prefix="aind-etl-")))
            write_world(folder, sessions=self._sessions, seed=self._seed, results=False)
            self._made = DumpSource(folder, self.name)
        return self._made

    def write_results(self, folder: Path) -> Path:
        """Write the result folders of the world below ``folder``, once.

        Returns
        -------
        pathlib.Path
            The folder that replaces ``s3://``: it holds ``<bucket>/<key>/``.
        """
        made = folder / f"sessions={self._sessions}&seed={self._seed}"
        if not made.exists():
            # Imported here: the simulation's libraries are of no use to other sources.
            from aind_etl.sample import write_world  # noqa: PLC0415

            folder.mkdir(parents=True, exist_ok=True)
            # Runs of several collections ask for it at the same time.
            with FileLock(folder / f"{made.name}.lock"):
                if not made.exists():
                    with TemporaryDirectory(prefix="making-", dir=folder) as making:
                        write_world(
                            Path(making),
                            sessions=self._sessions,
                            seed=self._seed,
                            shared_figures=True,
                        )
                        (Path(making) / "results").rename(made)
        return made

    def list_collections(self) -> list[str]:
        """Return the names of the collections, sorted."""
        return self._dump.list_collections()

    def count_documents(self, collection: str, split: Split = ALL_IDS) -> None:
        """Return nothing: counting would mean reading the dump."""

    def list_ids(self, collection: str, split: Split = ALL_IDS) -> Iterator[str]:
        """Yield the record id of every document of a split."""
        return self._dump.list_ids(collection, split)

    def read_raw(self, collection: str, split: Split = ALL_IDS) -> Iterator[RawDocument | Document]:
        """Yield every document of a split."""
        return self._dump.read_raw(collection, split)

    def read_documents_by_id(
        self, collection: str, record_ids: AbstractSet[str]
    ) -> Iterator[Document]:
        """Yield the documents of a collection that have one of ``record_ids``."""
        return self._dump.read_documents_by_id(collection, record_ids)

    def fingerprint(self, collection: str) -> str:
        """Return the world's own description, which says all there is to say of it."""
        return f"{collection} of {self.name}"

    def __enter__(self) -> Self:
        """Return the source."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Remove the world made."""
        self._made = None
        self._cleanup.close()


def write_results(url: str, lake: Path) -> Path:
    """Write the result folders of a sample beside a lake's tables, once.

    Returns
    -------
    pathlib.Path
        The folder that replaces ``s3://``: it holds ``<bucket>/<key>/``.

    Raises
    ------
    ConfigurationError
        The address is not understood.
    """
    return open_url(url, SourceOptions()).write_results(lake / "_sample_results")


def open_url(url: str, options: SourceOptions) -> SampleSource:  # noqa: ARG001 - it has none
    """Return the sample source at an address such as ``sample:?sessions=100&seed=1``.

    Raises
    ------
    ConfigurationError
        The address is not understood.
    """
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.path or parts.netloc or not given.keys() <= {"sessions", "seed"}:
        raise ConfigurationError(f"The source {url!r} is not understood. {known_kinds()}")
    try:
        sessions = int(given.get("sessions", _DEFAULT_SESSIONS))
        seed = int(given.get("seed", _DEFAULT_SEED))
    except ValueError:
        raise ConfigurationError(
            f"The source {url!r} is not understood: sessions and seed are whole numbers. "
            f"{known_kinds()}"
        ) from None
    if sessions < 1 or seed < 0:
        raise ConfigurationError(
            f"The source {url!r} is not understood: sessions begins at 1 and seed at 0."
        )
    return SampleSource(sessions, seed)
