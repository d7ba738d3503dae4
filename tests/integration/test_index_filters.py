"""Invariants 10 and 11: products by their own slots, and k matches whenever k exist."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from db.session import Database
from producer.messages import Range, Where
from tests.services import DatabaseFactory
from tests.unit.worker.index.factories import (
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
from worker.index import search
from worker.index.follower import Follower
from worker.index.search import Ask
from worker.lookup import Answerer

COUNT = 1500


@pytest.fixture(scope="module")
def filled(
    sqlite_databases: DatabaseFactory, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Shop, Answerer]]:
    """Products of 5 categories, some with side pictures, with changes after the index was built."""
    data_dir = tmp_path_factory.mktemp("filters")
    rows = vectors(COUNT + 200)
    centre = rows[0]
    order = np.argsort(((rows - centre) ** 2).sum(axis=1))
    rank = np.empty(len(rows), dtype=int)
    rank[order] = np.arange(len(rows))
    with sqlite_databases.migrated() as url:
        database = Database(url)
        shop = Shop(database)
        changes = [
            (
                f"p{i}",
                "main",
                rows[i],
                f"c{i % 5}",
                {"rank": int(rank[i]), "rare": i % 250 == 3, "tags": ["a", f"t{i % 7}"]},
            )
            for i in range(COUNT)
        ]
        shop.add_many(changes)
        build(database, data_dir)
        shop.add_many(
            [
                (f"p{i}", "side", rows[COUNT + i % 200], f"c{i % 4}", {"rank": int(rank[i])})
                for i in range(0, COUNT, 15)
            ]
        )
        shop.remove(*[f"p{i}" for i in range(1, COUNT, 50)])
        yield shop, answerer(database, data_dir)
        database.close()


WHERES: dict[str, Where] = {
    "nothing": {},
    "category": {"category": "c2"},
    "categories": {"category": ("c1", "c4", "no such")},
    "no category": {"category": "no such"},
    "rare": {"rare": True},
    "far away": {"rank": Range(ge=COUNT - 40)},
    "near": {"rank": Range(lt=30)},
    "one": {"rank": 17},
    "none": {"rank": Range(lt=0)},
    "both": {"category": "c3", "rank": Range(ge=COUNT // 2)},
    "tags": {"tags": ("t1", "t2")},
    "most": {"tags": "a"},
}


@pytest.mark.parametrize("limit", [1, 10, 1000])
@pytest.mark.parametrize("name", WHERES)
@pytest.mark.parametrize("indexed", [True, False], ids=["index", "planner"])
def test_k_matches_whenever_k_exist(
    filled: tuple[Shop, Answerer],
    name: str,
    limit: int,
    indexed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop, answers = filled
    if indexed:
        prefer_the_index(monkeypatch)
    for asked in ("p0", "p30", "p777"):
        truth = shop.nearest(asked, limit, WHERES[name])
        got = found(answers, asked, limit=limit, where=WHERES[name])
        assert len(got) == len(truth)
        distances = dict(shop.nearest(asked, COUNT, WHERES[name]))
        assert all(d == pytest.approx(distances[p], abs=1e-5) for p, d in got)
        as_near = sum(d <= truth[-1][1] + 1e-5 for _, d in got)  # at equal distances any will do
        assert as_near >= 0.8 * len(truth)


def test_a_category_is_searched_exactly(filled: tuple[Shop, Answerer]) -> None:
    shop, answers = filled
    for asked in ("p0", "p30", "p777"):
        for where in (WHERES["category"], WHERES["categories"]):
            assert_same(found(answers, asked, where=where), shop.nearest(asked, 10, where))


def test_a_large_category_is_searched_in_the_trees(
    filled: tuple[Shop, Answerer], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, answers = filled
    prefer_the_index(monkeypatch)
    where: Where = {"category": ("c0", "c1", "c2", "c3")}
    (reply,) = answers.by_products(question("p0", where=where)).replies
    assert reply.path == "annoy+overlay"
    assert len(reply.matches) == 10
    truth = {p for p, _ in shop.nearest("p0", 10, where)}
    assert len(truth & {m.product_id for m in reply.matches}) >= 8


def test_a_batch_answers_as_single_lookups_do(filled: tuple[Shop, Answerer]) -> None:
    _, answers = filled
    ids = [f"p{i}" for i in range(250)] + ["unknown", "p0"]
    batch = answers.by_products(question(*ids))
    assert batch.not_found == ("p1", "p51", "p101", "p151", "p201", "unknown")
    assert [r.product_id for r in batch.replies] == [i for i in ids if i not in batch.not_found]
    assert len({r.as_of for r in batch.replies}) == 1
    for reply in batch.replies[::10]:
        assert [(m.product_id, m.distance) for m in reply.matches] == found(
            answers, str(reply.product_id)
        )


def test_a_product_with_many_pictures_is_answered_once(
    sqlite_database: Database, data_dir: Path
) -> None:
    shop = Shop(sqlite_database)
    rows = vectors(700, seed=2)
    near = rows[0] + 0.001 * np.random.default_rng(0).standard_normal((400, 16))
    near = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    shop.add_many([("many", f"v{i}", near[i], None, {}) for i in range(400)])
    shop.add_many([(f"p{i}", "main", rows[i], None, {}) for i in range(300)])
    build(sqlite_database, data_dir, QUICK)
    view = Follower(sqlite_database, data_dir).refresh()
    everyone = Ask(rows[:1], np.array([0]), (frozenset(),), fetch=150)
    assert len(search.nearest(view, everyone)[0].image_pks) == 150
    shop.add_many([("few", f"v{i}", rows[500 + i], None, {}) for i in range(3)])
    answers = answerer(sqlite_database, data_dir)
    for asked in ("p0", "many", "few"):
        got = found(answers, asked, limit=20)
        assert len({p for p, _ in got}) == len(got) == 20
        assert asked not in dict(got)
        assert_same(got[:3], shop.nearest(asked, 3))


def test_a_lookup_by_picture(filled: tuple[Shop, Answerer]) -> None:
    shop, answers = filled
    vector = shop.items["p5"].pictures["main"]
    reply = by_picture(answers, vector, limit=5, where={"category": "c0"})
    assert reply.product_id is None
    assert reply.matches[0].product_id == "p5"
    assert reply.matches[0].distance < 1e-3
    assert {m.category for m in reply.matches} == {"c0"}


def test_a_thousand_products_have_slots_of_their_own(filled: tuple[Shop, Answerer]) -> None:
    """Every product finds the vector that SQL has of it, through the slot table."""
    shop, answers = filled
    view = answers._follower.refresh()
    base = view.generation
    assert base is not None
    assert sorted(base.slots.sorted_slots.tolist()) == list(range(COUNT))
    with answers._database.reading() as session:
        from db.queries import catalogue

        live = catalogue.live_images(session, [f"p{i}" for i in range(COUNT)])
        for product_id, product in list(live.items())[::20]:
            got, there = view.vectors_of(product.image_pks)
            stored = catalogue.vectors_of(session, product.image_pks, shop.model.pk)
            assert there.all()
            for row, pk in zip(got, product.image_pks, strict=True):
                assert np.array_equal(row, np.frombuffer(stored[pk], "<f4").astype(np.float16))
            assert product_id in shop.items
