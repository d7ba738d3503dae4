"""Pictures of the catalogue are embedded under a model that lacks them, once each, whatever comes in between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import update

from db.models import BackfillFailure
from db.queries import backfill, catalogue, models, revisions
from db.queries.catalogue import ProductRemoval
from db.queries.models import ModelVersion
from db.session import Database
from producer.messages import ImageRef, PathImage
from tests.integration.two_models import NEW, OLD, Network, TwoModels, as_embedder, vector_of
from worker import backfill as worker
from worker.embedder import Embedder
from worker.errors import DeviceFailed
from worker.images.fetch import Picture
from worker.lease import Lease
from worker.serving import Serving


@pytest.fixture
def two(database: Database) -> TwoModels:
    """On one database and then on the other."""
    return TwoModels(database)


@pytest.fixture
def filled(two: TwoModels) -> TwoModels:
    """With 60 products, and the new model on its way in."""
    for number in range(60):
        two.add(f"p{number}")
    two.begin()
    return two


def everything(two: TwoModels) -> set[str]:
    """All products."""
    return {path[1:] for path in two.files}


def test_every_picture_is_embedded_once_and_lookups_are_not_told(filled: TwoModels) -> None:
    before = filled.revision()
    filled.backfill().work()
    assert filled.embedded() == everything(filled)
    assert sorted(filled.networks[NEW].embedded) == sorted(filled.files.values())
    assert filled.networks[OLD].embedded == []
    assert filled.revision() == before, "the overlay of the old index would fill up"
    with filled.database.reading() as session:
        assert backfill.progress(session, filled.new.pk).waiting == 0
        assert backfill.is_complete(session, filled.new.pk, without_missing=False)


def test_it_resumes_where_it_was_interrupted(filled: TwoModels) -> None:
    calls = 0

    def dies() -> bool:
        nonlocal calls
        calls += 1
        return calls > 2

    serving = filled.serving()
    broken = Network(NEW, dies)
    serving._loaded[filled.new.pk].embedder = as_embedder(broken)
    first = filled.backfill()
    first = worker.Backfill(filled.database, serving, filled.fetch, first.executor)
    with pytest.raises(DeviceFailed):
        first.work()
    done = filled.embedded()
    assert 0 < len(done) < 60
    filled.backfill().work()
    assert filled.embedded() == everything(filled)
    assert len(filled.networks[NEW].embedded) == 60 - len(done)


def test_several_processes_share_the_work(filled: TwoModels) -> None:
    pk = filled.new.pk
    with filled.database.reading() as session:
        held = next(n for n in range(16) if backfill.missing(session, pk, n, b"", 1))
        theirs = backfill.missing(session, pk, held, b"", 60)
    mine = filled.backfill()
    with Lease(filled.database, f"backfill-{pk}-{held:x}"):
        mine.work()
        assert len(filled.embedded()) == 60 - len(theirs)
    mine.work()
    assert filled.embedded() == everything(filled)


def test_shards_are_all_of_it_and_no_more(filled: TwoModels) -> None:
    with filled.database.reading() as session:
        found = [
            digest
            for shard in range(backfill.SHARDS)
            for digest in backfill.missing(session, filled.new.pk, shard, b"", 100)
        ]
    assert len(found) == len(set(found)) == 60


def test_what_cannot_be_had_is_given_up_with_a_reason(two: TwoModels) -> None:
    for name in ("good", "gone", "changed", "corrupt", "blank"):
        two.add(name)
    two.add("sent", "bytes:0123", b"these came with a message")
    two.begin()
    del two.files["/gone"]
    two.files["/changed"] = b"something else"
    two.backfill().work()
    assert two.failures() == {
        "/gone": ("not_found", 1, True),
        "/changed": ("other_bytes", 1, True),
        "/corrupt": ("corrupt_image", 1, True),
        "/blank": ("bad_vector", 1, True),
        "bytes:0123": ("sent_as_bytes", 1, True),
    }
    assert two.embedded() == {"good"}
    with two.database.reading() as session:
        progress = backfill.progress(session, two.new.pk)
        assert (progress.images, progress.embedded, progress.waiting) == (6, 1, 0)
        assert progress.given_up == dict.fromkeys(
            ["bad_vector", "corrupt_image", "not_found", "other_bytes", "sent_as_bytes"], 1
        )
        assert not backfill.is_complete(session, two.new.pk, without_missing=False)
        assert backfill.is_complete(session, two.new.pk, without_missing=True)


def test_of_several_places_one_is_enough(two: TwoModels) -> None:
    two.add("first", data=b"the same")
    two.add("second", data=b"the same")
    two.begin()
    del two.files["/first"]
    two.backfill().work()
    assert two.failures() == {}
    assert len(two.networks[NEW].embedded) == 1


def test_what_fails_for_a_passing_reason_is_tried_again(two: TwoModels) -> None:
    two.add("slow")
    two.begin()
    two.slow.add("/slow")
    process = two.backfill()
    process.work()
    assert two.failures() == {"/slow": ("fetch_timeout", 1, False)}
    process.work()
    assert two.failures() == {"/slow": ("fetch_timeout", 1, False)}, "not before its time"
    let_time_pass(two.database)
    process.work()
    assert two.failures() == {"/slow": ("fetch_timeout", 2, False)}
    two.slow.clear()
    let_time_pass(two.database)
    process.work()
    assert (two.failures(), two.embedded()) == ({}, {"slow"})


def test_it_is_not_tried_for_ever(two: TwoModels) -> None:
    two.add("slow")
    two.begin()
    two.slow.add("/slow")
    process = two.backfill()
    for _ in range(worker.MAX_ATTEMPTS + 2):
        process.work()
        let_time_pass(two.database)
    assert two.failures() == {"/slow": ("fetch_timeout", worker.MAX_ATTEMPTS, True)}


def test_a_picture_that_ends_its_worker_is_given_up_at_the_third_death(two: TwoModels) -> None:
    for name in ("a", "deadly", "b"):
        two.add(name)
    two.begin()
    deaths: list[tuple[bytes, ...]] = []

    class Deadly(Network):
        """What it does to the process cannot be caught."""

        def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            data = tuple(self._pictures.values())
            self._pictures = {}
            if b"/deadly" in data:
                deaths.append(data)
                raise KeyboardInterrupt
            return np.stack([vector_of(each, NEW) for each in data])

    for _ in range(6):
        serving = two.serving()
        serving._loaded[two.new.pk].embedder = as_embedder(Deadly(NEW))
        process = worker.Backfill(two.database, serving, two.fetch, ThreadPoolExecutor(2))
        with contextlib.suppress(KeyboardInterrupt):
            process.work()
        let_time_pass(two.database)
    assert len(deaths) == 3
    assert deaths[1:] == [(b"/deadly",)] * 2, "alone, so that no other picture shares its fate"
    assert two.failures() == {"/deadly": ("worker_failed", 3, True)}
    assert two.embedded() == {"a", "b"}


def test_no_picture_is_blamed_for_a_device(two: TwoModels) -> None:
    two.add("a")
    two.begin()
    serving = two.serving()
    serving._loaded[two.new.pk].embedder = as_embedder(Network(NEW, lambda: True))
    process = worker.Backfill(two.database, serving, two.fetch, ThreadPoolExecutor(2))
    with pytest.raises(DeviceFailed):
        process.work()
    assert two.failures() == {"/a": ("unavailable", 0, False)}
    two.backfill().work()
    assert (two.failures(), two.embedded()) == ({}, {"a"})


def test_what_a_broken_device_had_in_hand_is_done_by_a_process_that_looked_before(
    two: TwoModels,
) -> None:
    two.add("late")
    two.begin()
    two.slow.add("/late")
    process = two.backfill()
    process.work()  # all parts are done but for what is to be tried again
    two.slow.clear()
    let_time_pass(two.database)
    serving = process.serving._loaded[two.new.pk]
    whole, serving.embedder = serving.embedder, as_embedder(Network(NEW, lambda: True))
    with pytest.raises(DeviceFailed):
        process.work()
    serving.embedder = whole
    process.work()
    assert (two.failures(), two.embedded()) == ({}, {"late"})


def test_whatever_fetching_raises_stops_no_other_picture(two: TwoModels) -> None:
    def fetch(image: ImageRef) -> Picture:
        if isinstance(image, PathImage) and image.path == "/odd":
            raise RuntimeError("what nobody expected")
        return two.fetch(image)

    for name in ("odd", "a", "b"):
        two.add(name)
    two.begin()
    worker.Backfill(two.database, two.serving(), fetch, ThreadPoolExecutor(2)).work()
    assert two.embedded() == {"a", "b"}
    assert two.failures() == {"/odd": ("internal", 1, False)}


def test_a_model_that_cannot_be_loaded_for_whatever_reason_leaves_the_active_one(
    two: TwoModels,
) -> None:
    two.begin()

    def load(model: ModelVersion) -> Embedder:
        if model.pk == two.new.pk:
            raise RuntimeError("CUDA out of memory")
        return two.load(model)

    serving = Serving(two.database, load)
    serving.look()
    with serving.present() as present:
        assert (present.active.model, present.incoming) == (two.old, None)
    assert "new cannot be loaded here: CUDA out of memory" in str(serving._failure(two.new.digest))


def test_activating_again_gives_another_chance(two: TwoModels) -> None:
    two.add("late")
    two.begin()
    data = two.files.pop("/late")
    process = two.backfill()
    process.work()
    two.files["/late"] = data
    with two.database.writing() as session:
        backfill.try_all_again(session, two.new.pk, datetime.now(UTC))
    process.work()
    assert (two.failures(), two.embedded()) == ({}, {"late"})


def let_time_pass(database: Database) -> None:
    """What waits to be tried again is due."""
    table = BackfillFailure
    with database.writing() as session:
        session.execute(
            update(table)
            .where(table.again_at.is_not(None))
            .values(again_at=datetime(2026, 1, 1, tzinfo=UTC))
        )


# -- what comes in between ------------------------------------------------------------------------


def embeds(two: TwoModels, meanwhile: Callable[[], None]) -> worker.Backfill:
    """A backfill in which something happens while it embeds its first chunk."""
    pending = [meanwhile]

    def once() -> bool:
        while pending:
            pending.pop()()
        return False

    serving = two.serving()
    serving._loaded[two.new.pk].embedder = as_embedder(Network(NEW, once))
    return worker.Backfill(two.database, serving, two.fetch, two.backfill().executor)


def test_a_rollout_that_is_cancelled_is_left_at_once(filled: TwoModels) -> None:
    def cancel() -> None:
        with filled.database.writing() as session:
            models.end_rollout(session)

    embeds(filled, cancel).work()
    assert filled.embedded() == set()


def test_what_is_late_for_the_switch_is_told_to_lookups(filled: TwoModels) -> None:
    """It was embedded before the model became the active one, and is committed after."""

    def switch() -> None:
        with filled.database.writing() as session:
            revisions.lock(session)
            models.activate(session, filled.new.pk)

    before = filled.revision()
    embeds(filled, switch).work()
    assert filled.embedded() == everything(filled)
    assert filled.revision() > before
    with filled.database.reading() as session:
        changes = list(catalogue.changes_since(session, before, filled.new.pk))
    assert len(changes) == 60
    assert all(each.vector for each in changes)


def test_the_active_model_gets_what_it_lacks(two: TwoModels) -> None:
    """As after a rollback: pictures that were added under the other one only."""
    two.add("a")
    process = two.backfill()
    process.work()
    with two.database.writing() as session:
        revisions.lock(session)
        models.activate(session, two.new.pk)
    two.add("b")
    process.serving.look()
    before = two.revision()
    process.work()
    assert two.embedded() == {"a", "b"}
    assert two.revision() > before


def test_only_what_changed_is_looked_at_once_all_was(
    two: TwoModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.add("a")
    two.begin()
    process = two.backfill()
    process.work()
    monkeypatch.setattr(backfill, "missing", lambda *_: pytest.fail("all of it is read again"))
    two.add("b")
    process.work()
    assert two.embedded() == {"a", "b"}


def test_removed_pictures_are_nobodys_concern(filled: TwoModels) -> None:
    with filled.database.writing() as session:
        catalogue.apply(session, [], [ProductRemoval(f"p{n}", 2) for n in range(59)])
    filled.backfill().work()
    assert filled.networks[NEW].embedded == [b"/p59"]
    with filled.database.reading() as session:
        assert backfill.is_complete(session, filled.new.pk, without_missing=False)


def test_it_steps_aside_for_new_pictures_and_rests_while_somebody_asks(
    two: TwoModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.add("a")
    two.begin()
    looks = [True, True, False]
    rests: list[float] = []
    process = two.backfill(is_busy=lambda: looks.pop(0), is_asked=lambda: True)

    def wait(seconds: float) -> bool:
        rests.append(seconds)
        return False

    monkeypatch.setattr(process._stopping, "wait", wait)
    process.work()
    assert looks == []
    assert len(rests) == 3
    assert two.embedded() == {"a"}


def test_it_stops_when_told_to(filled: TwoModels) -> None:
    process = embeds(filled, lambda: process.stop())  # noqa: PLW0108 - it is not made yet
    process.work()
    assert 0 < len(filled.embedded()) <= worker.CHUNK
