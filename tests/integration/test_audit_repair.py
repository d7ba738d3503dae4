"""`verify --repair` mends every kind of gap by what it needs, audits again, and says what it could not mend."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import Embedding, Thumbnail
from db.queries import audit as reads
from db.queries import catalogue, generations, revisions
from db.session import Database
from producer.ledger import Ledger
from producer.messages import ImageItem, ItemFailure
from tests.integration import damaged_catalogue as damaged
from tests.integration.damaged_catalogue import EmbedWorker
from tests.integration.test_audit import CASES, KEEP, Case, a_counter_set_back, counts, filled
from tests.unit.worker.index.factories import Shop, build, half, vectors
from worker.audit import unused
from worker.audit.auditor import Auditor
from worker.audit.findings import OF_EMBEDDINGS, Kind
from worker.audit.repair import CAME_AS_BYTES, Embedders, Repaired, Repairer
from worker.audit.requeue import Requeue
from worker.audit.unused import Used
from worker.index.follower import Follower
from worker.index.generation import Generation
from worker.index.rollback import rollback
from worker.lease import Lease
from worker.settings import WorkerSettings


class Nobody:
    """Where nothing must be embedded again."""

    sent = 0
    attended = False
    failures: tuple[ItemFailure, ...] = ()

    def send(self, pictures: Sequence[tuple[bytes, ImageItem]]) -> None:
        pytest.fail(f"{len(pictures)} pictures are sent for nothing")

    def wait(self, on_share: Callable[[float], None]) -> int:
        raise AssertionError


def repair(
    database: Database, data_dir: Path, embedders: Embedders | None = None, limit: int = 1000
) -> Repaired:
    """An audit, and what its findings need."""
    auditor = Auditor(database, data_dir, overlay_limit=limit)
    repairer = Repairer(database, data_dir, KEEP, auditor=auditor, embedders=embedders or Nobody())
    return repairer.repair(auditor.audit())


@pytest.fixture
def shop(database: Database, data_dir: Path) -> Shop:
    """60 products in two generations, with changes since the second, on one database and then on the other."""
    return filled(database, data_dir)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `verify` does: what is logged of a refused generation would keep it open until the test's end."""
    monkeypatch.setattr("worker.index.follower.log.disabled", True)


@pytest.fixture
def redis(empty_valkey_url: str) -> Iterator[Redis]:
    """An empty server."""
    with Redis.from_url(empty_valkey_url) as client:
        yield client


@pytest.fixture
def queue(empty_valkey_url: str) -> Iterator[Requeue]:
    """The queue of a service on that server."""
    with Requeue(WorkerSettings(redis_url=empty_valkey_url, chunk_size=4), timeout=20.0) as opened:
        yield opened


# -- the index ------------------------------------------------------------------------------------

OTHERS = [case for case in CASES if not set(case.found) & OF_EMBEDDINGS]
REBUILT = {
    "not_in_view",
    "not_live",
    "not_there",
    "another_vector",
    "another_product",
    "another_category",
    "other_attributes",
    "doubled",
    "files_lost",
    "a_bit_flipped",
    "pointer_at_a_deleted_one",
}
DROPPED = {
    "doubled": 2,
    "doubled_in_an_earlier_one": 1,
    "files_lost": 2,
    "earlier_files_lost": 1,
    "a_bit_flipped": 2,
    "an_earlier_bit_flipped": 1,
    "another_model": 1,
    "another_size": 1,
}
"""Generations that are not kept any longer."""


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: case.damage.__name__)
def test_every_gap_is_mended_and_nothing_else_touched(
    shop: Shop, data_dir: Path, case: Case
) -> None:
    case.damage(shop, data_dir)
    name, before = case.damage.__name__, damaged.kept(shop.database)
    done = repair(shop.database, data_dir)
    assert done.after.findings == ()
    assert set(case.found) <= done.before.kinds
    assert done.remarks == ()
    assert (done.generation is not None) == (name in REBUILT)
    built = {done.generation} if done.generation is not None else set()
    expected = ({*before} | built) - {DROPPED.get(name)}
    assert set(damaged.kept(shop.database)) == expected
    view = Follower(shop.database, data_dir).refresh()
    assert view.number == max(expected)


