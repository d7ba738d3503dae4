"""Swaps under load, and clean-up (invariant 12)."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import threading
import time
from dataclasses import replace
from io import BufferedReader
from pathlib import Path

import pytest

from db.queries import generations
from db.session import Database
from producer.messages import Where
from tests.integration.catalogue_rows import repoint
from tests.unit.worker.index.factories import (
    QUICK,
    Shop,
    answerer,
    build,
    found,
    prefer_the_index,
    question,
    vectors,
)
from worker.index import cleanup, identity
from worker.index.follower import Follower
from worker.index.generation import Generation
from worker.index.hold import Hold
from worker.lookup import Answerer

SWAPS = 50


def _point_at(database: Database, number: int, expected: int) -> None:
    with database.writing() as session:
        assert repoint(session, number, expected)


def _held(data_dir: Path) -> tuple[int, int]:
    """Mappings and open files of this process that lie in the data directory."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text().count(str(data_dir))
    files = 0
    for entry in os.listdir("/proc/self/fd"):
        try:
            files += str(data_dir) in os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue  # closed meanwhile
    return maps, files


def test_fifty_swaps_under_lookups(
    sqlite_database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No error, no answer that mixes generations, no growth of mappings or open files."""
    prefer_the_index(monkeypatch)
    shop = Shop(sqlite_database)
    shop.fill(300)
    revisions = {build(sqlite_database, data_dir).number: 1}
    shop.add("only in two", shop.items["p1"].pictures["main"])
    revisions[build(sqlite_database, data_dir).number] = 2
    follower = Follower(sqlite_database, data_dir, interval=0.005)
    follower.start()
    answers = Answerer(sqlite_database, follower)
    stop, errors, seen = threading.Event(), [], set()

    def look() -> None:
        try:
            while not stop.is_set():
                for reply in answers.by_products(question("p1", "p2", "p3")).replies:
                    assert reply.generation is not None
                    seen.add(reply.generation)
                    assert len(reply.matches) == 10
                    assert reply.pending == 2 - revisions[reply.generation]
                    nearest = reply.matches[0].product_id
                    assert nearest == "only in two" or reply.product_id != "p1"
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        counts = _swap_to_and_fro(sqlite_database, data_dir, follower)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        follower.stop()
    assert errors == []
    assert seen == {1, 2}
    # Lookups in flight hold a generation a moment longer; a leak would be one more with every swap.
    for held in zip(*counts, strict=True):
        assert min(held[SWAPS // 2 :]) <= min(held[: SWAPS // 2]) + SWAPS / 10


def _swap_to_and_fro(
    database: Database, data_dir: Path, follower: Follower
) -> list[tuple[int, int]]:
    current, counts = 2, []
    for _ in range(SWAPS):
        _point_at(database, 3 - current, current)
        current = 3 - current
        deadline = time.monotonic() + 10
        while follower.view.number != current:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        counts.append(_held(data_dir))
    return counts


def test_a_generation_is_let_go_with_its_last_reference(
    sqlite_database: Database, data_dir: Path
) -> None:
    Shop(sqlite_database).fill(50)
    build(sqlite_database, data_dir)
    follower = Follower(sqlite_database, data_dir)
    view = follower.refresh()
    assert _held(data_dir) > (0, 1)
    build(sqlite_database, data_dir)
    follower.refresh()
    held = _held(data_dir)
    del view
    assert _held(data_dir) < held
    del follower
    assert _held(data_dir) == (0, 0)


def _names(data_dir: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in data_dir.glob("generation-*"))


def test_two_generations_are_kept(database: Database, data_dir: Path) -> None:
    Shop(database).fill(20)
    for _ in range(3):
        build(database, data_dir, replace(QUICK, keep=1))
    assert _names(data_dir) == [2, 3]
    with database.reading() as session:
        assert [row.number for row in generations.kept(session)] == [3, 2]


def test_a_generation_that_is_held_is_not_deleted(
    sqlite_database: Database, data_dir: Path
) -> None:
    shop = Shop(sqlite_database)
    shop.fill(20)
    build(sqlite_database, data_dir)
    held = Generation.open(next(data_dir.iterdir()))
    for _ in range(3):
        build(sqlite_database, data_dir)
    assert _names(data_dir) == [1, 3, 4]
    queries = held.vectors_at(held.slots.slots_of(held.slots.image_pks))
    assert held.near(queries, 3, 100).slots.min() >= 0
    del held
    build(sqlite_database, data_dir)
    assert _names(data_dir) == [4, 5]


def test_generations_are_deleted_on_a_network_file_system(
    sqlite_database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS makes a lock on bytes of `flock`, and those are for whoever may write them."""
    real = fcntl.flock

    def flock(file: int | BufferedReader, operation: int) -> None:
        writable = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        if operation & fcntl.LOCK_EX and not writable:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    Shop(sqlite_database)
    left = data_dir / f"generation-00000009-{identity.of(sqlite_database)}-7"
    left.mkdir()
    (left / "lock").touch()
    held = Hold(left)
    assert cleanup.clean(sqlite_database, data_dir, 2, token=99) == []
    del held
    assert cleanup.clean(sqlite_database, data_dir, 2, token=99) == [left.name]
    assert not left.exists()


def test_the_current_generation_is_not_deleted_after_a_rollback(
    sqlite_database: Database, data_dir: Path
) -> None:
    Shop(sqlite_database).fill(20)
    for _ in range(3):
        build(sqlite_database, data_dir, replace(QUICK, keep=3))
    _point_at(sqlite_database, 1, 3)
    cleanup.clean(sqlite_database, data_dir, 2, token=99)
    assert _names(data_dir) == [1, 2, 3]
    assert found(answerer(sqlite_database, data_dir), "p1")


def test_leftovers_are_removed(sqlite_database: Database, data_dir: Path) -> None:
    Shop(sqlite_database).fill(20)
    own = identity.of(sqlite_database)
    others = [".building-7", "generation-00000009-7", "generation-00000009-0a0a0a0a-7"]
    for name in (f".building-{own}-7", f"generation-00000009-{own}-7", *others):
        (data_dir / name).mkdir()
        (data_dir / name / "vectors.f16").write_bytes(b"x")
    (data_dir / "catalogue.db").write_bytes(b"not ours")
    build(sqlite_database, data_dir)
    left = {*others, "catalogue.db", f"generation-00000001-{own}-1"}
    assert {path.name for path in data_dir.iterdir()} == left


def test_any_sequence_of_changes_and_swaps_answers_as_brute_force_does(
    database: Database, data_dir: Path
) -> None:
    import numpy as np

    from tests.unit.worker.index.factories import assert_same

    random = np.random.default_rng(1)
    shop, answers = Shop(database), answerer(database, data_dir)
    pool = vectors(400, seed=1)
    shop.fill(30)
    for step in range(60):
        kind = random.choice(["add", "picture", "remove", "build"], p=[0.5, 0.25, 0.22, 0.03])
        name = f"p{random.integers(0, 60)}"
        if kind == "build":
            build(database, data_dir)
        elif kind == "remove" and name in shop.items:
            shop.remove(name)
        else:
            main = "main" if kind == "add" else f"side{random.integers(0, 3)}"
            shop.add(name, pool[step], name=main, category=f"c{step % 3}", attributes={"n": step})
        asked = sorted(shop.items)[int(random.integers(0, len(shop.items)))]
        assert_same(found(answers, asked, limit=8), shop.nearest(asked, 8))
        only: Where = {"category": f"c{step % 3}"}
        assert_same(found(answers, asked, where=only), shop.nearest(asked, 10, only))
