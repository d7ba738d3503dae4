"""A catalogue with its index, and what must be true of them at any moment, whatever died just now."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from db.models import IndexGeneration, Lease
from db.queries import generations, revisions
from db.session import Database
from producer.messages import Reply
from tests.unit.worker.index.factories import (
    QUICK,
    Shop,
    answerer,
    prefer_the_index,
    question,
    vectors,
)
from worker.index.errors import GenerationRefused
from worker.index.generation import Expected, Generation, verify_files
from worker.lookup import Answerer

EXACT = replace(QUICK, reduce_to=0, rerank=200, search_k=20_000)
"""Annoy looks at everything, so that its answers can be compared with the truth."""
PRODUCTS = 60
SAME = 1e-4
"""Distances that differ by less are the same."""
ASKED = 3
"""Products that each check asks about."""


@contextmanager
def site(
    database_url: str, data_dir: Path, chance: random.Random, products: int = PRODUCTS
) -> Iterator[Site]:
    """A site with a filled catalogue and no index, while the block runs."""
    data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(database_url)
    shop = Shop(database)
    shop.fill(products)
    yield Site(database_url, data_dir, chance, database, shop, answerer(database, data_dir))
    database.close()


@contextmanager
def index_preferred() -> Iterator[None]:
    """Answer from Annoy in this process, which so few pictures never pay for; not for several threads to enter."""
    with pytest.MonkeyPatch.context() as patched:
        prefer_the_index(patched)
        yield


@dataclass
class Site:
    """A catalogue and a data directory. Everybody else works on them from other processes."""

    database_url: str
    data_dir: Path
    chance: random.Random
    database: Database
    shop: Shop
    answers: Answerer
    """Goes on from check to check, as a search worker does."""
    highest: int = 0
    """The highest number that the pointer was seen at."""
    answered: int = 0
    """Answers that were compared with the truth."""

    def current(self) -> generations.Generation | None:
        """The row that the pointer names."""
        with self.database.reading() as session:
            return generations.current(session)

    def kept(self) -> list[generations.Generation]:
        """The rows of generations that were not deleted, newest first."""
        with self.database.reading() as session:
            return generations.kept(session)

    def change(self) -> None:
        """Have the shop change its mind about a product or two, so that no two generations are the same."""
        count = len(self.shop.items)
        product_id = f"p{self.chance.randrange(2 * count)}"
        vector = vectors(1, seed=self.chance.randrange(1 << 30))[0]
        self.shop.add(product_id, vector, category=f"c{self.chance.randrange(4)}")
        if len(self.shop.items) > count:
            self.shop.remove(self.chance.choice(sorted(self.shop.items)))

    def numbers(self) -> list[int]:
        """Numbers of all generations that ever were."""
        with self.database.reading() as session:
            return list(
                session.scalars(select(IndexGeneration.number).order_by(IndexGeneration.number))
            )

    def is_up_to_date(self) -> bool:
        """Whether the current generation has taken in every change."""
        with self.database.reading() as session:
            row = generations.current(session)
            return row is not None and row.revision == revisions.current(session)

    def let_the_lease_run_out(self) -> None:
        """As if its holder had slept through it."""
        past = datetime.now(UTC) - timedelta(seconds=1)
        with self.database.writing() as session:
            session.execute(
                update(Lease).where(Lease.name == generations.LEASE).values(expires_at=past)
            )

    # -- what must be true ------------------------------------------------------------------------

    def problems(self) -> Iterator[str]:
        """What is wrong now: with the pointer, the generation that it names, and what is answered from it."""
        yield from self.pointer_problems()
        row = self.current()
        if row is not None:
            yield from _damages(self.data_dir, row)
        number = row.number if row is not None else None
        asked = self.chance.sample(sorted(self.shop.items), ASKED)
        for who, answers in (
            ("a new", answerer(self.database, self.data_dir)),
            ("the old", self.answers),
        ):
            yield from (f"{who} process: {each}" for each in self._wrong(answers, asked, number))

    def pointer_problems(self) -> Iterator[str]:
        """Whether the pointer went backwards."""
        row = self.current()
        number = row.number if row is not None else 0
        if number < self.highest:
            yield f"the pointer went back from {self.highest} to {number}"
        self.highest = max(self.highest, number)

    def _wrong(self, answers: Answerer, asked: list[str], number: int | None) -> Iterator[str]:
        for product_id in asked:
            (reply,) = answers.by_products(question(product_id)).replies
            if reply.generation != number:
                yield f"answers from generation {reply.generation}, the pointer names {number}"
            yield from self.wrong(product_id, reply)

    def wrong(self, product_id: str, reply: Reply) -> Iterator[str]:
        """Whether what was answered about a product is not the truth."""
        self.answered += 1
        got = [(match.product_id, match.distance) for match in reply.matches]
        truth = self.shop.nearest(product_id, 10)
        if not _alike(got, truth):
            yield f"{product_id}: wrong answer by {reply.path}: {got} instead of {truth}"

    def litter(self) -> list[str]:
        """What should not lie in the data directory when nobody builds, and only this process asks."""
        count = len(self.kept())
        return self.strays() + ([f"{count} generations are kept"] if count > EXACT.keep else [])

    def strays(self) -> list[str]:
        """What lies in the data directory and is no part of a generation that is kept."""
        named = {row.directory for row in self.kept()}
        found = {path.name for path in self.data_dir.iterdir()}
        strays = [f"left: {name}" for name in sorted(found - named)]
        missing = [f"gone: {name}" for name in sorted(named - found)]
        parts = [f"left: {path.name}" for path in self.data_dir.rglob("*.part")]
        return strays + missing + parts


def _alike(got: list[tuple[str, float]], truth: list[tuple[str, float]]) -> bool:
    """Whether they are the same products at the same distances; of those at equal distances any will do."""
    near = [distance for _, distance in truth]
    sure = {each for each, distance in truth if distance < near[-1] - SAME}
    pairs = zip(near, (distance for _, distance in got), strict=False)
    return (
        len(got) == len(truth)
        and sure <= {each for each, _ in got}
        and all(abs(one - other) < SAME for one, other in pairs)
    )


def _damages(data_dir: Path, row: generations.Generation) -> Iterator[str]:
    """What is wrong with the files of a generation."""
    directory = data_dir / row.directory
    try:
        opened = Generation.open(
            directory, Expected(row.number, row.model_digest, row.manifest_sha256)
        )
        verify_files(directory, opened.manifest)
    except GenerationRefused as error:
        yield f"generation {row.number} is not whole: {error}"
        return
    if len(opened) != row.images:
        yield f"generation {row.number} has {len(opened)} pictures instead of {row.images}"
