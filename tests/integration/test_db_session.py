"""Sessions: snapshots, commits, and errors that say what to do and keep the password."""

from __future__ import annotations

import shutil
import sqlite3
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from db.errors import DatabaseError_, DatabaseUnavailable, SchemaOutdated
from db.queries import catalogue, revisions
from db.session import Database
from tests.services import DatabaseFactory, PostgresServer, free_port


def test_a_reading_session_sees_one_snapshot(database: Database) -> None:
    with database.reading() as session:
        assert revisions.current(session) == 0
        with database.writing() as other:
            revisions.take_next(other)
        assert revisions.current(session) == 0
    with database.reading() as session:
        assert revisions.current(session) == 1


def test_a_reading_session_cannot_write(database: Database) -> None:
    with (
        pytest.raises((DBAPIError, DatabaseError_), match=r"(?i)read-?only"),
        database.reading() as session,
    ):
        session.execute(text("UPDATE revision_counter SET value = 9"))
    with database.reading() as session:
        assert revisions.current(session) == 0


def test_a_writing_session_rolls_back_when_it_raises(database: Database) -> None:
    def fail() -> None:
        with database.writing() as session:
            revisions.take_next(session)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.reading() as session:
        assert revisions.current(session) == 0


def test_a_database_without_tables_says_migrate(databases: DatabaseFactory) -> None:
    with databases.empty() as url:
        database = Database(url)
        with (
            pytest.raises(SchemaOutdated, match="lookalike-worker migrate"),
            database.reading() as session,
        ):
            catalogue.head(session)
        with (
            pytest.raises(SchemaOutdated, match="lookalike-worker migrate"),
            database.writing() as session,
        ):
            revisions.take_next(session)
        database.close()


def test_a_server_that_cannot_be_reached_is_named_without_its_password() -> None:
    database = Database(
        f"postgresql://shop:s3cr3t@127.0.0.1:{free_port()}/catalogue?password=s3cr3t"
    )
    with (
        pytest.raises(
            DatabaseUnavailable, match=r"shop@127\.0\.0\.1.*LOOKALIKE_DATABASE_URL"
        ) as raised,
        database.reading() as session,
    ):
        catalogue.head(session)
    assert "s3cr3t" not in "".join(traceback.format_exception(raised.value))


def test_connections_that_the_server_closed_are_replaced(
    postgresql_databases: DatabaseFactory,
    postgres_server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("db.session._IDLE_BEFORE_PING", 0.0)
    with postgresql_databases.migrated() as url:
        database = Database(url)
        with database.reading() as session:
            catalogue.head(session)
        with database.writing() as session:
            mine = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
            kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> :mine"
            kill += " AND datname = current_database()"
            session.execute(text(kill), {"mine": mine})
        with database.reading() as session:
            assert catalogue.head(session).revision == 0
        database.close()


def test_a_writer_that_sleeps_in_its_transaction_does_not_stop_the_others_for_ever(
    postgresql_databases: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.session.SLEEPER_TIMEOUT", 0.1)
    with postgresql_databases.migrated() as url:
        sleeper, other = Database(url), Database(url)

        def oversleep() -> None:
            with sleeper.writing() as session:
                revisions.lock(session)
                with other.writing() as second:  # waits until the server ends the sleeper's session
                    revisions.take_next(second)
                revisions.current(session)

        with pytest.raises(DatabaseUnavailable):
            oversleep()
        sleeper.close()
        other.close()


def test_sqlite_makes_its_folder_and_waits_for_nobody_to_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "catalogue.db"
    database = Database(f"sqlite:///{path}")
    with pytest.raises(SchemaOutdated, match="migrate"), database.reading() as session:
        session.execute(text("SELECT 1"))
    assert not path.parent.exists()
    with database.migrating():
        pass
    with database.writing() as session:
        for pragma, value in {
            "journal_mode": "wal",
            "synchronous": 2,
            "foreign_keys": 1,
            "busy_timeout": 30_000,
        }.items():
            assert session.execute(text(f"PRAGMA {pragma}")).scalar_one() == value
        with database.reading() as reader:
            assert reader.execute(text("SELECT 1")).scalar_one() == 1
    database.close()


def test_many_may_open_a_new_sqlite_file_at_once(tmp_path: Path) -> None:
    barrier = Barrier(8)

    def open_and_read(folder: Path) -> None:
        database = Database(f"sqlite:///{folder}/new.db")
        barrier.wait()
        with database.migrating():
            pass
        with database.reading() as session:
            session.execute(text("SELECT 1"))
        database.close()

    with ThreadPoolExecutor(8) as pool:
        for attempt in range(5):
            list(pool.map(open_and_read, [tmp_path / str(attempt)] * 8))


def test_a_locked_sqlite_file_is_unavailable(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.session.BUSY_TIMEOUT", 0.05)
    second = Database(sqlite_database._url.render_as_string())
    with sqlite_database.writing() as session:
        revisions.take_next(session)
        with pytest.raises(DatabaseUnavailable, match="locked"), second.writing() as other:
            revisions.take_next(other)
    second.close()


@pytest.mark.parametrize("content", [b"not a database at all" * 100, None])
def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "catalogue.db"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    database = Database(f"sqlite:///{path}")
    with pytest.raises(DatabaseUnavailable, match="file"), database.reading() as session:
        catalogue.head(session)
    database.close()


def test_a_copied_database_file_is_whole(sqlite_databases: DatabaseFactory, tmp_path: Path) -> None:
    with sqlite_databases.migrated() as url:
        copy = tmp_path / "copy.db"
        shutil.copy(url.removeprefix("sqlite:///"), copy)
    connection = sqlite3.connect(copy)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
