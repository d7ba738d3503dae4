"""Real servers, started once for the whole run and only when a test asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from db.session import Database
from tests.services import (
    DatabaseFactory,
    PostgresServer,
    RedisServer,
    redis_binary,
    start_postgres,
    start_valkey,
)


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Valkey server of this run. A test that stops or kills a server starts its own."""
    server = start_valkey(folder=tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def valkey_url(valkey_server: RedisServer) -> str:
    """Address of the run's Valkey server, with whatever earlier tests left in it."""
    return valkey_server.url


@pytest.fixture(scope="session")
def _installed_redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    binary = redis_binary()
    if binary is None:
        pytest.skip("no redis-server is installed")
    server = start_valkey(binary=binary, folder=tmp_path_factory.mktemp("redis"))
    yield server.url
    server.stop()


@pytest.fixture(params=["valkey", "redis"])
def redis_url(request: pytest.FixtureRequest) -> str:
    """Address of an empty server: Valkey, and Redis too where it is installed."""
    name = "valkey_url" if request.param == "valkey" else "_installed_redis_url"
    return _emptied(request.getfixturevalue(name))


@pytest.fixture
def empty_valkey_url(valkey_url: str) -> str:
    """Address of the run's Valkey server, emptied: for tests that one kind of server is enough for."""
    return _emptied(valkey_url)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The PostgreSQL server of this run."""
    server = start_postgres()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """URL of an empty database, `postgres`, of the run's server."""
    return postgres_server.url


@pytest.fixture(scope="session")
def sqlite_databases(tmp_path_factory: pytest.TempPathFactory) -> DatabaseFactory:
    """Makes SQLite databases."""
    return DatabaseFactory("sqlite", tmp_path_factory.mktemp("sqlite"))


@pytest.fixture(scope="session")
def postgresql_databases(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> DatabaseFactory:
    """Makes databases on the run's PostgreSQL server."""
    return DatabaseFactory("postgresql", tmp_path_factory.mktemp("unused"), postgres_server)


@pytest.fixture(params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest) -> DatabaseFactory:
    """Makes databases: the test runs once with each kind."""
    factory: DatabaseFactory = request.getfixturevalue(f"{request.param}_databases")
    return factory


@pytest.fixture
def database_url(databases: DatabaseFactory) -> Iterator[str]:
    """URL of a migrated database without data, for tests that start processes."""
    with databases.migrated() as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated database without data: once SQLite, once PostgreSQL."""
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def sqlite_database(sqlite_databases: DatabaseFactory) -> Iterator[Database]:
    """A migrated SQLite database, for tests of what does not depend on the kind."""
    with sqlite_databases.migrated() as url:
        opened = Database(url)
        yield opened
        opened.close()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty data directory (LOOKALIKE_DATA_DIR)."""
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def _emptied(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url
