"""Everything that the database layer raises on its own account.

DatabaseError_
├── InvalidDatabaseUrl       LOOKALIKE_DATABASE_URL is not an address that we can use
├── DatabaseUnavailable      it cannot be reached, or is busy or full: the same call may work later
│   └── AccessDenied         its user may not do this, or it takes no changes from anybody
└── SchemaOutdated           the tables are not those of this code: `lookalike-worker migrate`
    └── SchemaNewer          they are those of a later version

No message holds a password: an address is shown without it and without its query.
"""

from __future__ import annotations


class DatabaseError_(Exception):  # noqa: N801 - SQLAlchemy and both drivers have a DatabaseError
    """The database could not be used."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


class InvalidDatabaseUrl(DatabaseError_):
    """LOOKALIKE_DATABASE_URL must look like sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME."""


class DatabaseUnavailable(DatabaseError_):
    """The database cannot be reached; check LOOKALIKE_DATABASE_URL and that the server runs."""


class AccessDenied(DatabaseUnavailable):
    """The database does not let its user do this, or takes no changes; check LOOKALIKE_DATABASE_URL."""


class SchemaOutdated(DatabaseError_):
    """The database's tables are not those of this version; run `lookalike-worker migrate`."""


class SchemaNewer(SchemaOutdated):
    """The database's tables are those of a later version; run that one."""
