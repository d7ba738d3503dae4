"""Sessions: one kind that reads a snapshot, one that writes and commits."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.orm import Session

from db.address import parse, shown
from db.errors import DatabaseUnavailable, SchemaOutdated
from db.faults import TRANSLATED, translate

Dialect = Literal["sqlite", "postgresql"]
Mode = Literal["reading", "writing", "migrating"]

BUSY_TIMEOUT = 30.0
"""Seconds that a SQLite writer waits for another one."""
SLEEPER_TIMEOUT = 30.0
"""Seconds that a writer on PostgreSQL may leave its transaction without a statement."""
_CONNECT_TIMEOUT = 10
_IDLE_BEFORE_PING = 1.0
"""Seconds in the pool after which a server connection is tried before it is given out."""
_PAGE_SIZE = 8192
"""Bytes. A row with a 512-d vector takes 2.1 KB: three fit a page of 8 KB, one a page of 4 KB."""


class Database:
    """A database by its URL. Connects when first used; safe to share between threads, not across a fork.

    Both kinds of session raise DatabaseUnavailable when the database cannot be reached and SchemaOutdated
    when a table is missing.
    """

    def __init__(self, url: str) -> None:
        """Raises InvalidDatabaseUrl. `postgresql://` and `postgres://` mean psycopg 3."""
        self._url = parse(url)
        self._address = shown(self._url)
        self.dialect: Dialect = (
            "sqlite" if self._url.get_backend_name() == "sqlite" else "postgresql"
        )
        self._reader = _engine(self._url, "reading")
        self._writer = _engine(self._url, "writing")

    def __repr__(self) -> str:
        """Show the address, never the password."""
        return f"Database({self._address!r})"

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session in which every statement sees the same snapshot, and none can write."""
        with self._translated(), Session(self._reader, autoflush=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session that commits when the block ends and rolls back when it raises."""
        with self._translated(), Session(self._writer, autoflush=False) as session:
            yield session
            session.commit()

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A connection for schema changes, in one transaction.

        SQLite checks no foreign keys in it: to change a table there is to copy, drop and rename it.
        """
        engine = _engine(self._url, "migrating")
        try:
            with self._translated(), engine.begin() as connection:
                yield connection
        finally:
            engine.dispose()

    def close(self) -> None:
        """Close the pooled connections."""
        self._reader.dispose()
        self._writer.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except TRANSLATED as error:
            known = translate(error, self._address)
            if known is None:
                raise
            raise known from error


def _engine(url: URL, mode: Mode) -> Engine:
    # hide_parameters: a log of an error is no place for a shop's data.
    options: dict[str, Any] = {"hide_parameters": True, "pool_size": 8, "max_overflow": 32}
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, mode, options)
    engine = create_engine(url, connect_args={"connect_timeout": _CONNECT_TIMEOUT}, **options)
    event.listen(engine, "connect", _prefer_indexes)
    if mode == "reading":
        event.listen(engine, "connect", _read_one_snapshot)
    if mode == "writing":
        event.listen(engine, "connect", _let_no_sleeper_hold_locks)
    event.listen(engine, "checkin", _note_time)
    event.listen(engine, "checkout", _ping_after_idling(engine))
    return engine


# -- PostgreSQL -----------------------------------------------------------------------------------


def _prefer_indexes(connection: Any, record: Any) -> None:
    """Price a random read as memory and solid-state disks do.

    By the default, a spinning disk's price, a few hundred products are looked up by reading the whole table.
    """
    connection.execute("SET random_page_cost = 1.1")
    connection.commit()


def _read_one_snapshot(connection: Any, record: Any) -> None:
    """Set on the connection, so that no statement is spent on it: psycopg says it in its BEGIN."""
    from psycopg import IsolationLevel

    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    connection.read_only = True


def _let_no_sleeper_hold_locks(connection: Any, record: Any) -> None:
    """End the session of a process that was stopped within a transaction: all other writers wait for it."""
    milliseconds = round(1000 * SLEEPER_TIMEOUT)
    connection.execute(f"SET idle_in_transaction_session_timeout = {milliseconds}")
    connection.commit()


def _note_time(connection: Any, record: Any) -> None:
    record.info["returned"] = time.monotonic()


def _ping_after_idling(engine: Engine) -> Callable[[Any, Any, Any], None]:
    """A ping at every checkout would double the cost of a short read."""

    def ping(connection: Any, record: Any, proxy: Any) -> None:
        returned = record.info.get("returned")
        if returned is None or time.monotonic() - returned < _IDLE_BEFORE_PING:
            return
        try:
            engine.dialect.do_ping(connection)
        except Exception as error:
            raise DisconnectionError from error

    return ping


# -- SQLite ---------------------------------------------------------------------------------------


def _sqlite_engine(url: URL, mode: Mode, options: dict[str, Any]) -> Engine:
    connect_args = {
        # We begin transactions ourselves: the driver would begin none before a SELECT, so that two
        # reads of one session could see different states.
        "isolation_level": None,
        "timeout": BUSY_TIMEOUT,
        "check_same_thread": False,
    }
    engine = create_engine(url, connect_args=connect_args, **options)
    file = Path(url.database or ".")

    def before_connect(*_: Any) -> None:
        if mode == "migrating":
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DatabaseUnavailable(
                    f"the folder {file.parent} cannot be made ({error.strerror}): check "
                    "LOOKALIKE_DATABASE_URL and LOOKALIKE_DATA_DIR"
                ) from error
        elif not file.exists():  # a look into the wrong folder must not leave a catalogue there
            raise SchemaOutdated(
                f"there is no catalogue at {file}: run `lookalike-worker migrate`, or check "
                "LOOKALIKE_DATABASE_URL and LOOKALIKE_DATA_DIR"
            )

    def set_up(connection: sqlite3.Connection, record: Any) -> None:
        _set_pragmas(connection, mode)

    def begin(connection: Connection) -> None:
        driver = cast(sqlite3.Connection, connection.connection.driver_connection)
        driver.execute("BEGIN" if mode == "reading" else "BEGIN IMMEDIATE")

    event.listen(engine, "do_connect", before_connect)
    event.listen(engine, "connect", set_up)
    event.listen(engine, "begin", begin)
    return engine


def _set_pragmas(connection: sqlite3.Connection, mode: Mode) -> None:
    connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")  # takes effect in a new file only
    _use_write_ahead_log(connection)
    pragmas = [
        "synchronous = FULL",
        f"foreign_keys = {'OFF' if mode == 'migrating' else 'ON'}",
        "journal_size_limit = 67108864",
    ]
    if mode == "reading":
        pragmas.append("query_only = ON")
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}")


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Try again while others do the same: this one statement does not wait for a lock, timeout or not."""
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
