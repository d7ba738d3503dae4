"""Judges generations of the service's own index: what each answers about the same products, and what it misses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from db.queries import catalogue, generations
from db.queries.catalogue import Described
from db.session import Database
from worker.evaluation import indexing
from worker.evaluation.indexing import IndexQuality
from worker.evaluation.page import Card, Contrast
from worker.evaluation.retrieval import Groups, shared
from worker.index.errors import IndexError_
from worker.index.generation import Expected, Generation
from worker.index.score import Vectors
from worker.index.search import scan

SEED = 0
AT_ONCE = 64
"""Products that are asked about together: each reads everything."""


class NotComparable(IndexError_):
    """A generation that is not kept, or that has too little in common with the other one."""


@dataclass(frozen=True, eq=False)
class JudgedGeneration:
    """What was measured of one generation."""

    number: int
    model: str
    """Digest of the model that its vectors are of."""
    images: int
    products: int
    revision: int
    precision: float | None
    """Share of the k nearest products that are of the category asked about; None if no product has one."""
    index: IndexQuality
    near: Groups
    """Pictures (keys in SQL) of each question's k nearest products [q, k], nearest first."""
    products_near: Groups
    """Those products [q, k]."""
    cosines: Vectors
    """Cosines of those pictures [q, k]."""


@dataclass(frozen=True, eq=False)
class GenerationsEvaluation:
    """One generation, or two beside each other, asked by exact search about products that both have."""

    asked: Groups
    """Pictures that are asked about [q]: keys in SQL."""
    categories: Sequence[str | None]
    """Of the products asked about [q]."""
    k: int
    generations: tuple[JudgedGeneration, ...]

    @property
    def overlap(self) -> float | None:
        """Mean share of the k nearest products that the two have in common."""
        return float(self._shared.mean()) if len(self.generations) == 2 else None

    @property
    def _shared(self) -> NDArray[np.float64]:
        one, other = self.generations
        return shared(one.products_near, other.products_near)

    def contrasts(self, database: Database, count: int) -> list[Contrast]:
        """The products whose nearest ones differ most, as the catalogue shows them now."""
        order = np.argsort(self._shared, kind="stable")[:count]
        wanted = {*self.asked[order].tolist()}
        for each in self.generations:
            wanted |= {*each.near[order].ravel().tolist()}
        with database.reading() as session:
            described = catalogue.describe(session, sorted(wanted))
            images = [(each.product_id, each.name) for each in described.values()]
            thumbnails = catalogue.thumbnails(session, images)
        cards = {pk: _card(pk, described.get(pk), thumbnails) for pk in wanted}
        return [
            Contrast(
                cards[int(self.asked[place])],
                (
                    _answers(self.generations[0], place, cards),
                    _answers(self.generations[1], place, cards),
                ),
                float(self._shared[place]),
            )
            for place in order.tolist()
        ]


def judge(
    database: Database,
    data_dir: Path,
    numbers: Sequence[int],
    *,
    k: int = 10,
    limit: int = 1000,
    on_step: Callable[[str, float], None] = lambda _step, _share: None,
) -> GenerationsEvaluation:
    """Ask generations about at most `limit` pictures that all of them have, chosen by chance, each time the same.

    Raises NotComparable, and GenerationRefused for one that is damaged.
    """
    opened = [open_kept(database, data_dir, number) for number in numbers]
    asked = _common(opened, limit)
    least = min(base.manifest.products for base in opened)
    if not len(asked) or least <= k:
        raise NotComparable(
            f"{len(asked)} pictures are in all of the generations, and the smallest has {least} products: too few "
            f"for {k} neighbours each (-k)"
        )
    judged = [
        _judged(base, asked, k, partial(on_step, f"generation {base.manifest.number}"))
        for base in opened
    ]
    return GenerationsEvaluation(asked, _categories(opened[0], asked), k, tuple(judged))


