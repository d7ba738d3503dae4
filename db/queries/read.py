"""Reads that are compiled once and run on the driver's own cursor.

A lookup makes a handful of short reads, thousands of times a second, and a rebuild one of hundreds of
megabytes. Through SQLAlchemy's result layer the first cost three times as much, and PostgreSQL sends
the second as text, which is four times as slow as binary. The statements are SQLAlchemy's all the same.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from functools import cached_property
from typing import Any, cast

import psycopg
from sqlalchemy import BigInteger, BindParameter, Dialect, SelectBase, String, bindparam
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import QueryableAttribute, Session
from sqlalchemy.sql import ColumnElement
from sqlalchemy.sql.compiler import SQLCompiler

BLOCK = 2048
"""Rows that are in memory at once while streaming."""
_LONG_LIST = 64
"""Values above which PostgreSQL plans the read anew."""


class among(ColumnElement[bool]):  # noqa: N801 - reads as a SQL operator
    """`column IN (…)` of any number of values in one bound parameter, a list.

    One statement, whatever the number: an expanding IN would be compiled anew for each, and SQLite takes
    32,766 parameters at most. The column is text or an integer.
    """

    inherit_cache = False

    def __init__(self, column: QueryableAttribute[Any], name: str) -> None:
        self.column: ColumnElement[Any] = column.expression
        self.values: BindParameter[Any] = bindparam(name)
        self.array = "VARCHAR[]" if isinstance(column.type, String) else "BIGINT[]"
        if not isinstance(column.type, String | BigInteger):
            raise TypeError(f"{column} is neither text nor an integer")


@compiles(among, "sqlite")
def _among_sqlite(element: among, compiler: SQLCompiler, **kw: Any) -> str:
    column, values = compiler.process(element.column, **kw), compiler.process(element.values, **kw)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608 - a bound parameter


@compiles(among, "postgresql")
def _among_postgresql(element: among, compiler: SQLCompiler, **kw: Any) -> str:
    column, values = compiler.process(element.column, **kw), compiler.process(element.values, **kw)
    return f"{column} = ANY(CAST({values} AS {element.array}))"


class Read:
    """A SELECT, compiled once for each database. Lists are bound through `among`.

    PostgreSQL plans a statement that it sees often once and for all, for a short list and for the size that
    the table had then; while a catalogue is loaded that plan reads whole tables. A read that is `bulk`, or
    whose list is long, is planned each time: 0.3 ms, of the tens that a bad plan takes.
    """

    def __init__(self, statement: SelectBase, *, bulk: bool = False) -> None:
        self.statement = statement
        self.bulk = bulk

    def rows(self, session: Session, **parameters: Any) -> list[tuple[Any, ...]]:
        """All rows as plain tuples, as the driver gives them: JSON may be text (`as_json`), booleans 0 and 1."""
        found: list[tuple[Any, ...]] = self._execute(session, parameters).fetchall()
        return found

    def row(self, session: Session, **parameters: Any) -> tuple[Any, ...] | None:
        """The first row."""
        found: tuple[Any, ...] | None = self._execute(session, parameters).fetchone()
        return found

    def _execute(self, session: Session, parameters: Mapping[str, Any]) -> Any:
        connection = session.connection().connection.driver_connection
        if isinstance(connection, sqlite3.Connection):
            text, constants = self._sqlite
            lists = {k: _json_list(v) for k, v in parameters.items() if type(v) is list}
            return connection.execute(text, {**constants, **parameters, **lists})
        query, constants = self._postgresql
        cursor = psycopg.Cursor[tuple[Any, ...]](cast("psycopg.Connection[Any]", connection))
        cursor.format = psycopg.pq.Format.BINARY
        prepare = False if self.bulk or _has_long_list(parameters) else None
        return cursor.execute(query, {**constants, **parameters}, prepare=prepare)

    @cached_property
    def _sqlite(self) -> tuple[str, dict[str, Any]]:
        return _compile(self.statement, SQLiteDialect_pysqlite(paramstyle="named"))

    @cached_property
    def _postgresql(self) -> tuple[bytes, dict[str, Any]]:
        text, constants = _compile(
            self.statement, cast(Any, PGDialect_psycopg)(paramstyle="pyformat")
        )
        return text.encode(), constants


def as_json(value: Any) -> Any:
    """A JSON column of a `Read`: psycopg has parsed it already, sqlite3 gives its text."""
    if isinstance(value, str):
        return {} if value == "{}" else json.loads(value)
    return value


def _has_long_list(parameters: Mapping[str, Any]) -> bool:
    return any(type(each) is list and len(each) > _LONG_LIST for each in parameters.values())


def _json_list(values: list[Any]) -> str:
    return json.dumps(values, ensure_ascii=False)


def _compile(statement: SelectBase, dialect: Dialect) -> tuple[str, dict[str, Any]]:
    compiled = statement.compile(dialect=dialect)
    constants = {name: value for name, value in compiled.params.items() if value is not None}
    return str(compiled), constants
