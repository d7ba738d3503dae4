"""What LOOKALIKE_DATABASE_URL may be, and that a password in it is never shown."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from db.address import parse, shown
from db.errors import DatabaseError_, DatabaseUnavailable, InvalidDatabaseUrl, SchemaOutdated
from db.faults import translate
from db.session import Database

SECRET = "s3cr3t-w0rd"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_means_psycopg(scheme: str) -> None:
    assert parse(f"{scheme}://u@h/d").drivername == "postgresql+psycopg"


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("sqlite:///a.db").database == str(tmp_path / "a.db")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        SECRET,
        f"postgresql://u:{SECRET}@h:port/d",
        f"mysql://u:{SECRET}@h/d",
        f"postgresql+asyncpg://u:{SECRET}@h/d",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_what_cannot_be_used_is_refused_by_the_variable_and_without_the_secret(url: str) -> None:
    with pytest.raises(InvalidDatabaseUrl, match="LOOKALIKE_DATABASE_URL") as raised:
        Database(url)
    assert SECRET not in f"{raised.value}{raised.value.__cause__}"


@pytest.mark.parametrize(
    "url", [f"postgresql://u:{SECRET}@h:5/d", f"postgresql://h/d?password={SECRET}&user=u"]
)
def test_a_password_is_never_shown(url: str) -> None:
    assert SECRET not in shown(parse(url))
    assert SECRET not in repr(Database(url))


def busy(code: int) -> sqlite3.OperationalError:
    """An error as sqlite3 raises it."""
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (busy(sqlite3.SQLITE_BUSY), DatabaseUnavailable),
        (busy(sqlite3.SQLITE_BUSY_SNAPSHOT), DatabaseUnavailable),
        (busy(sqlite3.SQLITE_FULL), DatabaseUnavailable),
        (sqlite3.OperationalError("no such table: product"), SchemaOutdated),
        (sqlite3.IntegrityError("UNIQUE constraint failed"), type(None)),
        (psycopg.errors.UndefinedTable("relation"), SchemaOutdated),
        (
            psycopg.OperationalError("server closed the connection\nsecond line"),
            DatabaseUnavailable,
        ),
        (psycopg.errors.DeadlockDetected("deadlock"), DatabaseUnavailable),
        (psycopg.errors.UniqueViolation("duplicate"), type(None)),
    ],
)
def test_errors_are_told_apart_from_either_layer(
    error: Exception, kind: type[DatabaseError_ | None]
) -> None:
    assert type(translate(error, "somewhere")) is kind
    assert type(translate(OperationalError("SELECT", {}, error), "somewhere")) is kind
