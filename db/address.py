"""Where the database is: what a URL may say, and how it is shown without its secrets."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from db.errors import InvalidDatabaseUrl

_POSTGRESQL = ("postgresql", "postgres", "postgresql+psycopg")
_SQLITE = ("sqlite", "sqlite+pysqlite")


def parse(url: str) -> URL:
    """Check a URL and name its driver. Raises InvalidDatabaseUrl, whose message never quotes `url`."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # `from None`: the parser's own message may quote the password.
        raise InvalidDatabaseUrl from None
    if "@" in (parsed.host or ""):  # what stands before it is a part of the password
        raise InvalidDatabaseUrl(
            "LOOKALIKE_DATABASE_URL has an @ too many: percent-encode the password's as %40"
        )
    if parsed.drivername in _POSTGRESQL:
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in _SQLITE:
        raise InvalidDatabaseUrl(
            f"LOOKALIKE_DATABASE_URL names {parsed.drivername!r}; "
            "sqlite:///PATH and postgresql://USER:PASSWORD@HOST/NAME are supported"
        )
    if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
        raise InvalidDatabaseUrl(
            "LOOKALIKE_DATABASE_URL must name a file: several processes share it (sqlite:///PATH)"
        )
    return parsed.set(drivername="sqlite+pysqlite", database=str(Path(parsed.database).absolute()))


def shown(url: URL) -> str:
    """The address without its password, and without its query, which may hold one too."""
    bare = URL.create(url.get_backend_name(), url.username, None, url.host, url.port, url.database)
    return bare.render_as_string()
