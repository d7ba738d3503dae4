"""`lookalike-worker reindex`, `rollback` and `verify` as an operator runs them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from db.models import Embedding
from db.session import Database
from producer import Producer
from tests.integration import damaged_catalogue as damaged
from tests.integration.damaged_catalogue import EmbedWorker
from tests.stack import producer_of, save_picture
from tests.unit.worker.index.factories import QUICK, Shop, build, vectors
from worker.cli import main, shell
from worker.index.errors import RecallTooLow
from worker.index.follower import Follower
from worker.up import Service

KEEP = replace(QUICK, keep=5)


class Terminal:
    """Runs the command, and keeps what it wrote."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.out = self.err = ""

    def run(self, *arguments: str) -> int:
        """The exit code."""
        self._monkeypatch.setattr(sys, "argv", ["lookalike-worker", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        self.out, self.err = self._capsys.readouterr()
        return int(ended.value.code or 0)

    def json(self, *arguments: str, code: int = 0) -> Any:
        """The one value that it wrote."""
        assert self.run(*arguments, "--json") == code
        assert self.err == ""
        return json.loads(self.out)

    @property
    def words(self) -> str:
        """What was written, whatever the width of the terminal did to it."""
        return " ".join(self.out.split())


@pytest.fixture
def terminal(
    database_url: str,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Terminal:
    """A terminal in a folder of its own, with the variables of a service that has a catalogue."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shell.console, "width", 300)
    monkeypatch.setenv("LOOKALIKE_DATABASE_URL", database_url)
    monkeypatch.setenv("LOOKALIKE_DATA_DIR", str(data_dir))
    monkeypatch.setenv("LOOKALIKE_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("LOOKALIKE_KEEP_GENERATIONS", "5")
    return Terminal(monkeypatch, capsys)


@pytest.fixture
def shop(database: Database, data_dir: Path) -> Shop:
    """60 products in two generations, and one since."""
    shop = Shop(database)
    shop.fill(60)
    for _ in range(2):
        build(database, data_dir, KEEP)
    shop.add("late", vectors(1, seed=4)[0])
    return shop


# -- rollback and reindex -------------------------------------------------------------------------


def test_a_rollback_says_what_is_current_and_how_to_end_it(
    terminal: Terminal, shop: Shop, data_dir: Path
) -> None:
    assert terminal.run("rollback") == 0
    assert "Generation 1 is current in the place of 2: 60 pictures up to revision 1" in terminal.out
    assert "which lookups take from the overlay: 1." in terminal.out
    assert "lookalike-worker reindex" in terminal.out
    view = Follower(shop.database, data_dir).refresh()
    assert (view.number, view.pending) == (1, 1)
    assert terminal.run("rollback") == 1
    assert terminal.err.startswith("error: no generation below the current one, 1, is kept")
    assert terminal.run("rollback", "1") == 1
    assert "generation 1 is current already" in terminal.err
    assert terminal.run("rollback", "seven") == 2
    back = terminal.json("rollback", "2")
    assert (back["number"], back["replaced"], back["pending"], back["pinned"]) == (2, 1, 1, True)
    assert terminal.json("verify")["pinned"] is True
    assert terminal.json("reindex")["number"] == 3
    assert terminal.json("verify")["pinned"] is False


def test_reindex_takes_what_is_below_the_target_only_if_forced(
    terminal: Terminal, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr("worker.index.rebuild.rebuild", _refusing(asked))
    assert terminal.run("reindex") == 1
    assert "error: too few" in terminal.err
    assert terminal.run("reindex", "--force") == 1
    assert "not rebuilt: another rebuild is running" in terminal.err
    assert asked == [False, True]


def _refusing(asked: list[bool]) -> Callable[..., None]:
    def rebuild(database: Database, data_dir: Path, settings: Any, **options: Any) -> None:
        asked.append(settings.force)
        assert options["over_pin"] is True
        if not settings.force:
            raise RecallTooLow("too few")

    return rebuild


# -- verify ---------------------------------------------------------------------------------------


def test_a_catalogue_in_order_is_verified_with_0(terminal: Terminal, shop: Shop) -> None:
    assert terminal.run("verify") == 0
    assert (
        "61 live pictures at revision 2, compared with generation 2 and 1 change since"
        in terminal.out
    )
    assert terminal.out.endswith("No gaps.\n")
    value = terminal.json("verify")
    assert {key: value[key] for key in ("clean", "generation", "images", "gaps", "findings")} == {
        "clean": True,
        "generation": 2,
        "images": 61,
        "gaps": 0,
        "findings": [],
    }
    assert value["repair"] is None
    assert terminal.json("verify", "--repair")["repair"] is None


def test_gaps_are_listed_by_kind_with_1_until_they_are_mended(
    terminal: Terminal, shop: Shop, data_dir: Path
) -> None:
    damaged.set_product(shop, "p13", category="c9")
    for each in range(20, 27):
        damaged.set_image(shop, f"p{each}", removed=True)
    damaged.flip(damaged.directory_of(data_dir, 1) / "vectors.f16")
    damaged.add_unused(shop.database, shop.model.pk, 2)
    assert terminal.run("verify") == 1
    assert "pictures in the index that are not live" in terminal.out
    assert "p20 (main)" in terminal.out
    assert "p13 (main): 'c1' in the index, 'c9' in the catalogue" in terminal.words
    assert "kept generations whose files are damaged" in terminal.out
    assert (
        "9 gaps of 3 kinds. `lookalike-worker verify --repair` mends what it can." in terminal.out
    )
    value = terminal.json("verify", code=1)
    found = {each["kind"]: (each["count"], each["gap"]) for each in value["findings"]}
    assert found == {
        "not_live": (7, True),
        "wrong_category": (1, True),
        "generation_damaged": (1, True),
        "unused_embedding": (2, False),
        "unused_thumbnail": (2, False),
    }
    (first, *_) = value["findings"]
    assert len(first["examples"]) == 5
    assert first["examples"][0] == {"product_id": "p20", "name": "main", "detail": None}

    assert terminal.run("verify", "--repair") == 0
    assert "Built generation 3." in terminal.out
    assert "Deleted generation-00000001-" in terminal.out
    assert "Deleted 2 embeddings and 2 thumbnails that no picture refers to." in terminal.out
    assert terminal.out.endswith("No gaps.\n")
    assert terminal.json("verify")["findings"] == []


def test_pictures_to_be_added_again_are_named(
    terminal: Terminal, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged.lose_vector(shop, *(f"p{i}" for i in range(25)))
    assert terminal.run("verify", "--repair") == 1
    assert "To be added again by the shop (`lookalike add`): 25 pictures" in terminal.out
    assert "and 5 more: --json names them" in terminal.out
    assert "25 gaps of 1 kind left." in terminal.out
    value = terminal.json("verify", "--repair", code=1)
    assert value["repair"]["add_again_count"] == len(value["repair"]["add_again"]) == 25


def test_pictures_are_embedded_again_through_the_queue(
    terminal: Terminal, shop: Shop, empty_valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from redis import Redis

    damaged.lose_vector(shop, "p3", "late")
    with Redis.from_url(empty_valkey_url) as redis:
        worker = EmbedWorker(shop, redis)
        worker.offer(shop, "p3", "late")
        assert terminal.run("verify", "--repair") == 1
        assert "! not all pictures could be sent to be embedded again: Redis at" in terminal.out
        monkeypatch.setenv("LOOKALIKE_REDIS_URL", empty_valkey_url)
        with worker.working():
            value = terminal.json("verify", "--repair", "--timeout", "20")
    assert (value["clean"], value["repair"]["sent"], value["repair"]["waiting"]) == (True, 2, 0)


def test_names_that_a_terminal_would_act_on_are_shown_harmless(
    terminal: Terminal, shop: Shop
) -> None:
    name = "\x1b[31mred[/]"
    shop.add(name, vectors(1, seed=9)[0])
    damaged.lose_vector(shop, name)
    assert terminal.run("verify") == 1
    assert "\ufffd[31mred[/] (main)" in terminal.out
    assert terminal.json("verify", code=1)["findings"][0]["examples"][0]["product_id"] == name


def test_a_database_that_is_away_is_one_line(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_DATABASE_URL", f"sqlite:///{tmp_path / 'nowhere.db'}")
    for command in ("verify", "rollback", "reindex"):
        assert terminal.run(command) == 1
        assert terminal.err.startswith("error: there is no catalogue at")
        assert terminal.err.count("\n") == 1


def test_the_schema_of_a_later_version_stops_what_starts_and_not_what_runs(
    terminal: Terminal,
    database_url: str,
    empty_valkey_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While a new version is rolled out: its `migrate` comes first, and the old one's processes go on."""
    monkeypatch.setenv("LOOKALIKE_REDIS_URL", empty_valkey_url)
    database = Database(database_url)
    with database.migrating() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'future'")
    database.close()
    assert terminal.run("health") == 0
    assert terminal.run("check") == 1
    assert "revision future, of a later version" in terminal.words
    assert terminal.run("migrate") == 1
    assert "revision future, of a later version" in terminal.err
    assert terminal.err.count("\n") == 1


def test_every_command_has_a_help(terminal: Terminal) -> None:
    for command in ("reindex", "rollback", "verify", "up", "run", "dead", "health"):
        assert terminal.run(command, "--help") == 0
        assert "Usage: lookalike-worker" in terminal.words or "Usage:" in terminal.out


# -- beside a running service ---------------------------------------------------------------------


@pytest.fixture
def producer(stack: Service) -> Iterator[Producer]:
    """A shop's producer on the running service."""
    with producer_of(stack) as opened:
        yield opened


def test_a_running_service_embeds_again_what_verify_asks_for(
    stack: Service, producer: Producer, folder: Path
) -> None:
    name = folder.name
    for seed in range(3):
        job = producer.add(f"{name}-{seed}", save_picture(folder / f"{seed}.jpg", 700 + seed))
        assert job.wait(60).applied == 1
    database = Database(stack.settings.database)
    digest = hashlib.sha256((folder / "1.jpg").read_bytes()).digest()
    away = (folder / "1.jpg").rename(folder / "away.jpg")  # or the backfill might be quicker
    with database.writing() as session:
        session.execute(delete(Embedding).where(Embedding.content_sha256 == digest))
    database.close()
    code, found = verify(stack)
    away.rename(folder / "1.jpg")
    missing = {each["kind"]: each for each in found["findings"]}["missing_embedding"]
    assert (code, missing["count"]) == (1, 1)
    assert missing["examples"][0]["product_id"] == f"{name}-1"
    code, mended = verify(stack, "--repair", "--timeout", "60")
    assert (code, mended["clean"], mended["repair"]["sent"]) == (0, True, 1)
    matches = producer.find_similar(f"{name}-0", limit=50).result(60).matches
    assert f"{name}-1" in {match.product_id for match in matches}


def verify(stack: Service, *arguments: str) -> tuple[int, Any]:
    """Exit code and value of `lookalike-worker verify --json`, run as a process of its own."""
    redis_url = stack.producer_settings.redis_url.get_secret_value()
    done = subprocess.run(
        [sys.executable, "-m", "worker", "verify", "--json", *arguments],
        env=os.environ | stack.settings.environment() | {"LOOKALIKE_REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)
