"""A real MongoDB server for the tests of both sources that read one."""

import os
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from mongod import URI_VARIABLE, Server, make_primary, mongod_or_skip
from pymongo import MongoClient
from pymongo.database import Database


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server without access control: the one named, or one that is started."""
    named = os.environ.get(URI_VARIABLE)
    if named:
        address, _, options = named.partition("?")
        yield Server(address.rstrip("/") + "/", options)
        return
    folder = tmp_path_factory.mktemp("mongod")
    with mongod_or_skip(folder, "--replSet", "rs0", "--oplogSize", "64") as port:
        make_primary(port)
        yield Server(f"mongodb://127.0.0.1:{port}/")


@pytest.fixture(scope="session")
def admin(server: Server) -> Iterator[MongoClient[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](server.address("admin")) as client:
        yield client


@pytest.fixture
def database(admin: MongoClient[dict[str, Any]]) -> Iterator[Database[dict[str, Any]]]:
    """Yield an empty database."""
    name = f"aind_etl_test_{uuid4().hex[:8]}"
    yield admin[name]
    admin.drop_database(name)
