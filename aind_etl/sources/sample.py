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
    """The sample world of a number of sessions and a seed, from which its documents follow."""

    def __init__(self, sessions: int, seed: int) -> None:
        self._sessions = sessions
        self._seed = seed
        self._lock = Lock()
        self._temporary = TemporaryDirectory(prefix="aind-etl-")
        folder = Path(self._temporary.name, "world")
        super().__init__(folder, f"sample:?sessions={sessions}&seed={seed}")

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
                    _write_world(Path(scratch, "world"), self._sessions, self._seed, results=False)
                    Path(scratch, "world").rename(self._folder)
        return super()._files()


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
    sessions, seed = _parse_address(url)
    folder = lake / "_sample_results"
    written = folder / f"sessions={sessions}&seed={seed}"
    if not written.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Runs of several collections write it at the same time.
        with FileLock(folder / f"{written.name}.lock"):
            if not written.exists():
                with TemporaryDirectory(prefix="making-", dir=folder) as scratch:
                    _write_world(Path(scratch), sessions, seed, results=True)
                    (Path(scratch) / "results").rename(written)
    return written


def _write_world(folder: Path, sessions: int, seed: int, *, results: bool) -> None:
    # Imported here: only the sample needs the simulation's libraries.
    from aind_etl.sample import write_world  # noqa: PLC0415

    write_world(folder, sessions=sessions, seed=seed, results=results, shared_figures=True)


def open_source(settings: Settings) -> SampleSource:
    """Return the sample source at an address such as ``sample:?sessions=100&seed=1``."""
    return SampleSource(*_parse_address(settings.source))


def _parse_address(url: str) -> tuple[int, int]:
    """Return the number of sessions and the seed."""
    not_understood = f"The source {url!r} is not understood"
    parts = urlsplit(url)
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
    return sessions, seed