def test_a_counter_that_was_set_back_is_raised_and_the_index_built_anew(
    shop: Shop, data_dir: Path
) -> None:
    """A generation that claims to hold changes which are yet to come would hide them."""
    a_counter_set_back(shop, data_dir)
    done = repair(shop.database, data_dir)
    assert (done.counter, done.after.gaps, done.generation) == (5, 0, 3)
    with shop.database.reading() as session:
        assert revisions.current(session) == 5
    assert damaged.kept(shop.database) == [3, 1]
    shop.add("p2", vectors(1, seed=60)[0])
    assert Auditor(shop.database, data_dir, overlay_limit=9).audit().gaps == 0


def test_only_what_is_ours_and_unknown_is_deleted(shop: Shop, data_dir: Path) -> None:
    ours = damaged.litter(shop.database, data_dir)
    before = {path.name for path in data_dir.iterdir()}
    done = repair(shop.database, data_dir)
    assert set(done.removed) == set(ours)
    assert {path.name for path in data_dir.iterdir()} == before - set(ours)


def test_what_is_used_is_not_deleted_with_what_is_not(
    shop: Shop, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "BLOCK", 7)
    damaged.add_unused(shop.database, shop.model.pk, 20)
    shop.remove("p30")  # removed, and embedded for the day when it comes back
    done = repair(shop.database, data_dir)
    assert (done.unused_embeddings, done.unused_thumbnails) == (21, 20)
    with shop.database.reading() as session:
        digests = set(session.execute(select(Embedding.content_sha256)).scalars())
        assert session.execute(select(Thumbnail.content_sha256)).first() is None
    there = {damaged.digest_of(shop, each) for each in shop.items}
    assert there < digests
    assert len(digests) == 60 + 2  # p1 has two pictures; p6 and p30 are removed


