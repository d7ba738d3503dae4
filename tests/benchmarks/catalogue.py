"""Catalogues to measure on: vectors that are spread as a real network's are, and SQL filled with them."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from db.queries import catalogue, models
from db.queries.catalogue import ImageChange, NewEmbedding
from db.session import Database
from migrations import head, upgrade
from worker.demo.make_sample import SOURCE
from worker.training.idx import read_array

DIMENSION = 512
MODEL, POOLED, POOLED_WIDTH = "efficientnet-lite0:64", "_avg_pooling", 1280
"""The network of the vectors, and its last layer that is wide enough for them."""
BLOCK = 5000
FASHION, CLUSTERED = "fashion-mnist", "clustered"

JITTER = 0.15
"""Length of the noise on vectors that are made up; a picture's variations are 0.35 to 0.55 apart."""

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Variation:
    """A way in which a shop shows the same product once more."""

    name: str
    mirrored: bool = False
    turned: float = 0.0
    """Degrees."""
    box: tuple[float, float, float, float] = (0, 0, 28, 28)
    """The part of the 28 x 28 picture that is shown."""
    light: float = 1.0

    def picture(self, pixels: NDArray[np.uint8], side: int) -> Image.Image:
        """The negated grey picture in this variation, as RGB with this many pixels a side."""
        grey = Image.fromarray(255 - pixels)
        if self.mirrored:
            grey = grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.turned:
            grey = grey.rotate(self.turned, Image.Resampling.BICUBIC, fillcolor=255)
        enlarged = grey.resize((side, side), Image.Resampling.BICUBIC, self.box)
        if self.light != 1.0:
            enlarged = enlarged.point(lambda value: value * self.light)
        return enlarged.convert("RGB")


VARIATIONS = (
    Variation("plain"),
    Variation("mirrored", mirrored=True, light=0.9),
    Variation("nearer", box=(2, 2, 26, 26)),
    Variation("turned", turned=8.0, box=(0, 1, 27, 28), light=0.95),
)


@dataclass(frozen=True)
class Gallery:
    """The vectors of products 0…n-1, float32 [n, d] of unit length, one picture each, and their categories."""

    source: str
    rows: Vectors
    labels: NDArray[np.int64]

    @property
    def described(self) -> str:
        """Where the vectors are from, for a reader of the figures."""
        dimension = self.rows.shape[1]
        if self.source == CLUSTERED:
            return (
                f"{len(self.rows):,} x {dimension} synthetic vectors in 100 clusters "
                "(install Debian's dataset-fashion-mnist for a real network's)"
            )
        return (
            f"{len(self.rows):,} x {dimension} vectors: {MODEL} on Fashion-MNIST's 70,000 pictures in up to "
            f"four variations, projected to {dimension}; beyond 280,000, noisy copies"
        )


def product_id(number: int) -> str:
    """The id of a product."""
    return f"p{number:07}"


def number_of(id_: str) -> int:
    """The product of an id."""
    return int(id_[1:])


