"""Invariants 6 and 9: one generation with its own overlay; every committed change is in the next answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from db.models import ModelVersion
from db.queries import models
from db.session import Database
from producer.messages import Range, Where
from tests.unit.worker.index.factories import (
    DIMENSION,
    QUICK,
    Shop,
    answerer,
    assert_same,
    build,
    by_picture,
    found,
    prefer_the_index,
    question,
    vectors,
)
from worker.index.follower import Follower
from worker.index.generation import Generation
from worker.index.rebuild import rebuild
from worker.index.view import View
from worker.lookup import Answerer, WrongModel


class Frozen(Follower):
    """Never notices anything after its first refresh: only the final check in SQL is left."""

    first: View | None = None

    def refresh(self) -> View:
        self.first = self.first or super().refresh()
        return self.first


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> float:
    """Seconds until it holds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.005)
    return time.monotonic() - began


@pytest.mark.parametrize("way", ["by the index", "by reading it", "before there is one"])
def test_every_change_is_in_the_next_answer(
    database: Database, data_dir: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(database)
    shop.fill(300)
    if way != "before there is one":
        build(database, data_dir, replace(QUICK, reduce_to=0, search_k=2000))  # finds all of them
    if way == "by the index":
        prefer_the_index(monkeypatch)
    answers = answerer(database, data_dir)
    assert_same(found(answers, "p1"), shop.nearest("p1", 10))
    nearest = shop.nearest("p1", 3)[0][0]

    shop.add("new", shop.items["p1"].pictures["main"])
    assert found(answers, "p1")[0] == ("new", 0.0)
    assert_same(found(answers, "new"), shop.nearest("new", 10))

    shop.remove(nearest)
    assert nearest not in dict(found(answers, "p1", limit=50))
    assert answers.by_products(question(nearest)).not_found == (nearest,)

    shop.add("new", -shop.items["p1"].pictures["main"])  # another picture under the same name
    assert "new" not in dict(found(answers, "p1", limit=50))

    other = shop.nearest("p1", 1)[0][0]
    shop.add(other, -shop.items["p1"].pictures["main"])  # its indexed picture must not find it
    assert other not in dict(found(answers, "p1", limit=50))
    assert_same(found(answers, "p1"), shop.nearest("p1", 10))

    shop.add(nearest, shop.items["p1"].pictures["main"])  # back again
    assert found(answers, "p1")[0] == (nearest, 0.0)
    assert_same(found(answers, "p1"), shop.nearest("p1", 10))


def test_attributes_are_those_of_now(database: Database, data_dir: Path) -> None:
    shop = Shop(database)
    shop.fill(50)
    build(database, data_dir)
    answers = answerer(database, data_dir)
    other = shop.nearest("p1", 1)[0][0]
    shop.add(other, shop.items[other].pictures["main"], category="c9", attributes={"price": 7})
    (match,) = answers.by_products(question("p1", limit=1)).replies[0].matches
    assert (match.product_id, match.category, match.attributes) == (other, "c9", {"price": 7})
    assert dict(found(answers, "p1", where={"category": "c9"})).keys() == {other}
    assert other not in dict(found(answers, "p1", limit=49, where={"price": Range(gt=7)}))


def test_the_reply_says_what_answered(
    database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(database)
    answers = answerer(database, data_dir)
    shop.fill(300)
    before = datetime.now(UTC)
    (reply,) = answers.by_products(question("p1")).replies
    assert (reply.path, reply.generation, reply.pending) == ("exact", None, 300)
    build(database, data_dir)
    shop.add("x", vectors(1, seed=3)[0], category="new")
    shop.remove("p7")
    (reply,) = answers.by_products(question("p1")).replies
    assert (reply.path, reply.generation, reply.pending) == ("exact+overlay", 1, 2)
    assert reply.as_of.revision == 3
    assert before <= reply.as_of.at <= datetime.now(UTC)
    (reply,) = answers.by_products(question("p1", where={"category": "new"})).replies
    assert reply.path == "overlay"
    (reply,) = answers.by_products(question("p1", where={"category": "c1"})).replies
    assert reply.path == "category"
    (reply,) = answers.by_products(question("p1", where={"even": True})).replies
    assert reply.path == "subset"
    (reply,) = answers.by_products(question("p1", where={"category": "nothing"})).replies
    assert (reply.path, reply.matches) == ("none", ())
    prefer_the_index(monkeypatch)
    ways: list[tuple[Where, str]] = [({}, "annoy+overlay"), ({"even": True}, "annoy")]
    for where, path in ways:
        (reply,) = answers.by_products(question("p1", limit=2, where=where)).replies
        assert reply.path == path


def test_an_empty_catalogue_answers(database: Database, data_dir: Path) -> None:
    answers = answerer(database, data_dir)
    assert answers.by_products(question("a", "b", "a")).not_found == ("a", "b")
    reply = by_picture(answers, vectors(1)[0], digest="x" * 64)
    assert (reply.matches, reply.path, reply.model_version) == ((), "none", None)


def test_the_final_check_drops_what_is_gone(database: Database, data_dir: Path) -> None:
    """A removal that commits after the view was made must not be in the answer."""
    shop = Shop(database)
    shop.fill(300)
    build(database, data_dir)
    follower = Frozen(database, data_dir)
    follower.refresh()
    gone = shop.nearest("p1", 5)[2][0]
    shop.remove(gone)
    got = found(Answerer(database, follower), "p1")
    assert gone not in dict(got)
    assert_same(got, shop.nearest("p1", 10))


def test_a_product_that_is_newer_than_the_view_can_be_asked_about(
    database: Database, data_dir: Path
) -> None:
    shop = Shop(database)
    shop.fill(300)
    build(database, data_dir)
    follower = Frozen(database, data_dir)
    follower.refresh()
    shop.add("new", vectors(1, seed=4)[0])
    assert_same(found(Answerer(database, follower), "new"), shop.nearest("new", 10))


def test_a_process_without_lookups_follows_within_a_second(
    sqlite_database: Database, data_dir: Path
) -> None:
    shop = Shop(sqlite_database)
    shop.fill(50)
    build(sqlite_database, data_dir)
    follower = Follower(sqlite_database, data_dir)
    follower.start()
    try:
        for i in range(3):
            shop.add(f"n{i}", vectors(1, seed=i)[0])
            pending = i + 1
            assert wait_for(lambda n=pending: follower.view.pending == n) < 1.0  # type: ignore[misc]
        build(sqlite_database, data_dir)
        assert wait_for(lambda: follower.view.number == 2) < 1.0
        assert follower.view.pending == 0
    finally:
        follower.stop()


def test_the_follower_outlives_a_database_that_fails(
    sqlite_database: Database,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from db.errors import DatabaseUnavailable
    from db.queries import catalogue

    shop = Shop(sqlite_database)
    shop.fill(5)
    follower = Follower(sqlite_database, data_dir, interval=0.01)
    follower.start()
    try:
        with monkeypatch.context() as broken:
            failures: list[int] = []

            def fail(session: object) -> None:
                failures.append(1)
                raise DatabaseUnavailable

            broken.setattr(catalogue, "head", fail)
            wait_for(lambda: len(failures) >= 2)
        shop.add("new", vectors(1)[0])
        wait_for(lambda: follower.view.images == 6)
    finally:
        follower.stop()


def test_lookups_do_not_wait_for_a_generation_to_be_opened(
    sqlite_database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    shop = Shop(sqlite_database)
    shop.fill(200)
    build(sqlite_database, data_dir)
    follower = Follower(sqlite_database, data_dir, interval=0.01)
    follower.start()
    answers = Answerer(sqlite_database, follower)
    begun, go_on, real = threading.Event(), threading.Event(), Generation.open.__func__  # type: ignore[attr-defined]

    def slow(cls: type[Generation], *args: object) -> Generation:
        begun.set()
        assert go_on.wait(30)
        opened: Generation = real(cls, *args)
        return opened

    try:
        with monkeypatch.context() as patched:
            patched.setattr(Generation, "open", classmethod(slow))
            build(sqlite_database, data_dir)
            assert begun.wait(10)
            shop.add("new", shop.items["p1"].pictures["main"])
            (reply,) = answers.by_products(question("p1")).replies
            assert (reply.generation, reply.matches[0].product_id) == (1, "new")
            go_on.set()
            wait_for(lambda: follower.view.number == 2)
        (reply,) = answers.by_products(question("p1")).replies
        assert (reply.generation, reply.matches[0].product_id) == (2, "new")
    finally:
        go_on.set()
        follower.stop()


# -- models ---------------------------------------------------------------------------------------


def _activate(database: Database, digest: str) -> None:
    from sqlalchemy import update

    with database.writing() as session:
        session.execute(update(ModelVersion).values(active=False))
        session.execute(
            update(ModelVersion).where(ModelVersion.digest == digest).values(active=True)
        )


def test_model_versions_are_never_mixed(database: Database, data_dir: Path) -> None:
    """What is embedded by a new model only cannot be compared with a generation of the old one."""
    shop = Shop(database)
    shop.fill(200)
    build(database, data_dir)
    answers = answerer(database, data_dir)
    before = found(answers, "p1")
    other = Shop(database, digest="e" * 64, version=10_000)
    assert other.model.pk != shop.model.pk
    _activate(database, "e" * 64)
    other.add("alien", shop.items["p1"].pictures["main"] + np.float32(0.001))
    (reply,) = answers.by_products(question("p1")).replies
    assert (reply.model_version, reply.generation) == ("d" * 64, 1)
    assert [(m.product_id, m.distance) for m in reply.matches] == before
    with pytest.raises(WrongModel, match="the index is of dddddddddddd"):
        by_picture(answers, vectors(1)[0], digest="e" * 64)
    assert by_picture(answers, vectors(1)[0]).matches

    assert rebuild(database, data_dir, QUICK) is not None
    (reply,) = answers.by_products(question("alien")).replies
    assert (reply.model_version, reply.generation, reply.matches) == ("e" * 64, 2, ())
    with pytest.raises(WrongModel):
        by_picture(answers, vectors(1)[0])


def test_without_an_index_a_new_active_model_is_taken_up(
    database: Database, data_dir: Path
) -> None:
    shop = Shop(database)
    shop.fill(5)
    answers = answerer(database, data_dir)
    assert len(found(answers, "p1")) == 4
    other = Shop(database, digest="e" * 64, version=10_000)
    _activate(database, "e" * 64)
    other.add("a", vectors(1, seed=1)[0])
    other.add("b", vectors(1, seed=2)[0])
    assert [p for p, _ in found(answers, "a")] == ["b"]
    with database.reading() as session:
        active = models.active(session)
    assert active is not None
    assert active.digest == "e" * 64


def test_a_vector_that_is_none_is_refused(sqlite_database: Database, data_dir: Path) -> None:
    Shop(sqlite_database).fill(5)
    answers = answerer(sqlite_database, data_dir)
    for bad in (vectors(1, DIMENSION + 1)[0], np.full(DIMENSION, np.nan, np.float32)):
        with pytest.raises(ValueError, match="16 finite"):
            by_picture(answers, bad)


def test_a_catalogue_restored_from_a_backup_is_read_again(
    sqlite_database: Database, data_dir: Path
) -> None:
    from sqlalchemy import text

    shop = Shop(sqlite_database)
    shop.fill(20)
    build(sqlite_database, data_dir)
    answers = answerer(sqlite_database, data_dir)
    shop.add("lost", vectors(1)[0])
    assert "lost" in dict(found(answers, "p1", limit=20))
    with sqlite_database.writing() as session:
        session.execute(text("DELETE FROM image WHERE revision = 2"))
        session.execute(text("UPDATE revision_counter SET value = 1"))
    (reply,) = answers.by_products(question("p1", limit=20)).replies
    assert (reply.as_of.revision, reply.pending, len(reply.matches)) == (1, 0, 19)
