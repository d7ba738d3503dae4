"""Invariant 9 in another process, without beat or Redis: its next lookup knows what was committed here."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from db.queries import catalogue
from db.queries.catalogue import ImageChange, NewEmbedding
from db.session import Database
from producer.messages import BatchReply, Range, Where
from tests.integration.lookup_process import LookupProcess
from tests.unit.worker.index.factories import (
    DIMENSION,
    Shop,
    assert_same,
    build,
    question,
    vectors,
)

COMMITS, WRITERS = 100, 6
QUIET = 4
"""Of so many commits, one is followed without a lookup."""
CHEAP: Where = {"price": Range(lt=50.0)}
DEAR: Where = {"price": Range(ge=50.0), "even": True}


@pytest.fixture
def shop(database: Database, data_dir: Path) -> Shop:
    """300 products, an index of them, and changes since: it is old."""
    made = Shop(database)
    made.fill(300)
    build(database, data_dir)
    rows = vectors(60, seed=2)
    for i in range(40):
        made.add(f"late{i}", rows[i], category="c1", attributes={"price": i, "even": True})
    made.remove(*(f"p{i}" for i in range(200, 240)))
    return made


@pytest.fixture
def other(shop: Shop, database_url: str, data_dir: Path) -> Iterator[LookupProcess]:
    """A process that answers, and follows in a thread as a worker does."""
    process = LookupProcess(database_url, data_dir)
    yield process
    process.close()


def ask(process: LookupProcess, product: str, **options: Any) -> BatchReply:
    """What the other process answers now."""
    asked = question(product, **options).model_dump(mode="json")
    return BatchReply.model_validate_json(json.dumps(process.ask("answer", question=asked)))


def near(process: LookupProcess, product: str, **options: Any) -> list[tuple[str, float]]:
    """Products and distances that the other process finds."""
    (reply,) = ask(process, product, **options).replies
    return [(match.product_id, match.distance) for match in reply.matches]


def test_a_commit_is_found_within_a_second(shop: Shop, other: LookupProcess) -> None:
    other.ask("prefer_the_index")
    asked = shop.items["p1"].pictures["main"]
    chance = np.random.default_rng(0)
    taken = []
    for i in range(COMMITS):
        row = asked + 0.001 * chance.standard_normal(DIMENSION).astype(np.float32)
        shop.add(f"new{i}", row / np.linalg.norm(row), attributes={"price": i, "even": False})
        began = time.monotonic()
        if i % QUIET == 0:
            taken.append(other.ask("wait_for", revision=_revision(shop)) - began)
            assert f"new{i}" in dict(near(other, "p1", limit=COMMITS))
        else:
            assert f"new{i}" in dict(near(other, "p1", limit=COMMITS))
            taken.append(time.monotonic() - began)
    assert np.percentile(taken, 99) <= 1.0, sorted(taken)[-5:]
    assert_same(near(other, "p1", limit=20), shop.nearest("p1", 20))


def test_a_removal_is_gone_on_the_very_next_lookup(shop: Shop, other: LookupProcess) -> None:
    for _ in range(30):
        gone = shop.nearest("p1", 1)[0][0]
        assert near(other, "p1", limit=1)[0][0] == gone
        removed = shop.items[gone]
        shop.remove(gone)
        assert gone not in dict(near(other, "p1", limit=400))
        assert ask(other, gone).not_found == (gone,)
        assert_same(near(other, "p1"), shop.nearest("p1", 10))
    shop.add(gone, removed.pictures["main"])
    assert near(other, "p1", limit=1)[0][0] == gone


@pytest.mark.parametrize("where", [CHEAP, DEAR], ids=["cheap", "dear"])
@pytest.mark.parametrize("indexed", [True, False], ids=["index", "planner"])
def test_a_price_counts_from_the_very_next_lookup(
    shop: Shop, other: LookupProcess, where: Where, indexed: bool
) -> None:
    """Of products in the index and of later ones, in both directions."""
    if indexed:
        other.ask("prefer_the_index")
    assert_same(near(other, "p1", where=where), shop.nearest("p1", 10, where))
    ours = [product for product, _ in shop.nearest("p1", 12)]
    for price in (49, 51, 3, 300, 50):
        for product in (*ours, "late3", "late33"):
            item = shop.items[product]
            attributes = {"price": price, "even": True}
            shop.add(product, item.pictures["main"], category=item.category, attributes=attributes)
            met = product in dict(near(other, "p1", limit=400, where=where))
            assert met == (price < 50 if where is CHEAP else price >= 50)
        for limit in (3, 10, 400):
            truth = shop.nearest("p1", limit, where)
            assert_same(near(other, "p1", limit=limit, where=where), truth)


def _revision(shop: Shop) -> int:
    with shop.database.reading() as session:
        return catalogue.head(session).revision


# -- several writers ----------------------------------------------------------------------------------------


@dataclass
class Writers:
    """Six at once, whose commits come some time after they were applied."""

    database: Database
    model: int
    asked: LookupProcess
    given: dict[int, list[int]] = field(default_factory=dict)
    """Revision → keys of the products that it brought."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, commits: int) -> None:
        """Write, and look after every commit whether it is known elsewhere."""
        with ThreadPoolExecutor(WRITERS) as pool:
            for done in [pool.submit(self._write, i, commits) for i in range(WRITERS)]:
                done.result()

    def _write(self, writer: int, commits: int) -> None:
        chance = random.Random(writer)
        rows = vectors(commits, seed=100 + writer)
        for number, row in enumerate(rows):
            product = f"w{writer}-{number}"
            revision = self._commit(product, row, chance.random() * 0.003)
            with self.lock:
                batch = ask(self.asked, product)
            assert batch.not_found == (), f"{product} is not known elsewhere"
            assert batch.replies[0].as_of.revision >= revision

    def _commit(self, product: str, row: Any, pause: float) -> int:
        blob = row.astype("<f4").tobytes()
        digest = hashlib.sha256(blob).digest()
        change = ImageChange(product, "main", digest, "bytes", "w", {"price": 1}, 1)
        with self.database.writing() as session:
            catalogue.add_embeddings(session, self.model, [NewEmbedding(digest, DIMENSION, blob)])
            revision = catalogue.apply(session, [change], []).revision
            time.sleep(pause)  # a late commit is what makes a plain sequence lose rows
        assert revision is not None
        with self.database.reading() as session:
            key = catalogue.live_images(session, [product])[product].product_pk
        self.given.setdefault(revision, []).append(key)
        return revision


def test_no_commit_of_six_writers_is_missed(
    shop: Shop, other: LookupProcess, database_url: str, data_dir: Path
) -> None:
    """Every view of revision r has all that was committed up to r, and nothing else."""
    commits = 30
    before = _revision(shop)
    following = LookupProcess(database_url, data_dir)
    try:
        following.tell("follow", revision=before + WRITERS * commits)
        writers = Writers(shop.database, shop.model.pk, other)
        writers.run(commits)
        seen = following.told()
    finally:
        following.close()
    ours = {key for keys in writers.given.values() for key in keys}
    assert len(ours) == WRITERS * commits
    assert len(seen) > commits
    for revision, products in seen:
        due = {key for given, keys in writers.given.items() if given <= revision for key in keys}
        assert ours.intersection(products) == due
    found = dict(near(other, "p1", limit=1000, where={"category": "w"}))
    assert len(found) == WRITERS * commits
