"""A catalogue with attributes that are spread over the vectors in different ways, for filters to choose from."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.queries import catalogue as queries
from db.queries import models
from db.queries.catalogue import ImageChange, NewEmbedding
from db.session import Database
from migrations import head, upgrade
from tests.benchmarks.catalogue import BLOCK, Gallery, Vectors, product_id, sqlite_url

KINDS = 10
"""Classes that the gallery's labels are gathered in."""
PARTS = (0.001, 0.009, 0.09, 0.4, 0.5)
"""Shares of the categories that each class is divided into: some rare, some common."""
SAMPLE = 20_000
"""Vectors that the main component is found by."""
IN_STOCK = 0.9

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Shop:
    """The attributes of products 0…n-1."""

    gallery: Gallery
    price: NDArray[np.float64]
    """0 to 100, evenly, whatever the vector."""
    shade: NDArray[np.float64]
    """0 to 1, evenly, along the main component of the vectors: those alike are near."""
    in_stock: Flags
    category: NDArray[np.int64]
    """Class x parts + part."""

    @classmethod
    def of(cls, gallery: Gallery) -> Shop:
        """Give the products attributes, the same every time."""
        size = len(gallery.rows)
        chance = np.random.default_rng(31)
        kinds = gallery.labels * KINDS // (int(gallery.labels.max()) + 1)
        parts = np.searchsorted(np.cumsum(PARTS)[:-1], chance.random(size), side="right")
        return cls(
            gallery=gallery,
            price=np.round(chance.permutation(size) * (100 / size), 6),
            shade=np.round(_ranks(_along(gallery.rows)) / size, 8),
            in_stock=chance.random(size) < IN_STOCK,
            category=kinds * len(PARTS) + parts,
        )

    def attributes(self, number: int) -> dict[str, Any]:
        """Those of a product, as a message would bring them."""
        return {
            "price": float(self.price[number]),
            "shade": float(self.shade[number]),
            "in_stock": bool(self.in_stock[number]),
        }


def _along(rows: Vectors) -> Vectors:
    """The vectors' places [n] along the direction in which they differ most."""
    sample = rows[:: max(1, len(rows) // SAMPLE)].astype(np.float64)
    covariance = np.cov(sample, rowvar=False)
    direction = np.linalg.eigh(covariance)[1][:, -1].astype(np.float32)
    return rows @ direction


def _ranks(values: Vectors) -> NDArray[np.int64]:
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks


def category(code: int) -> str:
    """Name of a category."""
    return f"class {code // len(PARTS)}, part {code % len(PARTS)}"


# -- SQL ------------------------------------------------------------------------------------------


def database_of(shop: Shop, folder: Path, cache: Path) -> str:
    """A copy, in `folder`, of the database with these products; made once for each size. Returns its URL."""
    gallery = shop.gallery
    made = cache / f"shop-{gallery.source}-{len(gallery.rows)}-{head()}.db"
    if not made.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = made.with_suffix(".part")
        part.unlink(missing_ok=True)
        database = Database(sqlite_url(part))
        upgrade(database)
        _fill(database, shop)
        database.close()
        part.rename(made)
    shutil.copy(made, folder / "catalogue.db")
    return sqlite_url(folder / "catalogue.db")


def _fill(database: Database, shop: Shop) -> None:
    rows = shop.gallery.rows
    with database.writing() as session:
        digest = hashlib.sha256(b"shop").hexdigest()
        model = models.register(session, digest, "benchmark (shop)", rows.shape[1], {})
    for start in range(0, len(rows), BLOCK):
        _put(database, shop, model.pk, range(len(rows))[start : start + BLOCK])


def _put(database: Database, shop: Shop, model_version_pk: int, numbers: range) -> None:
    blobs = [shop.gallery.rows[number].astype("<f4").tobytes() for number in numbers]
    digests = [hashlib.sha256(blob).digest() for blob in blobs]
    changes = [
        ImageChange(
            product_id(number), "main", digest, "benchmark",
            category(int(shop.category[number])), shop.attributes(number), 1,
        )
        for number, digest in zip(numbers, digests, strict=True)
    ]  # fmt: skip
    with database.writing() as session:
        embeddings = [
            NewEmbedding(digest, shop.gallery.rows.shape[1], blob)
            for digest, blob in zip(digests, blobs, strict=True)
        ]
        queries.add_embeddings(session, model_version_pk, embeddings)
        queries.apply(session, changes, [])