def open_kept(database: Database, data_dir: Path, number: int) -> Generation:
    """Open a generation whose files are kept. Raises NotComparable for another, and GenerationRefused."""
    with database.reading() as session:
        row = generations.get(session, number)
        kept = [str(each.number) for each in generations.kept(session)]
    if row is None or str(number) not in kept:
        there = f"kept are {', '.join(kept)}" if kept else "none is kept"
        raise NotComparable(
            f"generation {number} is not kept (LOOKALIKE_KEEP_GENERATIONS says how many are): {there}"
        )
    expected = Expected(row.number, row.model_digest, row.manifest_sha256)
    return Generation.open(data_dir / row.directory, expected)


def _common(opened: Sequence[Generation], limit: int) -> Groups:
    """Some of the pictures that all have, in the order of their keys."""
    common = opened[0].slots.sorted_pks
    for base in opened[1:]:
        common = np.intersect1d(common, base.slots.sorted_pks)
    chosen = np.random.default_rng(SEED).permutation(len(common))[:limit]
    return np.asarray(common)[np.sort(chosen)]


# -- judging --------------------------------------------------------------------------------------


def _judged(
    base: Generation, asked: Groups, k: int, progress: Callable[[float], None]
) -> JudgedGeneration:
    near = np.empty((len(asked), k), np.int64)
    products, cosines = near.copy(), np.empty((len(asked), k), np.float32)
    for start in range(0, len(asked), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        slots, squared = _nearest(base, base.slots.slots_of(asked[rows]), k)
        near[rows] = base.slots.image_pks[slots]
        products[rows] = base.slots.product_pks[slots]
        cosines[rows] = 1 - squared / 2
        progress(min(1.0, (start + AT_ONCE) / len(asked)))
    described = base.manifest
    return JudgedGeneration(
        described.number,
        described.model_digest,
        described.images,
        described.products,
        described.revision,
        _precision(base, asked, near),
        indexing.quality(base, indexing.within(base)),
        near,
        products,
        cosines,
    )


def _nearest(base: Generation, slots: Groups, k: int) -> tuple[Groups, Vectors]:
    """Slots and squared distances [q, k]: of each of the k nearest other products the nearest picture, exactly."""
    vectors, own = base.vectors_at(slots), base.slots.product_pks[slots]
    width = min(2 * k + 16, len(base))
    while True:
        found, squared = scan(base, vectors, width)
        firsts = [
            _firsts(base.slots.product_pks[row], product)[:k]
            for row, product in zip(found, own.tolist(), strict=True)
        ]
        if width == len(base) or min(map(len, firsts)) == k:
            break
        width = min(2 * width, len(base))
    places = np.array(firsts)
    return np.take_along_axis(found, places, axis=1), np.take_along_axis(squared, places, axis=1)


def _firsts(products: Groups, own: int) -> NDArray[np.int64]:
    """Places of the first picture of each product but one's own, in their order."""
    _, places = np.unique(products, return_index=True)
    places = np.sort(places)
    return np.asarray(places[products[places] != own], np.int64)


def _precision(base: Generation, asked: Groups, near: Groups) -> float | None:
    wanted, found = _codes(base, asked), _codes(base, near)
    known = wanted >= 0
    if not known.any():
        return None
    return float((found[known] == wanted[known, None]).mean())


def _codes(base: Generation, image_pks: Groups) -> Groups:
    """Category of each picture as a number, -1 for those without."""
    starts = np.array([each.start for each in base.slots.categories])
    named = np.array([each.name is not None for each in base.slots.categories])
    places = np.searchsorted(starts, base.slots.slots_of(image_pks.ravel()), "right") - 1
    return np.where(named[places], places, -1).reshape(image_pks.shape)


def _categories(base: Generation, asked: Groups) -> list[str | None]:
    names = [each.name for each in base.slots.categories]
    return [names[code] if code >= 0 else None for code in _codes(base, asked).tolist()]


# -- showing --------------------------------------------------------------------------------------


def _answers(
    judged: JudgedGeneration, place: int, cards: dict[int, Card]
) -> list[tuple[Card, float]]:
    found = zip(judged.near[place].tolist(), judged.cosines[place].tolist(), strict=True)
    return [(cards[pk], cosine) for pk, cosine in found]


def _card(pk: int, row: Described | None, thumbnails: dict[tuple[str, str], bytes]) -> Card:
    if row is None:
        return Card(f"picture {pk}, removed since", None, None)
    return Card(row.product_id, row.category, thumbnails.get((row.product_id, row.name)))
