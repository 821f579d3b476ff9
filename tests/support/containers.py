"""The containers of `docker/`, run as plain processes of this host.

Commands, environments and health checks are read from `compose.yaml` and the `Dockerfile`, so that
tests cannot drift from them. Only paths of the image, names of services and fixed ports are
replaced by those of this host.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import execute
from mongod import NoMongodError
from ports import free_port
from postgresql import NoPostgresqlError, find_postgresql, running_postgresql
from redis_server import NoRedisError

CLONE = Path(__file__).parents[2]
DOCKER = CLONE / "docker"

_VARIABLE = re.compile(r"\$\{(\w+)(?:(:-|:\+|-)([^}]*))?\}")


def read_environment_file(path: Path) -> dict[str, str]:
    """Return the variables of a file as `docker compose --env-file` takes it."""
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def read_compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the compose file with its variables replaced, as `docker compose config` shows it."""

    def value(match: re.Match[str]) -> str:
        name, operator, other = match.groups()
        given = variables.get(name, "")
        if operator == ":+":
            return other if given else ""
        if operator == "-":
            return given if name in variables else other
        return given or other or ""

    def resolve(node: Any) -> Any:
        if isinstance(node, str):
            return _VARIABLE.sub(value, node).replace("$$", "$")
        if isinstance(node, list):
            return [resolve(one) for one in node]
        if isinstance(node, dict):
            return {key: resolve(one) for key, one in node.items()}
        return node

    resolved: dict[str, Any] = resolve(yaml.safe_load((DOCKER / "compose.yaml").read_text()))
    return resolved