def test_an_unused_vector_that_a_picture_takes_up_in_time_stays(
    shop: Shop, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.audit.repair.unused.read_used", _taken_up(shop))
    done = repair(shop.database, data_dir)
    assert done.unused_embeddings == 0
    assert done.after.gaps == 0


def _taken_up(shop: Shop) -> Callable[[Session], Used]:
    """Between the repair's look and its deletion, the shop shows p5's old picture again."""
    read_used, looks = unused.read_used, itertools.count()

    def read(session: Session) -> Used:
        used = read_used(session)
        if next(looks) == 1:  # the audit's own is the first
            shop.add("p5 again", vectors(60)[5])
        return used

    return read


def test_a_pinned_generation_is_not_replaced_but_talked_about(shop: Shop, data_dir: Path) -> None:
    rollback(shop.database, data_dir)
    damaged.set_product(shop, "p13", category="c9")
    done = repair(shop.database, data_dir)
    assert done.generation is None
    assert "generation 1 was chosen by a rollback" in done.remarks[0]
    assert "lookalike-worker reindex" in done.remarks[0]
    assert counts(done.after) == {Kind.WRONG_CATEGORY: 1}
    with shop.database.reading() as session:
        assert generations.pointer(session).pinned


def test_a_build_that_runs_is_waited_for_by_the_operator(shop: Shop, data_dir: Path) -> None:
    damaged.set_product(shop, "p13", category="c9")
    damaged.litter(shop.database, data_dir)
    with Lease(shop.database, generations.LEASE):
        done = repair(shop.database, data_dir)
    assert done.generation is None
    assert "another build is running" in done.remarks[0]
    assert "nothing was deleted of the index" in done.remarks[1]
    assert done.after.gaps == 3
    assert repair(shop.database, data_dir).after.findings == ()


def test_a_build_that_fails_is_told(
    shop: Shop, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged.set_product(shop, "p13", category="c9")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    done = repair(shop.database, data_dir)
    assert "no new index: an index of 61 pictures takes" in done.remarks[0]
    assert done.after.gaps == 1


def test_an_unusable_generation_that_a_process_has_open_stays_for_now(
    shop: Shop, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.audit.repair.PAUSE", 0.0)
    held = Generation.open(damaged.directory_of(data_dir, 1))
    damaged.flip(damaged.directory_of(data_dir, 1) / "vectors.f16")
    done = repair(shop.database, data_dir)
    assert "generation 1 stays for now, since a process has it open" in done.remarks[0]
    assert damaged.kept(shop.database) == [2, 1]
    del held
    assert repair(shop.database, data_dir).after.gaps == 0
    assert damaged.kept(shop.database) == [2]


# -- embeddings -----------------------------------------------------------------------------------


def holds(follower: Follower, shop: Shop, product_id: str) -> bool:
    """Whether a lookup would find the product by its own vector."""
    view = follower.refresh()
    with shop.database.reading() as session:
        pks = catalogue.live_images(session, [product_id])[product_id].image_pks
    found_vectors, found = view.vectors_of(pks[:1])
    vector = half(shop.items[product_id].pictures["main"])
    return bool(found[0] and np.array_equal(found_vectors[0], vector))


LOST = ("p3", "p4", "p7", "late")


def damage_embeddings(shop: Shop) -> None:
    """One of each kind, of pictures in the generation and in the overlay."""
    damaged.lose_vector(shop, "p3")
    damaged.put_vector(shop, "p4", b"abcd")
    damaged.put_vector(shop, "p7", damaged.blob(np.full(16, np.nan, np.float32)))
    damaged.put_vector(shop, "late", damaged.blob(3 * shop.items["late"].pictures["main"]))


def test_lost_and_bad_embeddings_are_made_again_from_where_the_pictures_came(
    shop: Shop, data_dir: Path, redis: Redis, queue: Requeue
) -> None:
    worker = EmbedWorker(shop, redis)
    worker.offer(shop, *LOST)
    damage_embeddings(shop)
    with worker.working():
        done = repair(shop.database, data_dir, queue)
    assert (done.before.count(Kind.MISSING_EMBEDDING), done.before.count(Kind.BAD_EMBEDDING)) == (
        1,
        3,
    )
    assert done.after.gaps == 0
    assert (done.embeddings_deleted, done.sent, done.waiting, done.generation) == (3, 4, 0, None)
    assert (done.remarks, done.add_again) == ((), ())
    follower = Follower(shop.database, data_dir)
    assert all(holds(follower, shop, each) for each in LOST)
    assert Ledger(redis).size() == 0


def test_what_was_never_in_the_index_is_found_the_moment_it_is_embedded(
    shop: Shop, data_dir: Path, redis: Redis, queue: Requeue
) -> None:
    """The message has the picture's own version, so that nothing else of it is a change."""
    worker = EmbedWorker(shop, redis)
    worker.offer(shop, "p3", "p4")
    damaged.lose_vector(shop, "p3", "p4")
    build(shop.database, data_dir, KEEP)
    follower = Follower(shop.database, data_dir)
    assert not holds(follower, shop, "p3")
    with worker.working():
        done = repair(shop.database, data_dir, queue)
    assert (done.after.gaps, done.generation, done.sent) == (0, None, 2)
    assert holds(follower, shop, "p3")
    assert holds(follower, shop, "p4")


@pytest.mark.parametrize("block", [4096, 1], ids=["together", "apart"])
def test_pictures_of_the_same_bytes_come_back_together(
    *,
    shop: Shop,
    data_dir: Path,
    redis: Redis,
    queue: Requeue,
    monkeypatch: pytest.MonkeyPatch,
    block: int,
) -> None:
    """Named by one message or not: whoever shares the bytes is found again, and no index is built for it."""
    same = [f"twin{i}" for i in range(6)]
    vector = vectors(1, seed=70)[0]
    for each in same:
        shop.add(each, vector)
    worker = EmbedWorker(shop, redis)
    worker.offer(shop, *same)
    damaged.lose_vector(shop, "twin0")
    build(shop.database, data_dir, KEEP)
    monkeypatch.setattr(reads, "BLOCK", block)
    with worker.working():
        done = repair(shop.database, data_dir, queue)
    assert done.after.gaps == 0
    assert done.sent == 6 or block == 1  # the first may be done before the next is looked at
    assert done.generation is None
    follower = Follower(shop.database, data_dir)
    assert all(holds(follower, shop, each) for each in same)


def test_pictures_that_came_as_bytes_are_for_the_shop_to_add_again(
    shop: Shop, data_dir: Path
) -> None:
    damage_embeddings(shop)
    damaged.set_image(shop, "p4", source="ftp://old.example/4.jpg")
    done = repair(shop.database, data_dir)
    assert (done.sent, done.embeddings_deleted, done.add_again_count) == (0, 3, 4)
    why = {each.product_id: each.detail for each in done.add_again}
    assert set(why) == set(LOST)
    assert why["p3"] == CAME_AS_BYTES
    assert "ftp://old.example/4.jpg" in (why["p4"] or "")
    assert counts(done.after) == {Kind.MISSING_EMBEDDING: 4}


def test_a_source_that_is_gone_or_gives_other_bytes_is_told(
    shop: Shop, data_dir: Path, redis: Redis, queue: Requeue
) -> None:
    worker = EmbedWorker(shop, redis)
    worker.offer(shop, "p3", "p4", "p7")
    del worker.sources["/shop/p3.jpg"]
    worker.sources["/shop/p4.jpg"] = damaged.blob(vectors(1, seed=80)[0])
    damaged.lose_vector(shop, "p3", "p4", "p7")
    with worker.working():
        done = repair(shop.database, data_dir, queue)
    assert [(each.product_id, each.detail) for each in done.add_again] == [
        ("p3", "there is no such file")
    ]
    assert "1 picture fetched, and still without an embedding" in done.remarks[0]
    assert done.after.count(Kind.MISSING_EMBEDDING) == 2
    (missing,) = [f for f in done.after.findings if f.kind is Kind.MISSING_EMBEDDING]
    assert {each.product_id for each in missing.examples} == {"p3", "p4"}
    assert holds(Follower(shop.database, data_dir), shop, "p7")


def test_without_a_worker_they_wait_in_the_queue_and_are_found_when_one_comes(
    shop: Shop, data_dir: Path, redis: Redis, queue: Requeue
) -> None:
    worker = EmbedWorker(shop, redis)
    worker.offer(shop, "p3", "late")
    damaged.lose_vector(shop, "p3", "late")
    build(shop.database, data_dir, KEEP)
    done = repair(shop.database, data_dir, queue)
    assert (done.sent, done.waiting) == (2, 2)
    assert "no embed worker runs" in done.remarks[0]
    assert done.after.count(Kind.MISSING_EMBEDDING) == 2
    follower = Follower(shop.database, data_dir)
    while worker.step():
        pass
    assert holds(follower, shop, "p3")
    assert holds(follower, shop, "late")
    assert Auditor(shop.database, data_dir, overlay_limit=99).audit().gaps == 0


def test_what_the_shop_says_meanwhile_holds(
    shop: Shop, data_dir: Path, redis: Redis, queue: Requeue
) -> None:
    """A repair's message is no newer than the picture that it repairs."""
    worker = EmbedWorker(shop, redis)
    worker.offer(shop, "p3", "p4", "p7")
    damaged.lose_vector(shop, "p3", "p4", "p7")
    repair(shop.database, data_dir, queue)
    shop.add("p3", vectors(1, seed=90)[0], category="c8", attributes={"price": 1})
    shop.remove("p4")
    while worker.step():
        pass
    follower = Follower(shop.database, data_dir)
    assert holds(follower, shop, "p3")
    assert holds(follower, shop, "p7")
    with shop.database.reading() as session:
        assert catalogue.live_images(session, ["p4"]) == {}
        pks = catalogue.live_images(session, ["p3"])["p3"].image_pks
        described = catalogue.describe(session, pks)[pks[0]]
    assert (described.category, described.attributes) == ("c8", {"price": 1})
    assert Auditor(shop.database, data_dir, overlay_limit=99).audit().gaps == 0


def test_without_redis_everything_else_is_mended(shop: Shop, data_dir: Path) -> None:
    damage_embeddings(shop)
    for each in LOST:
        damaged.set_image(shop, each, source=f"https://cdn.example/{each}.jpg")
    damaged.litter(shop.database, data_dir)
    settings = WorkerSettings(redis_url="redis://127.0.0.1:1/0")
    with Requeue(settings, timeout=1.0) as nowhere:
        done = repair(shop.database, data_dir, nowhere)
    assert (done.sent, done.embeddings_deleted) == (0, 3)
    (remark,) = done.remarks
    assert "not all pictures could be sent" in remark
    assert "LOOKALIKE_REDIS_URL" in remark
    assert counts(done.after) == {Kind.MISSING_EMBEDDING: 4}


def test_a_queue_that_stays_full_is_not_waited_for_for_ever(
    shop: Shop, data_dir: Path, redis: Redis, empty_valkey_url: str
) -> None:
    worker = EmbedWorker(shop, redis)
    worker.offer(shop, *LOST)
    damaged.lose_vector(shop, *LOST)
    settings = WorkerSettings(redis_url=empty_valkey_url, chunk_size=1, max_backlog=2)
    with Requeue(settings, timeout=0.2) as queue:
        done = repair(shop.database, data_dir, queue)
    assert done.sent == 2
    assert "LOOKALIKE_MAX_BACKLOG" in done.remarks[0]
    assert done.after.count(Kind.MISSING_EMBEDDING) == 4
