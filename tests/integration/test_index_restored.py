"""The way back from a backup: SQL is enough, whatever is left of the index (`docs/operating.md`)."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from db.session import Database
from tests.unit.worker.index.factories import (
    Shop,
    answerer,
    build,
    found,
    prefer_the_index,
    vectors,
)
from worker.cli.catalogue import migrate
from worker.index.rebuild import read_state

PRODUCTS = 200


def answers(database: Database, data_dir: Path) -> dict[str, list[tuple[str, float]]]:
    """What some of the products look like, and how far that is."""
    asked = answerer(database, data_dir)
    return {f"p{i}": found(asked, f"p{i}", limit=10) for i in range(0, PRODUCTS, 10)}


def back_up(database_url: str, to: Path) -> None:
    """As the guide has it, while a reader and a writer are at it."""
    with sqlite3.connect(database_url.removeprefix("sqlite:///")) as source:
        source.execute("VACUUM INTO ?", [str(to)])
    source.close()


@pytest.mark.parametrize("left", ["nothing", "a later generation"])
def test_a_restored_backup_finds_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    prefer_the_index(monkeypatch)
    monkeypatch.setenv("LOOKALIKE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("LOOKALIKE_DATABASE_URL", raising=False)
    data_dir = tmp_path / "data"
    migrate()
    url = f"sqlite:///{data_dir / 'catalogue.db'}"
    database = Database(url)
    shop = Shop(database)
    shop.fill(PRODUCTS)
    build(database, data_dir)
    before = answers(database, data_dir)
    back_up(url, tmp_path / "backup.db")
    shop.add("later", vectors(1, seed=90)[0])
    shop.remove("p0")
    if left == "a later generation":
        build(database, data_dir)
    database.close()

    for path in data_dir.glob("*" if left == "nothing" else "catalogue.db*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copy(tmp_path / "backup.db", data_dir / "catalogue.db")
    migrate()
    restored = Database(url)
    try:
        # Where its files are gone, exact search answers, and the index worker has a reason to build.
        assert bool(read_state(restored, data_dir).damage) == (left == "nothing")
        assert answers(restored, data_dir) == before
        assert build(restored, data_dir).images == PRODUCTS
        assert answers(restored, data_dir) == before
    finally:
        restored.close()
