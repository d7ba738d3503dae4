"""The schema's history, and the way to its newest state. `db.models` is what it leads to."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from db.errors import SchemaNewer, SchemaOutdated
from db.session import Database

__all__ = ["check_schema", "current", "downgrade", "head", "upgrade"]


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the schema to its newest state, in one transaction.

    Several processes may call it at once: the others wait, and find nothing left to do. Raises SchemaNewer when a
    later version has been here.
    """
    with database.migrating() as connection:
        _refuse_later(MigrationContext.configure(connection).get_current_revision())
        command.upgrade(_config(connection), revision)


def downgrade(database: Database, revision: str) -> None:
    """Take the schema back to an older revision (`base` for none at all), with the data that it cannot hold."""
    with database.migrating() as connection:
        command.downgrade(_config(connection), revision)


def check_schema(database: Database) -> None:
    """Raises SchemaOutdated unless the tables are those of this code; SchemaNewer if they are a later one's."""
    found, wanted = current(database), head()
    _refuse_later(found)
    if found != wanted:
        raise SchemaOutdated(
            f"the database's schema is at revision {found or 'none'} and this version needs {wanted}: "
            "run `lookalike-worker migrate`"
        )


def current(database: Database) -> str | None:
    """The revision that the schema is at; None for an empty database, or a file that is not there."""
    try:
        with database.reading() as session:
            return MigrationContext.configure(session.connection()).get_current_revision()
    except SchemaOutdated:
        return None


def head() -> str:
    """The newest revision."""
    return ScriptDirectory.from_config(_config()).get_current_head() or "none"


def _refuse_later(found: str | None) -> None:
    """A revision that this code has never heard of was made after it."""
    scripts = ScriptDirectory.from_config(_config())
    if found is not None and found not in {each.revision for each in scripts.walk_revisions()}:
        raise SchemaNewer(
            f"the database's schema is at revision {found}, of a later version than this one, which needs "
            f"{head()}: run that version, or have it take the schema back (`alembic downgrade {head()}`)"
        )


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    if connection is not None:
        config.attributes["connection"] = connection
    return config
