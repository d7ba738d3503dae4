"""Invariant 13: a reader that has seen revision r never misses a change up to r, with six writers."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from db.queries import catalogue, revisions
from db.queries.models import ModelVersion
from db.session import Database
from tests.integration.catalogue_rows import embedding, image, model, visible

WRITERS = 6
COMMITS = 40


def write(database: Database, tiny: ModelVersion, writer: int) -> list[int]:
    """Commit products one by one, each some time after it was applied; the revisions given."""
    random_ = random.Random(writer)
    given = []
    for number in range(COMMITS):
        change = image(f"sku-{writer}-{number}")
        with database.writing() as session:
            catalogue.add_embeddings(session, tiny.pk, [embedding(change.content_sha256)])
            revision = catalogue.apply(session, [change], []).revision
            # A commit that is late is what makes a plain sequence lose rows.
            time.sleep(random_.random() * 0.003)
        assert revision is not None
        given.append(revision)
    return given


def follow(database: Database, tiny: ModelVersion, done: threading.Event) -> dict[int, int]:
    """Read what is new, by cursor, while writers write: picture → revision."""
    seen: dict[int, int] = {}
    cursor = 0
    while True:
        last = done.is_set()
        with database.reading() as session:
            head = catalogue.head(session).revision
            changes = list(catalogue.changes_since(session, cursor, tiny.pk))
        assert all(cursor < each.revision <= head for each in changes), "one snapshot"
        seen |= {each.image_pk: each.revision for each in changes}
        cursor = head
        if last:
            return seen


def test_a_follower_misses_nothing_of_six_writers(database: Database) -> None:
    tiny = model(database)
    done = threading.Event()
    with ThreadPoolExecutor(WRITERS + 1) as pool:
        follower = pool.submit(follow, database, tiny, done)
        writers = [pool.submit(write, database, tiny, number) for number in range(WRITERS)]
        try:
            given = [revision for each in writers for revision in each.result()]
        finally:
            done.set()
        seen = follower.result()
    assert sorted(given) == list(range(1, WRITERS * COMMITS + 1)), "one revision a commit, no gaps"
    assert sorted(seen.values()) == sorted(given)
    with database.reading() as session:
        assert len(visible(session)) == WRITERS * COMMITS


def test_writers_of_one_product_do_not_lose_each_other_s_pictures(database: Database) -> None:
    tiny = model(database)

    def add(number: int) -> None:
        with database.writing() as session:
            change = image("sku", number, name=f"picture {number}", content="same bytes")
            catalogue.add_embeddings(session, tiny.pk, [embedding(change.content_sha256)])
            catalogue.apply(session, [change], [])

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(add, range(30)))
    with database.reading() as session:
        (product,) = catalogue.live_images(session, ["sku"]).values()
        assert len(product.image_pks) == 30


def test_a_revision_is_given_back_when_its_transaction_fails(database: Database) -> None:
    class Crash(Exception):
        pass

    def crash() -> None:
        with database.writing() as session:
            assert revisions.take_next(session) == 1
            raise Crash

    with pytest.raises(Crash):
        crash()
    with database.writing() as session:
        assert revisions.current(session) == 0
        assert revisions.take_next(session) == 1
