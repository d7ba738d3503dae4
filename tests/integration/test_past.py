"""Lookups in a kept generation: as it stood, under its own model, and never deleted under whoever asks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from db.queries import generations, models, revisions
from db.session import Database
from producer.browsing import PastLookup
from producer.ids import new_id
from producer.messages import BatchReply, Selection, Where
from producer.reasons import Reason
from tests.unit.worker.index.factories import QUICK, Shop, assert_same, build, half, vectors
from worker.browsing import kept_generations
from worker.desk import Unanswerable
from worker.index import cleanup
from worker.past import MOST, Past

KEEP = replace(QUICK, keep=5)


@pytest.fixture
def shop(sqlite_database: Database, data_dir: Path) -> Shop:
    """A catalogue of sixty products with a generation of its own."""
    made = Shop(sqlite_database)
    made.fill(60)
    build(sqlite_database, data_dir, KEEP)
    return made


@pytest.fixture
def past(sqlite_database: Database, data_dir: Path) -> Iterator[Past]:
    made = Past(sqlite_database, data_dir)
    yield made
    made.close()


def ask(
    past: Past, product_id: str, generation: int, limit: int = 10, where: Where | None = None
) -> BatchReply:
    selection = Selection(limit=limit, where=where or {})
    return past.answer(
        PastLookup(
            id=new_id(),
            expires_at=1e12,
            product_id=product_id,
            generation=generation,
            selection=selection,
        )
    )


def found(reply: BatchReply) -> list[tuple[str, float]]:
    return [(match.product_id, match.distance) for match in reply.replies[0].matches]


def test_it_is_answered_as_that_generation_stood(shop: Shop, past: Past, data_dir: Path) -> None:
    truth = shop.nearest("p1", 10)
    filtered = shop.nearest("p1", 5, {"category": "c2"})
    twin = half(vectors(60, seed=0)[1])
    shop.add("twin", twin)
    shop.add("p2", vectors(1, seed=9)[0], category="c2")
    build(shop.database, data_dir, KEEP)
    reply = ask(past, "p1", 1)
    assert_same(found(reply), truth)
    assert_same(found(ask(past, "p1", 1, 5, {"category": "c2"})), filtered)
    (answered,) = reply.replies
    assert (answered.generation, answered.pending, answered.product_id) == (1, 0, "p1")
    assert answered.model_version == shop.digest
    with shop.database.reading() as session:
        row = generations.get(session, 1)
    assert row is not None
    assert (answered.as_of.revision, answered.as_of.at) == (row.revision, row.created_at)
    assert found(ask(past, "p1", 2))[0][0] == "twin"


def test_what_was_removed_since_is_not_shown(shop: Shop, past: Past) -> None:
    truth = shop.nearest("p1", 12)
    gone = truth[0][0]
    shop.remove(gone)
    got = found(ask(past, "p1", 1, 10))
    assert gone not in dict(got)
    assert_same(got, truth[1:11])
    assert ask(past, gone, 1).not_found == (gone,)
    assert ask(past, "never there", 1).not_found == ("never there",)


def test_a_product_that_came_later_is_told(shop: Shop, past: Past) -> None:
    shop.add("late", vectors(1, seed=8)[0])
    with pytest.raises(Unanswerable, match="generation 1 does not have this product") as caught:
        ask(past, "late", 1)
    assert caught.value.reason is Reason.NOT_IN_GENERATION


def test_another_model_answers_by_its_own_vectors(shop: Shop, past: Past, data_dir: Path) -> None:
    truth = shop.nearest("p1", 10)
    other = Shop(shop.database, digest="e" * 64)
    with shop.database.writing() as session:
        revisions.lock(session)
        models.activate(session, other.model.pk)
    other.fill(60, seed=77)
    other.version = 1000
    other.add_many(
        [
            (f"p{i}", "main", row, f"c{i % 3}", {"price": i})
            for i, row in enumerate(vectors(60, seed=77))
        ]
    )
    build(shop.database, data_dir, KEEP)
    assert_same(found(ask(past, "p1", 1)), truth)
    assert ask(past, "p1", 1).replies[0].model_version == shop.digest
    assert ask(past, "p1", 2).replies[0].model_version == other.digest
    assert_same(found(ask(past, "p1", 2)), other.nearest("p1", 10))
    listed = kept_generations(shop.database, data_dir).generations
    assert [(each.number, each.current) for each in listed] == [(2, True), (1, False)]
    assert [each.model_version for each in listed] == [other.digest, shop.digest]


def test_a_generation_whose_files_a_restore_did_not_bring_is_not_listed(
    shop: Shop, data_dir: Path
) -> None:
    build(shop.database, data_dir, KEEP)
    (directory,) = data_dir.glob("generation-00000001-*")
    shutil.rmtree(directory)
    listed = kept_generations(shop.database, data_dir).generations
    assert [each.number for each in listed] == [2]


def test_unknown_and_removed_and_damaged_generations_are_told(
    shop: Shop, past: Past, data_dir: Path
) -> None:
    with pytest.raises(Unanswerable, match="generation 7 is not kept: there is 1") as caught:
        ask(past, "p1", 7)
    assert caught.value.reason is Reason.UNKNOWN_GENERATION
    (directory,) = data_dir.glob("generation-00000001-*")
    (directory / "vectors.f16").write_bytes(b"other")
    with pytest.raises(Unanswerable, match="generation 1 cannot be opened"):
        ask(past, "p1", 1)


def test_few_are_open_and_what_is_open_is_not_deleted_until_it_is_let_go(
    shop: Shop, past: Past, data_dir: Path
) -> None:
    for number in range(2):
        shop.add(f"more{number}", vectors(1, seed=60 + number)[0])
        build(shop.database, data_dir, KEEP)
    for number in (1, 2, 3, 1):
        assert ask(past, "p1", number).replies[0].generation == number
    assert [key[0] for key in past._opened] == [3, 1]
    assert len(past._opened) == MOST
    assert _deleted(shop.database, data_dir) == []
    past.close()
    impatient = Past(shop.database, data_dir, linger=0.05)
    ask(impatient, "p1", 1)
    deadline = time.monotonic() + 20
    while impatient._opened:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (name,) = _deleted(shop.database, data_dir)
    assert name.startswith("generation-00000001-")
    with pytest.raises(Unanswerable, match="generation 1 is not kept: there is 2, 3"):
        ask(past, "p1", 1)
    impatient.close()


def _deleted(database: Database, data_dir: Path) -> list[str]:
    """What a clean-up deletes that is to keep two generations."""
    return cleanup.clean(database, data_dir, 2, token=99)
