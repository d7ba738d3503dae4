"""Tell the driver's errors apart: what another try may cure, and what a migration does."""

from __future__ import annotations

import sqlite3

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from db.errors import AccessDenied, DatabaseError_, DatabaseUnavailable, SchemaOutdated

TRANSLATED = (DBAPIError, PoolTimeout, sqlite3.Error, psycopg.Error)
"""What `translate` understands: SQLAlchemy's errors, and the drivers' own from bulk reads."""

_MISSING = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn)
_AWAY = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.IdleInTransactionSessionTimeout,  # this process slept, and its transaction is gone
)
_DENIED = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.ReadOnlySqlTransaction,  # a standby, also one that was the primary a moment ago
)
_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: "another process kept it locked for too long",
    sqlite3.SQLITE_LOCKED: "another process kept it locked for too long",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; check the folder and its permissions",
    sqlite3.SQLITE_READONLY: "it is read-only; check the permissions of the file and its folder",
    sqlite3.SQLITE_PERM: "the file cannot be opened; check its permissions",
    sqlite3.SQLITE_IOERR: "the disk failed",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_CORRUPT: "the file is damaged",
    sqlite3.SQLITE_NOTADB: "the file is not a SQLite database",
}


def translate(error: BaseException, address: str) -> DatabaseError_ | None:
    """The error that callers know for the driver's; None when it is a mistake in our own code."""
    if isinstance(error, PoolTimeout):
        return DatabaseUnavailable(
            f"the database {address} cannot be reached: every connection is busy"
        )
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, sqlite3.Error):
        return _sqlite(cause, address)
    if isinstance(cause, _MISSING):
        return SchemaOutdated()
    if isinstance(cause, _DENIED):
        return AccessDenied(_complaint(address, _first_line(cause)))
    if isinstance(cause, _AWAY):
        return DatabaseUnavailable(_complaint(address, _first_line(cause)))
    return None


def _sqlite(error: sqlite3.Error, address: str) -> DatabaseError_ | None:
    if str(error).startswith(("no such table", "no such column")):
        return SchemaOutdated()
    code = getattr(error, "sqlite_errorcode", None)
    reason = _UNAVAILABLE.get(code & 0xFF) if code is not None else None
    if code is None or reason is None:
        return None
    kind = AccessDenied if code & 0xFF == sqlite3.SQLITE_READONLY else DatabaseUnavailable
    return kind(_complaint(address, reason))


def _complaint(address: str, reason: str) -> str:
    return (
        f"the database {address} cannot be used: {reason} (LOOKALIKE_DATABASE_URL says where it is)"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
