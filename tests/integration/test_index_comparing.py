"""A generation of another model is compared with the one in service, by exact search on both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import select

from db.models import Image, Product
from db.queries import catalogue, generations, models
from db.queries.catalogue import NewEmbedding
from db.session import Database
from tests.unit.worker.index.factories import QUICK, Shop, build, half, vectors
from worker.index import comparing

COUNT = 120
KEEP = replace(QUICK, keep=5)


@pytest.fixture(autouse=True)
def _unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generations are not tried in a process of their own, which takes a second each."""
    monkeypatch.setattr("worker.index.builder.check_in_child", lambda *_: None)
    monkeypatch.setattr(comparing, "BLOCK", 50)


def rolled_out(database: Database, data_dir: Path, rows: NDArray[np.float32]) -> Any:
    """Have a second model with these vectors, in the order of the products, go into service; the comparison."""
    with database.writing() as session:
        other = models.register(session, "e" * 64, "other", 16, {})
        models.begin_rollout(session, other.pk, without_missing=False)
        statement = select(Product.product_id, Image.content_sha256).join(
            Image, Image.product_pk == Product.pk
        )
        made = [
            NewEmbedding(digest, 16, rows[int(product_id[1:])].astype("<f4").tobytes())
            for product_id, digest in session.execute(statement)
        ]
        catalogue.add_embeddings(session, other.pk, made)
    build(database, data_dir, KEEP)
    with database.reading() as session:
        current = generations.current(session)
        comparison = models.listed(session)[-1].comparison
    assert current is not None
    assert current.model_version_pk == other.pk
    return comparison


def nearest(rows: NDArray[np.float32]) -> NDArray[np.int64]:
    """The ten nearest of each, itself aside."""
    halves = np.stack([half(row) for row in rows])
    scores = halves @ halves.T
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :10]


def test_the_same_vectors_find_the_same(sqlite_database: Database, data_dir: Path) -> None:
    Shop(sqlite_database).fill(COUNT)
    build(sqlite_database, data_dir, KEEP)
    found = rolled_out(sqlite_database, data_dir, vectors(COUNT))
    assert found["overlap"] == 1.0
    assert found["category_before"] == found["category_after"]
    assert (found["before"], found["after"], found["products"]) == (1, 2, COUNT)


def test_others_find_what_they_find(sqlite_database: Database, data_dir: Path) -> None:
    Shop(sqlite_database).fill(COUNT)
    build(sqlite_database, data_dir, KEEP)
    rows = vectors(COUNT, seed=9)
    found = rolled_out(sqlite_database, data_dir, rows)
    old, new = nearest(vectors(COUNT)), nearest(rows)
    overlap = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(old, new, strict=True)])
    categories = np.arange(COUNT) % 3
    assert found["overlap"] == pytest.approx(overlap)
    for name, near in (("category_before", old), ("category_after", new)):
        assert found[name] == pytest.approx((categories[near] == categories[:, None]).mean())


def test_few_products_without_a_category(sqlite_database: Database, data_dir: Path) -> None:
    shop = Shop(sqlite_database)
    rows = vectors(3)
    for number in range(3):
        shop.add(f"p{number}", rows[number])
    build(sqlite_database, data_dir, KEEP)
    found = rolled_out(sqlite_database, data_dir, rows)
    assert (found["overlap"], found["category_after"]) == (1.0, None)


def test_one_product_is_nothing_to_compare(sqlite_database: Database, data_dir: Path) -> None:
    Shop(sqlite_database).add("p0", vectors(1)[0])
    build(sqlite_database, data_dir, KEEP)
    assert rolled_out(sqlite_database, data_dir, vectors(1)) is None


def test_a_damaged_generation_is_not_compared(sqlite_database: Database, data_dir: Path) -> None:
    Shop(sqlite_database).fill(20)
    build(sqlite_database, data_dir, KEEP)
    (directory,) = data_dir.glob("generation-*")
    (directory / "vectors.f16").write_bytes(b"")
    assert rolled_out(sqlite_database, data_dir, vectors(20)) is None
