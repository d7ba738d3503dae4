"""Generations judged beside each other, against a catalogue that is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from db.queries import catalogue
from db.session import Database
from tests.fake_worker import TINY_JPEG
from tests.unit.worker.index.factories import QUICK, Shop, build, vectors
from worker.evaluation.generations import NotComparable, judge

KEEP = replace(QUICK, keep=5)


@pytest.fixture
def shop(database: Database, data_dir: Path) -> Shop:
    """60 products in a generation; in the next one half of them have gone, and others are near the rest."""
    shop = Shop(database)
    shop.fill(60)
    build(database, data_dir, KEEP)
    shop.remove(*(f"p{i}" for i in range(30)))
    for i, vector in enumerate(vectors(20, seed=9)):
        shop.add(f"new{i}", vector, category="c0")
    build(database, data_dir, KEEP)
    return shop


def test_exact_neighbours_of_what_both_have(shop: Shop, data_dir: Path) -> None:
    steps: list[str] = []
    found = judge(
        shop.database, data_dir, (2, 1), k=5, on_step=lambda step, _share: steps.append(step)
    )
    assert {*steps} == {"generation 2", "generation 1"}
    new, old = found.generations
    assert (new.number, new.images, old.number, old.images) == (2, 50, 1, 60)
    assert len(found.asked) == 30
    with shop.database.reading() as session:
        described = catalogue.describe(session, found.asked.tolist())
        near = catalogue.describe(session, new.near.ravel().tolist())
    asked = [described[pk] for pk in found.asked.tolist()]
    assert [row.category for row in asked] == list(found.categories)
    right = []
    for row, pks, cosines in zip(asked, new.near.tolist(), new.cosines.tolist(), strict=True):
        truth = shop.nearest(row.product_id, 5)
        assert [near[pk].product_id for pk in pks] == [product_id for product_id, _ in truth]
        assert cosines == pytest.approx([1 - d * d / 2 for _, d in truth], abs=1e-3)
        right += [near[pk].category == row.category for pk in pks]
    assert new.precision == pytest.approx(np.mean(right))
    common = [
        len({*a} & {*b}) / 5
        for a, b in zip(new.products_near.tolist(), old.products_near.tolist(), strict=True)
    ]
    assert found.overlap == pytest.approx(np.mean(common))
    assert 0 < np.mean(common) < 1
    assert new.index.recall > 0.9
    assert new.index.questions == 50


def test_a_product_of_many_pictures_counts_once(database: Database, data_dir: Path) -> None:
    shop = Shop(database)
    shop.fill(12)
    for i, vector in enumerate(vectors(40, seed=3)):
        shop.add("many", vector, name=f"view {i}")
    build(database, data_dir, KEEP)
    (found,) = judge(database, data_dir, (1,), k=6).generations
    assert all(len({*row}) == 6 for row in found.products_near.tolist())
    assert found.products == 13


def test_the_page_shows_what_the_catalogue_has_now(shop: Shop, data_dir: Path) -> None:
    found = judge(shop.database, data_dir, (1, 2), k=5)
    with shop.database.writing() as session:
        row = catalogue.describe(session, found.asked[:1].tolist())[int(found.asked[0])]
        catalogue.add_thumbnails(session, [(row.content_sha256, TINY_JPEG)])
    contrasts = found.contrasts(shop.database, 30)
    shares = [each.shared for each in contrasts]
    assert shares == sorted(shares)
    shown = {each.question.name: each.question for each in contrasts}
    assert shown[row.product_id].picture == TINY_JPEG
    answers = [card for each in contrasts for card, _ in each.answers[0]]
    assert any(card.name.endswith("removed since") and card.category is None for card in answers)


def test_a_generation_that_is_not_there(shop: Shop, data_dir: Path) -> None:
    with pytest.raises(NotComparable, match=r"generation 7 is not kept .*: kept are 2, 1"):
        judge(shop.database, data_dir, (2, 7))


def test_too_few_products_for_so_many_neighbours(shop: Shop, data_dir: Path) -> None:
    with pytest.raises(NotComparable, match="the smallest has 50 products: too few for 50"):
        judge(shop.database, data_dir, (1, 2), k=50)
