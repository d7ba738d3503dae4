"""Compares a generation with the one that it is to replace: how far they find the same, and the same category.

Both are searched exactly, so what differs is the models.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from db.queries.generations import Generation as Published
from worker.evaluation import retrieval
from worker.index.builder import Built
from worker.index.errors import EngineBroken, GenerationRefused
from worker.index.generation import Expected, Generation
from worker.index.score import Vectors

log = logging.getLogger(__name__)

SAMPLE = 200
"""Products that are asked about."""
NEAREST = 10
FETCHED = 4 * NEAREST
"""Pictures that are looked at to find that many products."""
BLOCK = 1 << 15
"""Vectors that are in memory as float32 at once."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Compared:
    """Of a sample of products that both have."""

    before: int
    """Number of the generation that was in service."""
    after: int
    products: int
    overlap: float
    """Share of the ten nearest products that both find."""
    category_before: float | None
    """Share of the ten nearest that are of the product's own category; None if no product has one."""
    category_after: float | None

    def __str__(self) -> str:
        """In a line."""
        said = (
            f"generation {self.after} beside {self.before}, {self.products} products: "
            f"overlap@10 {self.overlap:.2f}"
        )
        if self.category_before is None or self.category_after is None:
            return said
        return f"{said}, same category {self.category_after:.2f}, was {self.category_before:.2f}"


def compare(data_dir: Path, before: Published, built: Built, seed: int = 1) -> Compared | None:
    """Compare them; None where the one in service cannot be read, or they have too few products in common."""
    expected = Expected(before.number, before.model_digest, before.manifest_sha256)
    try:
        old = Generation.open(data_dir / before.directory, expected)
        new = Generation.open(built.directory)
    except (GenerationRefused, EngineBroken) as error:
        log.warning("generation %s is not compared: %s", built.manifest.number, error)
        return None
    common = np.intersect1d(old.slots.image_pks, new.slots.image_pks)
    if not len(common):
        return None
    count = min(SAMPLE, len(common))
    asked = np.sort(np.random.default_rng(seed).choice(common, count, replace=False))
    found_old, found_new = (_nearest(each, asked) for each in (old, new))
    width = min(found_old.shape[1], found_new.shape[1])
    if not width:
        return None
    return Compared(
        before=before.number,
        after=built.manifest.number,
        products=count,
        overlap=retrieval.overlap(found_old[:, :width], found_new[:, :width]),
        category_before=_same_category(old, asked, found_old),
        category_after=_same_category(new, asked, found_new),
    )


def _nearest(generation: Generation, asked: Numbers) -> Numbers:
    """Keys of the products nearest to each picture, its own aside: int [q, k], k as large as all have."""
    slots = generation.slots.slots_of(asked)
    queries = generation.vectors_at(slots)
    near = np.zeros((len(asked), 0), np.int64)
    scores = np.zeros((len(asked), 0), np.float32)
    for start, rows in _blocks(generation):
        here = np.arange(start, start + len(rows), dtype=np.int64)
        near = np.concatenate([near, np.tile(here, (len(asked), 1))], axis=1)
        scores = np.concatenate([scores, queries @ rows.T], axis=1)
        near, scores = _best(near, scores)
    products = np.asarray(generation.slots.product_pks, np.int64)
    found = [
        _products(products[row], products[slot]) for row, slot in zip(near, slots, strict=True)
    ]
    width = min(NEAREST, *map(len, found))
    return np.array([row[:width] for row in found], np.int64).reshape(len(found), width)


def _best(near: Numbers, scores: Vectors) -> tuple[Numbers, Vectors]:
    """Those of the greatest scores, in their order."""
    if near.shape[1] > FETCHED:
        some = np.argpartition(-scores, FETCHED, axis=1)[:, :FETCHED]
        near = np.take_along_axis(near, some, axis=1)
        scores = np.take_along_axis(scores, some, axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(near, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _blocks(generation: Generation) -> Iterator[tuple[int, Vectors]]:
    for start in range(0, len(generation), BLOCK):
        stop = min(start + BLOCK, len(generation))
        yield start, generation.vectors_at(np.arange(start, stop))


def _products(near: Numbers, own: int) -> list[int]:
    return [pk for pk in dict.fromkeys(near.tolist()) if pk != own][:NEAREST]


def _same_category(generation: Generation, asked: Numbers, found: Numbers) -> float | None:
    """Mean share of the products found that are of the category of the one asked about."""
    slots = generation.slots
    products, codes = np.asarray(slots.product_pks, np.int64), _codes(generation)
    order = np.argsort(products, kind="stable")
    theirs = codes[order[np.searchsorted(products[order], found)]]
    own = codes[slots.slots_of(asked)]
    named = own >= 0
    if not named.any():
        return None
    return float((theirs[named] == own[named, None]).mean())


def _codes(generation: Generation) -> Numbers:
    """Number of each slot's category; -1 for products that have none."""
    categories = generation.slots.categories
    starts = np.array([each.start for each in categories], np.int64)
    names = np.array([each.name is not None for each in categories], np.bool_)
    codes = np.searchsorted(starts, np.arange(len(generation)), "right") - 1
    return np.where(names[codes], codes, -1).astype(np.int64)
