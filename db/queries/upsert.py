"""INSERT … ON CONFLICT DO NOTHING, which SQLAlchemy spells per dialect."""

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
    if session.get_bind().dialect.name == "sqlite":
        statement: Any = sqlite.insert(table).on_conflict_do_nothing()
    else:
        statement = postgresql.insert(table).on_conflict_do_nothing()
    session.connection().execute(statement, list(rows))
