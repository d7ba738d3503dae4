"""Runs migrations on the connection that the caller gave.

For the `alembic` command, which gives none: on the database of `-x url=…` or LOOKALIKE_DATABASE_URL.
"""

from __future__ import annotations

import os

from alembic import context
from alembic.util import CommandError
from sqlalchemy import text
from sqlalchemy.engine import Connection

from db import models
from db.session import Database

_ADVISORY_LOCK = 7_105_882_311
"""An arbitrary number, ours: one process at a time changes a PostgreSQL schema."""


def _url() -> str:
    url = context.get_x_argument(as_dictionary=True).get("url") or os.environ.get(
        "LOOKALIKE_DATABASE_URL"
    )
    if not url:
        raise CommandError("say which database: alembic -x url=… or LOOKALIKE_DATABASE_URL")
    return str(url)


def _migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
    context.configure(
        connection=connection,
        target_metadata=models.Product.metadata,
        # SQLite can change little of a table in place; batch mode copies it.
        render_as_batch=connection.dialect.name == "sqlite",
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def _main() -> None:
    connection = context.config.attributes.get("connection")
    if connection is not None:
        _migrate(connection)
        return
    database = Database(_url())
    try:
        with database.migrating() as own:
            _migrate(own)
    finally:
        database.close()


if context.is_offline_mode():
    raise CommandError("migrations run on a database: --sql is not supported")
_main()
