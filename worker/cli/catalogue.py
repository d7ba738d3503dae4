"""`migrate` and `dead`: the catalogue's tables, and what did not get into it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from db.queries import dead_letters
from producer.cli.terminal import visible
from worker.cli.shell import AsJson, catalogue, console, print_json, settings


def migrate() -> None:
    """Bring the catalogue's tables to this version, from any earlier one or from none."""
    from migrations import upgrade

    with catalogue(settings()) as database:
        upgrade(database)
    console.print("The catalogue's tables are up to date.")


def dead(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the pictures that were given up, with the reason of each."""
    with catalogue(settings()) as database, database.reading() as session:
        letters = dead_letters.list_(session, limit=limit)
    if as_json:
        print_json([vars(letter) for letter in letters])
        return
    table = Table("product", "picture", "reason", "detail", "attempts", "when")
    for letter in letters:
        shown_as = (letter.product_id, letter.name, letter.reason, letter.detail, letter.attempts)
        cells = [Text(visible("" if cell is None else str(cell))) for cell in shown_as]
        table.add_row(*cells, Text(f"{letter.created_at:%Y-%m-%d %H:%M:%S}"))
    console.print(table if letters else "None.")
