"""INSERT … ON CONFLICT, which SQLAlchemy spells per dialect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from db.base import Base


def insert_new(session: Session, table: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows whose key is not there yet.

    Give rows in the order of their keys: two transactions that insert the same rows in opposite orders
    would wait for each other.
    """
    if not rows:
        return
    session.connection().execute(_insert(session, table).on_conflict_do_nothing(), list(rows))


def put(session: Session, table: type[Base], row: Mapping[str, Any], key: Sequence[str]) -> None:
    """Insert the row, or give the one of the same key its values."""
    values = {name: value for name, value in row.items() if name not in key}
    statement = _insert(session, table).values(**row)
    session.connection().execute(statement.on_conflict_do_update(index_elements=key, set_=values))


def _insert(session: Session, table: type[Base]) -> Any:
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)
