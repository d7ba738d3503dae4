"""Catalogues with vectors, and the truth about them by brute force."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from db.queries import catalogue, models
from db.queries.catalogue import ImageChange, NewEmbedding, ProductRemoval
from db.session import Database
from producer.messages import BytesImage, PictureLookup, ProductLookup, Reply, Selection, Where
from worker.index import search
from worker.index.filters import matches
from worker.index.follower import Follower
from worker.index.generation import Generation
from worker.index.rebuild import BuildSettings, Rebuilt, rebuild
from worker.index.search import Plan
from worker.index.subset import Subset
from worker.lookup import Answerer

DIMENSION = 16
DIGEST = "d" * 64
QUICK = BuildSettings(trees=8, reduce_to=8, rerank=30, recall_margin=1.0)


def vectors(count: int, dimension: int = DIMENSION, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors [count, dimension] in clusters, as pictures of products are."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((12, dimension))
    rows = centres[random.integers(0, 12, count)] + 0.4 * random.standard_normal((count, dimension))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def half(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is left of a vector in an index."""
    return vector.astype(np.float16).astype(np.float32)


@dataclass
class Item:
    """What the shop last said of a product."""

    pictures: dict[str, NDArray[np.float32]]
    category: str | None
    attributes: dict[str, Any]


@dataclass
class Shop:
    """Writes to a catalogue as the embed worker does, and remembers what must be found in it."""

    database: Database
    digest: str = DIGEST
    items: dict[str, Item] = field(default_factory=dict)
    version: int = 0

    def __post_init__(self) -> None:
        with self.database.writing() as session:
            self.model = models.register(session, self.digest, "test", DIMENSION, {})

    def add(
        self,
        product_id: str,
        vector: NDArray[np.float32],
        *,
        name: str = "main",
        category: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Add or change one picture."""
        self.add_many([(product_id, name, vector, category, dict(attributes or {}))])

    def add_many(
        self,
        rows: Sequence[tuple[str, str, NDArray[np.float32], str | None, Mapping[str, Any]]],
    ) -> None:
        """Add pictures in one transaction."""
        embeddings, changes = [], []
        for product_id, name, vector, category, attributes in rows:
            self.version += 1
            blob = vector.astype("<f4").tobytes()
            digest = hashlib.sha256(blob).digest()
            embeddings.append(NewEmbedding(digest, len(vector), blob))
            changes.append(
                ImageChange(
                    product_id, name, digest, "bytes", category, dict(attributes), self.version
                )
            )
            pictures = self.items[product_id].pictures if product_id in self.items else {}
            self.items[product_id] = Item({**pictures, name: vector}, category, dict(attributes))
        with self.database.writing() as session:
            catalogue.add_embeddings(session, self.model.pk, embeddings)
            catalogue.apply(session, changes, [])

    def fill(self, count: int, *, categories: int = 3, seed: int = 0) -> None:
        """Add `p0`…, with a category, a price and a stock of their own."""
        rows = vectors(count, seed=seed)
        self.add_many(
            [
                (f"p{i}", "main", rows[i], f"c{i % categories}", {"price": i, "even": i % 2 == 0})
                for i in range(count)
            ]
        )

    def remember(self, count: int, *, categories: int = 3, seed: int = 0) -> None:
        """Know what `fill` wrote in another process."""
        for i, vector in enumerate(vectors(count, seed=seed)):
            attributes = {"price": i, "even": i % 2 == 0}
            self.items[f"p{i}"] = Item({"main": vector}, f"c{i % categories}", attributes)

    def remove(self, *product_ids: str) -> None:
        """Take products out."""
        self.version += 1
        with self.database.writing() as session:
            catalogue.apply(session, [], [ProductRemoval(i, self.version) for i in product_ids])
        for product_id in product_ids:
            del self.items[product_id]

    def nearest(
        self, product_id: str, limit: int, where: Where | None = None
    ) -> list[tuple[str, float]]:
        """The truth: products and distances, nearest first."""
        own = [half(v) for v in self.items[product_id].pictures.values()]
        found = []
        for other, item in self.items.items():
            if other != product_id and matches(where or {}, item.category, item.attributes):
                theirs = [half(v) for v in item.pictures.values()]
                distance = min(float(np.linalg.norm(a - b)) for a in own for b in theirs)
                found.append((other, distance))
        return sorted(found, key=lambda pair: pair[1])[:limit]


def question(*product_ids: str, limit: int = 10, where: Where | None = None) -> ProductLookup:
    """A lookup by products."""
    return ProductLookup(
        id="0" * 36,
        expires_at=1e12,
        product_ids=product_ids,
        selection=Selection(limit=limit, where=where or {}),
    )


def build(
    database: Database, data_dir: Path, settings: BuildSettings = QUICK, **options: Any
) -> Rebuilt:
    """Rebuild, and fail when nothing was built."""
    built = rebuild(database, data_dir, settings, **options)
    assert built is not None
    return built


def answerer(database: Database, data_dir: Path) -> Answerer:
    """One without a thread: every lookup refreshes by itself."""
    return Answerer(database, Follower(database, data_dir))


def by_picture(
    answers: Answerer,
    vector: NDArray[np.float32],
    *,
    digest: str = DIGEST,
    **options: Any,
) -> Reply:
    """The reply to a picture that has this vector."""
    asked = PictureLookup(
        id="0" * 36,
        expires_at=1e12,
        images=(BytesImage(key="0" * 64),),
        selection=Selection(**options),
    )
    reply = answers.by_pictures(asked, [vector], [], digest)
    assert isinstance(reply, Reply)
    return reply


def prefer_the_index(patched: pytest.MonkeyPatch) -> None:
    """Let the planner choose the index, which so few pictures never pay for."""
    real = search.plan

    def preferring(base: Generation, within: Subset, width: int, queries: int) -> Plan:
        return replace(real(base, within, width, queries), by_index=width < within.count)

    patched.setattr(search, "plan", preferring)


def found(answers: Answerer, product_id: str, **options: Any) -> list[tuple[str, float]]:
    """Products and distances that are found."""
    (reply,) = answers.by_products(question(product_id, **options)).replies
    return [(match.product_id, match.distance) for match in reply.matches]


def assert_same(got: list[tuple[str, float]], truth: list[tuple[str, float]]) -> None:
    """The same products at the same distances; those at equal distances may change places."""
    assert [round(d, 4) for _, d in got] == [round(d, 4) for _, d in truth]
    last = truth[-1][1] if truth else 0.0
    assert {p for p, d in got if d < last - 1e-4} == {p for p, d in truth if d < last - 1e-4}
