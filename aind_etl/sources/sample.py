"""The built-in sample as a source: a dump that is written when it is first read."""

from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from urllib.parse import parse_qsl, urlsplit

from filelock import FileLock

from aind_etl.errors import ConfigurationError
from aind_etl.settings import Settings
from aind_etl.sources.dump import DumpSource
from aind_etl.sources.kinds import known_kinds

_DEFAULT_SESSIONS = 24
_DEFAULT_SEED = 0


class SampleSource(DumpSource):
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
        self._seed = seed
        self._lock = Lock()
        self._temporary = TemporaryDirectory(prefix="aind-etl-")
        super().__init__(
            Path(self._temporary.name, "world"), f"sample:?sessions={sessions}&seed={seed}"
        )

    def write_results(self, folder: Path) -> Path:
        """Write the result folders below ``folder``, once; see :func:`write_results`."""
        written = folder / f"sessions={self._sessions}&seed={self._seed}"
        if not written.exists():
            folder.mkdir(parents=True, exist_ok=True)
            # Runs of several collections write it at the same time.
            with FileLock(folder / f"{written.name}.lock"):
                if not written.exists():
                    with TemporaryDirectory(prefix="making-", dir=folder) as scratch:
                        self._write_world(Path(scratch), results=True)
                        (Path(scratch) / "results").rename(written)
        return written

    def fingerprint(self, collection: str) -> str:
        """Return the size and the seed, from which the content follows."""
        return f"{collection} of {self.name}"

    def __exit__(self, *exception: object) -> None:
        """Remove the dump."""
        self._temporary.cleanup()

    def _files(self) -> dict[str, list[Path]]:
        with self._lock:
            if not self._folder.exists():
                # Renamed when it is complete: a part of it would be read as a whole dump.
                with TemporaryDirectory(dir=self._temporary.name) as scratch:
                    self._write_world(Path(scratch, "world"), results=False)
                    Path(scratch, "world").rename(self._folder)
        return super()._files()

    def _write_world(self, folder: Path, *, results: bool) -> None:
        # Imported here: only the sample needs the simulation's libraries.
        from aind_etl.sample import write_world  # noqa: PLC0415

        write_world(
            folder, sessions=self._sessions, seed=self._seed, results=results, shared_figures=True
        )


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
    with open_source(Settings(source=url)) as sample:
        return sample.write_results(lake / "_sample_results")


def open_source(settings: Settings) -> SampleSource:
    """Return the sample source at an address such as ``sample:?sessions=100&seed=1``.

    Raises
    ------
    ConfigurationError
        The address is not understood.
    """
    not_understood = f"The source {settings.source!r} is not understood"
    parts = urlsplit(settings.source)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.path or parts.netloc or not query.keys() <= {"sessions", "seed"}:
        raise ConfigurationError(f"{not_understood}. {known_kinds()}")
    try:
        sessions = int(query.get("sessions", _DEFAULT_SESSIONS))
        seed = int(query.get("seed", _DEFAULT_SEED))
    except ValueError:
        raise ConfigurationError(
            f"{not_understood}: sessions and seed are whole numbers. {known_kinds()}"
        ) from None
    if sessions < 1 or seed < 0:
        raise ConfigurationError(
            f"{not_understood}: sessions must be at least 1 and seed at least 0."
        )
    return SampleSource(sessions, seed)
