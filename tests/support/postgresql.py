"""A real PostgreSQL for tests: found where Debian and others put it, and started."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ports import free_port

_START_SECONDS = "60"


class NoPostgresqlError(Exception):
    """There is no PostgreSQL, or it does not start; the message says why."""


def find_postgresql() -> Path:
    """Return the folder with ``initdb`` and ``pg_ctl``: the newest of Debian's, or the path's."""
    of_debian = Path("/usr/lib/postgresql").glob("*/bin")
    candidates = sorted(of_debian, key=lambda one: float(one.parent.name), reverse=True)
    if on_path := shutil.which("initdb"):
        candidates.append(Path(on_path).resolve().parent)
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "pg_ctl").exists():
            return folder
    raise NoPostgresqlError("there is no PostgreSQL; Debian's package is called postgresql")


@contextmanager
def running_postgresql(
    programs: Path, *, user: str, password_file: Path, database: str
) -> Iterator[int]:
    """Run a server with a superuser and a database, and yield its port."""
    with tempfile.TemporaryDirectory(prefix="aind-etl-postgresql-") as made:
        folder = Path(made)
        password = folder / "password"
        password.write_bytes(password_file.read_bytes())
        owner = _not_root(folder, password)
        data, log = folder / "data", folder / "log"
        port = free_port()

        def run(program: str, *arguments: str) -> None:
            try:
                subprocess.run(
                    [str(programs / program), *arguments],
                    check=True,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    cwd=folder,
                    **owner,
                )
            except (OSError, subprocess.CalledProcessError) as error:
                said = getattr(error, "stderr", b"").decode(errors="replace")
                said += log.read_text(errors="replace") if log.exists() else ""
                raise NoPostgresqlError(f"{program} fails: {error}: {said[-500:]}") from error

        run(
            "initdb",
            *("--pgdata", str(data), "--username", user, "--pwfile", str(password)),
            *("--auth", "scram-sha-256", "--no-sync", "--encoding", "UTF8"),
        )
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {folder}"
        control = ("--pgdata", str(data), "--log", str(log), "--wait", "--timeout", _START_SECONDS)
        run("pg_ctl", "start", *control, "--options", options)
        try:
            _create(database, user, password_file.read_text().strip(), port)
            yield port
        finally:
            run("pg_ctl", "stop", *control, "--mode", "immediate")


def _not_root(*places: Path) -> Mapping[str, Any]:
    """Return the user for PostgreSQL, which refuses to run as root, and give them the places."""
    if os.geteuid() != 0:
        return {}
    try:
        owner = pwd.getpwnam("postgres")
    except KeyError:
        raise NoPostgresqlError("root must run it as the user postgres, who is missing") from None
    for place in places:
        os.chown(place, owner.pw_uid, owner.pw_gid)
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def _create(database: str, user: str, password: str, port: int) -> None:
    # Imported here: without a server there may be no client either.
    import psycopg2

    address = {"host": "127.0.0.1", "port": port, "user": user, "password": password}
    with closing(psycopg2.connect(**address, dbname="postgres")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{database}"')
