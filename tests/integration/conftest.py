"""Running services that the tests of a module, or of the whole run, share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from producer import Producer
from tests.services import PostgresServer
from tests.stack import producer_of, running
from worker.up import Service


@pytest.fixture(scope="session")
def sqlite_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Embedded Valkey and SQLite: what `lookalike-worker up` gives with nothing set."""
    with running(tmp_path_factory.mktemp("sqlite-stack") / "data") as stack:
        yield stack


@pytest.fixture(scope="session")
def postgres_stack(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> Iterator[Service]:
    """The same processes on PostgreSQL."""
    folder = tmp_path_factory.mktemp("postgres-stack") / "data"
    with running(folder, database_url=postgres_server.create("stack")) as stack:
        yield stack


@pytest.fixture(params=["sqlite", "postgresql"])
def stack(request: pytest.FixtureRequest) -> Service:
    """The running service, on one database and then on the other."""
    name = "sqlite_stack" if request.param == "sqlite" else "postgres_stack"
    found = request.getfixturevalue(name)
    assert isinstance(found, Service)
    return found


@pytest.fixture
def shop(stack: Service) -> Iterator[Producer]:
    """A shop's producer on that service."""
    with producer_of(stack) as producer:
        yield producer


@pytest.fixture
def folder(stack: Service, request: pytest.FixtureRequest) -> Path:
    """A folder that the service's workers may read pictures from, for this test alone."""
    path = stack.settings.roots[0] / str(request.node.name)
    path.mkdir()
    return path
