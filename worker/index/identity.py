"""Which catalogue this is: what the names of its generations carry, where several share a data directory."""

from __future__ import annotations

import hashlib

from db.queries import models
from db.session import Database


def of(database: Database) -> str | None:
    """Eight hex digits, the same for as long as the catalogue exists; None before its first model.

    Made of the first model's digest and the microsecond in which it was registered, which a backup keeps.
    """
    with database.reading() as session:
        first = models.first_registered(session)
    if first is None:
        return None
    digest, created_at = first
    return hashlib.sha256(f"{digest} {created_at.timestamp():.6f}".encode()).hexdigest()[:8]
