"""What the newest of some messages say, what the catalogue holds, and what a follower of its revisions knows."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from db.models import Embedding, Image, Product
from db.queries import catalogue, revisions
from db.session import Database
from producer.messages import ImageItem, PathImage, Removal

NEVER = -1
Described = tuple[str | None, str]
"""A product's category, and its attributes as JSON."""


@dataclass(frozen=True)
class StoredImage:
    """A row of a picture."""

    pk: int
    sha256: bytes
    version: int
    removed: bool
    vector: bytes | None
    revision: int


@dataclass(frozen=True)
class StoredProduct:
    """A row of a product, with those of its pictures by name."""

    described: Described
    version: int
    removed_version: int
    revision: int
    images: Mapping[str, StoredImage]


def _comparable(attributes: Mapping[str, Any]) -> str:
    return json.dumps(attributes, sort_keys=True)


def _text(described: Described) -> str:
    return json.dumps([described[0], json.loads(described[1])], sort_keys=True)


def stored(database: Database, prefix: str) -> dict[str, StoredProduct]:
    """What the catalogue holds of the products whose ids begin so."""
    mine = Product.product_id.startswith(prefix, autoescape=True)
    vectors = select(Image, Embedding.vector).join(Product, Product.pk == Image.product_pk)
    vectors = vectors.join(
        Embedding, Embedding.content_sha256 == Image.content_sha256, isouter=True
    )
    with database.reading() as session:
        images: dict[int, dict[str, StoredImage]] = defaultdict(dict)
        for image, vector in session.execute(vectors.where(mine)):
            row = (
                image.pk,
                image.content_sha256,
                image.version,
                image.removed,
                vector,
                image.revision,
            )
            images[image.product_pk][image.name] = StoredImage(*row)
        return {
            row.product_id: StoredProduct(
                (row.category, _comparable(row.attributes)),
                row.version,
                row.removed_version,
                row.revision,
                images[row.pk],
            )
            for row in session.scalars(select(Product).where(mine))
        }


@dataclass
class TrueProduct:
    """What the newest messages about a product say. Of those of one version the greatest in text counts."""

    version: int = NEVER
    described: Described | None = None
    removed_version: int = NEVER
    images: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """By name, the version and the digest of the bytes."""

    def change(self, item: ImageItem) -> None:
        """Hear of a picture."""
        said = (item.category, _comparable(item.attributes))
        if self.described is None or item.version > self.version:
            self.version, self.described = item.version, said
        elif item.version == self.version:
            self.described = max(self.described, said, key=_text)
        assert isinstance(item.image, PathImage)
        picture = (item.version, hashlib.sha256(item.image.path.encode()).digest())
        self.images[item.name] = max(self.images.get(item.name, picture), picture)


@dataclass(frozen=True)
class Truth:
    """What the catalogue must hold after some messages, whatever their order."""

    products: Mapping[str, TrueProduct]

    @classmethod
    def of(cls, items: Sequence[ImageItem | Removal]) -> Truth:
        """Take the newest of each."""
        products: dict[str, TrueProduct] = defaultdict(TrueProduct)
        for item in items:
            product = products[item.product_id]
            if isinstance(item, Removal):
                product.removed_version = max(product.removed_version, item.version)
            else:
                product.change(item)
        return cls(products)

    def contradictions(self, found: Mapping[str, StoredProduct]) -> Iterator[str]:
        """Where the catalogue says something else."""
        if found.keys() != self.products.keys():
            yield f"products {sorted(found)} instead of {sorted(self.products)}"
            return
        for product_id, truth in self.products.items():
            yield from (f"{product_id}: {each}" for each in _differences(truth, found[product_id]))


def _differences(truth: TrueProduct, found: StoredProduct) -> Iterator[str]:
    if (found.version, found.removed_version) != (truth.version, truth.removed_version):
        yield f"versions {found.version}, {found.removed_version} instead of {truth}"
    if truth.described and found.described != truth.described:
        yield f"{found.described} instead of {truth.described}"
    if found.images.keys() != truth.images.keys():
        yield f"pictures {sorted(found.images)} instead of {sorted(truth.images)}"
        return
    for name, (version, sha256) in truth.images.items():
        image = found.images[name]
        if (image.version, image.sha256) != (version, sha256):
            yield f"{name}: version {image.version} of other bytes than version {version}"
        if image.removed is not (version <= truth.removed_version):
            yield f"{name}: {'gone' if image.removed else 'there'} at {version}, {truth.removed_version}"
        if image.vector is None:
            yield f"{name}: has no vector"


@dataclass
class Follower:
    """Reads changes since the last revision that it has seen, as an index worker's overlay does."""

    database: Database
    model_version_pk: int
    revision: int = 0
    seen: dict[int, tuple[str | None, bytes | None]] = field(default_factory=dict)
    """Category and vector of each picture, by its key; no vector, if it is gone."""

    @classmethod
    @contextmanager
    def opened(cls, database_url: str, model_version_pk: int) -> Iterator[Follower]:
        """One with a connection of its own."""
        database = Database(database_url)
        yield cls(database, model_version_pk)
        database.close()

    def follow(self) -> None:
        """Take in what is new."""
        with self.database.reading() as session:
            now = revisions.current(session)
            for each in catalogue.changes_since(session, self.revision, self.model_version_pk):
                self.seen[each.image_pk] = (each.category, each.vector)
        self.revision = now

    def contradictions(self, found: Mapping[str, StoredProduct]) -> Iterator[str]:
        """Where it knows something else than the catalogue holds: a change that it missed."""
        for product_id, product in found.items():
            for name, image in product.images.items():
                if max(image.revision, product.revision) > self.revision:
                    yield f"{product_id}/{name} is of a revision that there has not been"
                category, vector = self.seen.get(image.pk, (None, None))
                if vector != (None if image.removed else image.vector):
                    yield f"{product_id}/{name}: a follower missed a change of its vector"
                elif vector is not None and category != product.described[0]:
                    yield f"{product_id}/{name}: a follower missed a change of its category"