def read_dockerfile() -> list[list[tuple[str, str]]]:
    """Return the stages of the Dockerfile, each as pairs of instruction and rest."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    stages: list[list[tuple[str, str]]] = [[]]
    for line in filter(None, text.replace("\\\n", " ").splitlines()):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            stages.append([])
        stages[-1].append((instruction, " ".join(rest.split())))
    return stages[1:]


def image_environment() -> dict[str, str]:
    """Return the variables that the image sets."""
    pairs = [
        word.partition("=")
        for instruction, rest in read_dockerfile()[-1]
        if instruction == "ENV"
        for word in shlex.split(rest)
    ]
    return {name: value for name, _, value in pairs}


@contextmanager
def servers_or_skip() -> Iterator[None]:
    """Skip a test whose servers are not installed."""
    try:
        yield
    except (NoMongodError, NoPostgresqlError, NoRedisError) as problem:
        pytest.skip(str(problem))


class Containers:
    """The services of the compose file as processes of this host.

    Volumes, secrets and logs are in ``folder``; ``variables`` are those of the ``.env``.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self._variables = variables
        self.services: dict[str, Any] = read_compose(variables)["services"]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {"3000": free_port(), "4000": free_port(), "5432": 0}
        self.home = folder / "dagster"
        self.celery_home = folder / "celery"
        self._places = {
            "/opt/aind-etl/entrypoint.sh": str(DOCKER / "entrypoint.sh"),
            "/opt/aind-etl/demo.py": str(DOCKER / "demo.py"),
            "/opt/aind-etl/venv/bin": str(Path(sys.executable).parent),
            "/opt/aind-etl/dagster": str(self.home),
            "/opt/aind-etl/celery": str(self.celery_home),
            "/run/secrets": str(folder / "secrets"),
            "/lake": str(folder / "lake"),
            "/logs": str(folder / "logs"),
            "/scratch": str(folder / "scratch"),
            "/demo": str(folder / "demo"),
            "/tmp/matplotlib": str(folder / "tmp" / "matplotlib"),
            "/tmp": str(folder / "tmp"),
        }
        self.hosts: dict[str, str] = {"code": "127.0.0.1", "0.0.0.0": "127.0.0.1"}
        for name in ("dagster", "secrets", "lake", "logs", "scratch", "demo", "tmp/no-results"):
            (folder / name).mkdir(parents=True)
        # Its port is fixed in the network of containers; a dead run is found sooner than theirs.
        self._write_home("workspace.yaml", {"port: 4000": f"port: {self.ports['4000']}"})
        self._write_home("dagster.yaml", {"poll_interval_seconds: 30": "poll_interval_seconds: 2"})
        shutil.copytree(self.home, self.celery_home, dirs_exist_ok=True)
        with (self.celery_home / "dagster.yaml").open("a") as file:
            file.write((DOCKER / "celery-launcher.yaml").read_text())
        shutil.copy(DOCKER / "celery-worker.yaml", self.celery_home)

    def _write_home(self, name: str, changes: Mapping[str, str]) -> None:
        text = (DOCKER / name).read_text()
        for theirs, here in changes.items():
            assert theirs in text
            text = text.replace(theirs, here)
        (self.home / name).write_text(text)

    def translate(self, word: str) -> str:
        """Return a word of a command or an environment with this host's paths and ports."""
        if word in self.ports:
            return str(self.ports[word])
        if word in self.hosts:
            return self.hosts[word]
        if match := re.fullmatch(r"(\w+)://([\w-]+):(\d+)(.*)", word):
            scheme, host, port, rest = match.groups()
            if f"{host}:{port}" in self.hosts:
                return f"{scheme}://{self.hosts[f'{host}:{port}']}{rest}"
        for place, here in self._places.items():
            if word == place or word.startswith(f"{place}/"):
                return here + word.removeprefix(place)
        return word.replace(":3000/", f":{self.ports['3000']}/")

    def environment(self, service: str) -> dict[str, str]:
        """Return the environment of a service's container."""
        given = self.services[service].get("environment", {})
        # A variable without a value is passed on if it is set.
        own = {
            name: str(self._variables[name] if value is None else value)
            for name, value in given.items()
            if value is not None or name in self._variables
        }
        image = {**image_environment(), "PATH": "/opt/aind-etl/venv/bin"}
        translated = {name: self.translate(value) for name, value in (image | own).items()}
        translated["PATH"] += f":{os.environ['PATH']}"
        return translated

    def command(self, service: str) -> list[str]:
        """Return the image's entry point and the command of a service's container."""
        [(_, entrypoint)] = [one for one in read_dockerfile()[-1] if one[0] == "ENTRYPOINT"]
        return [*yaml.safe_load(entrypoint), *self.services[service]["command"]]

    def run(self, service: str, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        """Run a command in a container of a service, as `docker compose exec` does."""
        words = map(self.translate, command)
        return execute(*words, env=self.environment(service), cwd=self.home)

    def check_health(self, service: str) -> "subprocess.CompletedProcess[str]":
        """Run the health check of a service once."""
        kind, *command = self.services[service]["healthcheck"]["test"]
        assert kind == "CMD"
        return self.run(service, command)

    @contextmanager
    def running_postgresql(self, password: str) -> Iterator[None]:
        """Run the PostgreSQL server, and end all processes of the services after it was used."""
        password_file = self.folder / "secrets" / "postgres_password"
        password_file.write_text(password + "\n")
        server = self.services["postgres"]["environment"]
        with running_postgresql(
            find_postgresql(),
            user=server["POSTGRES_USER"],
            password_file=password_file,
            database=server["POSTGRES_DB"],
        ) as port:
            self.hosts["postgres"] = "127.0.0.1"
            self.ports["5432"] = port
            try:
                yield
            finally:
                for name in reversed(list(self.processes)):
                    self.end(name, signal.SIGKILL)

    def start(self, name: str) -> None:
        """Start a service, or a replica such as ``worker-1``, in a new session."""
        service, _, number = name.partition("-")
        more = ["--hostname", f"{name}@%h"] if number else []
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [self.translate(word) for word in (*self.command(service), *more)],
                env=self.environment(service),
                cwd=self.home,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def end(self, name: str, signal_number: int = signal.SIGTERM) -> None:
        """End a process by a signal."""
        end_group(self.processes.pop(name), signal_number)

    def wait_for_health(self, service: str) -> None:
        """Wait until the health check of a service passes."""
        port = {"code": "4000", "webserver": "3000"}.get(service)

        def healthy() -> bool:
            assert self.processes[service].poll() is None, self.said(service)
            # A health check starts a Python process, so wait until the port answers.
            return (not port or self._answers(port)) and self.check_health(service).returncode == 0

        wait_until(healthy, 240, lambda: self.said(service))

    def _answers(self, port: str) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.ports[port]), timeout=1):
                return True
        except OSError:
            return False

    def said(self, service: str) -> str:
        """Return what a service printed."""
        return (self.folder / f"{service}.log").read_text(errors="replace")


def wait_until(what: Callable[[], Any], seconds: float, otherwise: Callable[[], str]) -> Any:
    """Return the first result that is true; fail with an explanation when there is none."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if found := what():
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s: {otherwise()[-3000:]}")


def end_group(process: "subprocess.Popen[bytes]", signal_number: int) -> None:
    """End a process and its children by a signal, or kill them."""
    for number in (signal_number, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=20)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
