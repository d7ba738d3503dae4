"""What the index benchmark asks about, and what is true: made in a process that ends, so that nobody holds it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tests.benchmarks import catalogue
from tests.benchmarks.catalogue import Gallery, Vectors
from tests.benchmarks.fresh import measured
from tests.benchmarks.index_questions import STRANGER, Questions
from tests.benchmarks.index_run import LIMIT, Run, Scale

AT_ONCE = 50
"""Questions that brute force answers at once: 16 bytes for each and every vector."""
SEED = 21
PRODUCTS = 500
"""Products that whole lookups ask about."""
STRANGERS = 30_000
"""Vectors beyond the catalogue's that questions are taken from."""


@dataclass(frozen=True)
class Material:
    """A catalogue to build indexes of, and questions to ask them."""

    size: int
    described: str
    rows: Path
    """The vectors, float32 [size, d], to be mapped."""
    database: str
    """URL of the SQLite database with the products."""
    questions: Questions
    """Vectors that are in no index, as a shopper's photograph is: what every index is asked."""
    products: Questions
    """Products of the catalogue: what whole lookups are asked."""


def material(run: Run, size: int, folder: Path) -> Material:
    """Make it, in `folder`."""
    scale = run.scale
    made = measured(_made, size, scale, folder, run.cache)
    return made.result


def _made(size: int, scale: Scale, folder: Path, cache: Path) -> Material:
    queries = scale.queries
    more = catalogue.gallery(size + STRANGERS, cache, real=scale.real, dimension=scale.dimension)
    gallery = replace(more, rows=more.rows[:size], labels=more.labels[:size])
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "rows.npy", gallery.rows)
    return Material(
        size=size,
        described=gallery.described,
        rows=folder / "rows.npy",
        database=catalogue.database_of(gallery, folder, cache),
        questions=_of_strangers(gallery, more.rows[size:], queries),
        products=_of_products(gallery, min(queries, PRODUCTS)),
    )


def _of_products(gallery: Gallery, count: int) -> Questions:
    """Questions about products from all over the catalogue."""
    size = len(gallery.rows)
    numbers = np.random.default_rng(SEED).choice(size, min(count, size), replace=False)
    parts = [numbers[start : start + AT_ONCE] for start in range(0, len(numbers), AT_ONCE)]
    truth = np.concatenate([catalogue.exact(gallery.rows, part, LIMIT) for part in parts])
    return Questions(numbers, gallery.rows[numbers], truth)


def _of_strangers(gallery: Gallery, strangers: Vectors, count: int) -> Questions:
    """Questions about vectors of the same kind that are no product's."""
    chosen = np.random.default_rng(SEED).choice(len(strangers), count, replace=False)
    vectors = strangers[np.sort(chosen)]
    parts = [vectors[start : start + AT_ONCE] for start in range(0, count, AT_ONCE)]
    truth = [np.argpartition(-(p @ gallery.rows.T), LIMIT, axis=1)[:, :LIMIT] for p in parts]
    return Questions(np.full(count, STRANGER), vectors, np.concatenate(truth))