def gallery(count: int, cache: Path, *, real: bool = True, dimension: int = DIMENSION) -> Gallery:
    """Vectors of `count` products: a real network's where its pictures are installed, and unless `real` is off.

    Of a real network's at most 512 numbers are given: fewer are a random projection, as 512 are.
    """
    if real and SOURCE.is_dir():
        labels = np.concatenate([read_array(each) for each in sorted(SOURCE.glob("*labels*"))])
        variations = min(len(VARIATIONS), -(-count // len(labels)))
        rows = np.concatenate([_fashion(cache, VARIATIONS[i]) for i in range(variations)])
        if dimension < DIMENSION:
            rows = unit(rows[:, :dimension])
        # Shuffled, so that the first of them and those beyond are of the same kinds.
        order = np.random.default_rng(4).permutation(len(rows))
        labels = np.tile(labels.astype(np.int64), variations)
        return _jittered(rows[order], labels[order], count)
    return clustered(count, dimension)


def clustered(count: int, dimension: int = DIMENSION, seed: int = 1) -> Gallery:
    """Synthetic vectors in 100 clusters, whose variance falls off along the axes as a network's does."""
    chance = np.random.default_rng(seed)
    scale = (1 + np.arange(dimension)) ** -0.7
    centres = chance.standard_normal((100, dimension)) * scale
    labels = chance.integers(0, len(centres), count)
    rows = centres[labels] + 0.6 * chance.standard_normal((count, dimension)) * scale
    return Gallery(CLUSTERED, unit(rows.astype(np.float32)), labels)


def unit(rows: Vectors) -> Vectors:
    """The rows at length 1."""
    lengths: Vectors = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / lengths


def _jittered(rows: Vectors, labels: NDArray[np.int64], count: int) -> Gallery:
    """The rows, then as many noisy copies of some as are missing: as near as a product's other pictures are."""
    chance = np.random.default_rng(2)
    more = max(0, count - len(rows))
    first = chance.integers(0, len(rows), more)
    extra = np.empty((more, rows.shape[1]), np.float32)
    for start in range(0, more, BLOCK):
        part = rows[first[start : start + BLOCK]]
        noise = chance.standard_normal(part.shape, np.float32) * (JITTER / rows.shape[1] ** 0.5)
        extra[start : start + BLOCK] = unit(part + noise)
    together = np.concatenate([rows[:count], extra])
    return Gallery(FASHION, together, np.concatenate([labels[:count], labels[first]]))


def _fashion(cache: Path, variation: Variation) -> Vectors:
    path = cache / f"{FASHION}-{variation.name}-{DIMENSION}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        pictures = np.concatenate([read_array(each) for each in sorted(SOURCE.glob("*images*"))])
        np.save(path.with_suffix(".part.npy"), _embedded(pictures, variation))
        path.with_suffix(".part.npy").rename(path)
    rows: Vectors = np.load(path)
    return rows


def _embedded(pictures: NDArray[np.uint8], variation: Variation) -> Vectors:
    """The network's vectors of negated grey pictures, by a random projection that keeps their distances."""
    from worker.embedding import library
    from worker.embedding.network import Network

    source = library.resolve(MODEL)
    config = source.config.model_copy(update={"layer": POOLED, "dimension": POOLED_WIDTH})
    network = Network.load(replace(source, config=config), device="auto")
    side = config.image_size
    normal = np.random.default_rng(3).standard_normal((POOLED_WIDTH, DIMENSION))
    projection = np.linalg.qr(normal)[0].astype(np.float32)
    parts = []
    for start in range(0, len(pictures), 512):
        block = [variation.picture(each, side) for each in pictures[start : start + 512]]
        parts.append(network.embed(np.stack([np.asarray(each) for each in block])) @ projection)
    network.close()
    return unit(np.concatenate(parts))


# -- SQL ------------------------------------------------------------------------------------------


def sqlite_url(path: Path) -> str:
    """Address of the SQLite database in this file."""
    return f"sqlite:///{path.resolve()}"


def database_of(gallery: Gallery, folder: Path, cache: Path) -> str:
    """A copy, in `folder`, of the database with these products; made once for each size. Returns its URL."""
    size = "x".join(map(str, gallery.rows.shape))
    made = cache / f"catalogue-{gallery.source}-{size}-{head()}.db"
    if not made.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = made.with_suffix(".part")
        part.unlink(missing_ok=True)
        database = Database(sqlite_url(part))
        upgrade(database)
        fill(database, gallery)
        database.close()
        part.rename(made)
    shutil.copy(made, folder / "catalogue.db")
    return sqlite_url(folder / "catalogue.db")


def fill(database: Database, gallery: Gallery) -> None:
    """Add the products, 5,000 in a transaction, under a model version of their own."""
    digest = hashlib.sha256(gallery.source.encode()).hexdigest()
    dimension = gallery.rows.shape[1]
    with database.writing() as session:
        models.register(session, digest, f"benchmark ({gallery.source})", dimension, {})
    for start in range(0, len(gallery.rows), BLOCK):
        stop = start + BLOCK
        numbers = range(len(gallery.rows))[start:stop]
        put(
            database, list(numbers), gallery.rows[start:stop], gallery.labels[start:stop], version=1
        )


def put(
    database: Database,
    numbers: list[int],
    rows: Vectors,
    labels: NDArray[np.int64],
    version: int,
) -> int | None:
    """Give products these vectors, in one transaction, as an embed worker would; the revision."""
    blobs = [row.astype("<f4").tobytes() for row in rows]
    digests = [hashlib.sha256(blob).digest() for blob in blobs]
    changes = [
        ImageChange(product_id(number), "main", digest, "benchmark", f"class {label}", {}, version)
        for number, digest, label in zip(numbers, digests, labels.tolist(), strict=True)
    ]
    with database.writing() as session:
        model = models.active(session)
        assert model is not None
        embeddings = [
            NewEmbedding(digest, model.dimension, blob)
            for digest, blob in zip(digests, blobs, strict=True)
        ]
        catalogue.add_embeddings(session, model.pk, embeddings)
        return catalogue.apply(session, changes, []).revision


# -- truth ----------------------------------------------------------------------------------------


def exact(rows: Vectors, asked: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """The `limit` nearest other products of each product asked about, by brute force: int64 [m, limit]."""
    scores = rows[asked] @ rows.T
    scores[np.arange(len(asked)), asked] = -np.inf
    return np.argpartition(-scores, limit, axis=1)[:, :limit]


def recall(rows: Vectors, asked: NDArray[np.int64], answers: list[list[int]], limit: int) -> float:
    """Share of the true `limit` nearest that the answers hold."""
    truth = exact(rows, asked, limit)
    found = [len(set(true) & set(said)) for true, said in zip(truth.tolist(), answers, strict=True)]
    return sum(found) / (limit * len(answers))
