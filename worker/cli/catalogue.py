"""`migrate`: the catalogue's tables."""

from __future__ import annotations

from worker.cli.shell import catalogue, console, settings


def migrate() -> None:
    """Bring the catalogue's tables to this version, from any earlier one or from none."""
    from migrations import upgrade

    with catalogue(settings()) as database:
        upgrade(database)
    console.print("The catalogue's tables are up to date.")
