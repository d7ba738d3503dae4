"""Going back to an earlier generation: whole, of the same model, at once, and not undone by the service."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import select

from db.models import Embedding, Image, Product
from db.queries import catalogue, generations, leases, models, revisions
from db.queries.catalogue import NewEmbedding
from db.session import Database
from tests.integration import damaged_catalogue as damaged
from tests.unit.worker.index.factories import QUICK, Shop, build, half, vectors
from worker.index import cleanup
from worker.index.errors import BuildSuperseded
from worker.index.follower import Follower
from worker.index.pin import PinReminder
from worker.index.rebuild import RebuildLimits, due, outgrown, read_state, rebuild
from worker.index.rollback import RollbackRefused, rollback
from worker.index.view import View
from worker.status import Status

KEEP = replace(QUICK, keep=5)
LIMITS = RebuildLimits(max_age=timedelta(seconds=1), max_pending=2)


def pointer(database: Database) -> tuple[int | None, bool]:
    """Which generation is current, and whether it is pinned."""
    with database.reading() as session:
        found = generations.pointer(session)
    return found.generation, found.pinned


def filled(database: Database, data_dir: Path, count: int = 3) -> Shop:
    """A catalogue with generations 1 … `count`, each with one product more than the one before."""
    shop = Shop(database)
    shop.fill(60)
    for number in range(1, count + 1):
        shop.add(f"new{number}", vectors(1, seed=50 + number)[0])
        build(database, data_dir, KEEP)
    return shop


def directory_of(data_dir: Path, number: int) -> Path:
    (found,) = data_dir.glob(f"generation-{number:08d}-*")
    return found


def assert_serves(database: Database, view: View, shop: Shop) -> None:
    """The view holds what the shop last said, and nothing else."""
    with database.reading() as session:
        rows = session.execute(
            select(Image.pk, Product.product_id, Image.name).join(
                Product, Product.pk == Image.product_pk
            )
        ).all()
    there, found = view.vectors_of([pk for pk, _, _ in rows])
    holds = {
        (product, name): vector.tobytes()
        for (_, product, name), vector, has in zip(rows, there, found, strict=True)
        if has
    }
    assert holds == {
        (product, name): half(vector).tobytes()
        for product, item in shop.items.items()
        for name, vector in item.pictures.items()
    }


# -- moving ---------------------------------------------------------------------------------------


def test_the_newest_kept_one_below_the_current_serves_at_once_with_every_change_since(
    database: Database, data_dir: Path
) -> None:
    shop = filled(database, data_dir)
    follower = Follower(database, data_dir)
    assert follower.refresh().number == 3
    shop.remove("p3")
    shop.add("p4", vectors(1, seed=9)[0])
    done = rollback(database, data_dir)
    assert (done.number, done.replaced) == (2, 3)
    assert pointer(database) == (2, True)
    view = follower.refresh()
    assert (view.number, view.pending, done.pending) == (2, 3, 3)  # new3, p3, p4
    assert_serves(database, view, shop)
    shop.add("later", vectors(1, seed=10)[0])
    assert_serves(database, follower.refresh(), shop)
    assert_serves(database, Follower(database, data_dir).refresh(), shop)


def test_any_kept_generation_can_be_named_and_a_rollback_rolled_back(
    sqlite_database: Database, data_dir: Path
) -> None:
    shop = filled(sqlite_database, data_dir)
    follower = Follower(sqlite_database, data_dir)
    for number in (1, 3, 2):
        assert rollback(sqlite_database, data_dir, number).number == number
        assert follower.refresh().number == number
        assert_serves(sqlite_database, follower.refresh(), shop)
    assert rollback(sqlite_database, data_dir).number == 1


def test_the_lease_is_given_back(database: Database, data_dir: Path) -> None:
    filled(database, data_dir)
    rollback(database, data_dir)
    with database.reading() as session:
        assert leases.holder(session, generations.LEASE) is None


# -- refused --------------------------------------------------------------------------------------


def refused(database: Database, data_dir: Path, number: int | None = None) -> str:
    """Why it is not rolled back; the pointer stays."""
    before = pointer(database)
    with pytest.raises(RollbackRefused) as error:
        rollback(database, data_dir, number)
    assert pointer(database) == before
    return str(error.value)


def test_there_must_be_an_index_and_an_earlier_one(
    sqlite_database: Database, data_dir: Path
) -> None:
    assert "there is no index yet" in refused(sqlite_database, data_dir)
    filled(sqlite_database, data_dir, 1)
    assert "no generation below the current one, 1, is kept" in refused(sqlite_database, data_dir)
    assert "generation 1 is current already" in refused(sqlite_database, data_dir, 1)


def test_an_unknown_or_deleted_number_names_those_that_are_kept(
    database: Database, data_dir: Path
) -> None:
    filled(database, data_dir, 3)
    assert "there is no generation 9: kept are 2, 1" in refused(database, data_dir, 9)
    build(database, data_dir, replace(QUICK, keep=2))
    said = refused(database, data_dir, 1)
    assert "generation 1 was deleted at 20" in said
    assert "kept are 3" in said


@pytest.mark.parametrize("file", ["vectors.f16", "slot_product.npy", "manifest.json"])
def test_a_damaged_one_is_refused_by_name(
    sqlite_database: Database, data_dir: Path, file: str
) -> None:
    filled(sqlite_database, data_dir)
    path = directory_of(data_dir, 2) / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    said = refused(sqlite_database, data_dir)
    assert "generation 2 cannot be used" in said
    assert file in said
    assert "lookalike-worker reindex" in said
    assert rollback(sqlite_database, data_dir, 1).number == 1


def test_one_that_this_host_has_read_before_is_read_again(
    sqlite_database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(sqlite_database, data_dir)
    damaged.rot(data_dir, 2, monkeypatch)
    assert "vectors.f16 differs from what was written" in refused(sqlite_database, data_dir)


def test_one_whose_directory_is_gone_is_refused(sqlite_database: Database, data_dir: Path) -> None:
    filled(sqlite_database, data_dir)
    directory_of(data_dir, 2).rename(data_dir / "elsewhere")
    assert "generation 2 cannot be used" in refused(sqlite_database, data_dir)


def test_one_that_kills_its_process_is_refused(
    sqlite_database: Database, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(sqlite_database, data_dir)
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nkill -ILL $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(dying))
    assert "signal 4" in refused(sqlite_database, data_dir)


def second_model(database: Database) -> models.ModelVersion:
    """Another model, of the same dimension, registered."""
    with database.writing() as session:
        return models.register(session, "e" * 64, "other", 16, {})


def rolled_out(database: Database, data_dir: Path) -> models.ModelVersion:
    """Another model that went into service: with vectors of its own, and generation 3."""
    other = second_model(database)
    with database.writing() as session:
        revisions.lock(session)
        models.begin_rollout(session, other.pk, without_missing=False)
        rows = session.execute(select(Embedding.content_sha256, Embedding.vector)).all()
        turned = [NewEmbedding(row[0], 16, row[1][4:] + row[1][:4]) for row in rows]
        catalogue.add_embeddings(session, other.pk, turned)
    build(database, data_dir, KEEP)
    return other


def active(database: Database) -> str:
    with database.reading() as session:
        found = models.active(session)
    assert found is not None
    return found.digest


def test_the_model_goes_back_with_its_generation(database: Database, data_dir: Path) -> None:
    filled(database, data_dir, 2)
    rolled_out(database, data_dir)
    assert (pointer(database), active(database)) == ((3, False), "e" * 64)
    follower = Follower(database, data_dir)
    assert follower.refresh().model_digest == "e" * 64
    done = rollback(database, data_dir)
    assert (done.number, done.other_model, done.model_digest) == (2, True, "d" * 64)
    assert (pointer(database), active(database)) == ((2, True), "d" * 64)
    assert follower.refresh().model_digest == "d" * 64
    again = rollback(database, data_dir, 3)
    assert (again.number, active(database)) == (3, "e" * 64)


def test_going_back_ends_a_rollout(database: Database, data_dir: Path) -> None:
    filled(database, data_dir, 2)
    other = second_model(database)
    with database.writing() as session:
        models.begin_rollout(session, other.pk, without_missing=False)
    done = rollback(database, data_dir)
    assert (done.other_model, done.ended_rollout) == (False, other.name)
    with database.reading() as session:
        assert models.serving(session).incoming is None


def test_a_retired_model_is_not_gone_back_to(database: Database, data_dir: Path) -> None:
    filled(database, data_dir, 2)
    rolled_out(database, data_dir)
    with database.writing() as session:
        models.retire(session, 1)
    assert "is of a model that was retired" in refused(database, data_dir)
    said = refused(database, data_dir, 1)
    assert "generation 1 is of a model that was retired (dddddddddddd)" in said


def test_a_model_that_is_retired_meanwhile_is_not_gone_back_to(
    database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(database, data_dir, 2)
    rolled_out(database, data_dir)

    def meanwhile(*_: object) -> None:
        with database.writing() as session:
            models.retire(session, 1)

    monkeypatch.setattr("worker.index.builder.check_in_child", meanwhile)
    assert "not rolled back" in refused(database, data_dir)
    assert active(database) == "e" * 64


def test_a_build_that_runs_keeps_the_lease_and_is_named(database: Database, data_dir: Path) -> None:
    filled(database, data_dir, 2)
    said: list[str] = []
    holders: list[leases.Holder | None] = []

    def meanwhile(step: str) -> None:
        if step == "read":
            with database.reading() as session:
                holders.append(leases.holder(session, generations.LEASE))
            said.append(refused(database, data_dir))

    build(database, data_dir, KEEP, checkpoint=meanwhile)
    (holder,) = holders
    assert holder is not None
    assert "a build, or another rollback, is running" in said[0]
    assert holder.name in said[0]
    assert f"until {holder.expires_at:%H:%M:%S} UTC" in said[0]
    assert pointer(database) == (3, False)


# -- against builds -------------------------------------------------------------------------------


def test_a_build_that_lost_its_lease_does_not_undo_a_rollback(
    database: Database, data_dir: Path
) -> None:
    """It hung so long that the lease ran out; the rollback was let in; then it woke up."""
    filled(database, data_dir, 2)

    def meanwhile(step: str) -> None:
        if step == "checked":
            with database.writing() as session:
                held = leases.holder(session, generations.LEASE)
                assert held is not None
                leases.release(session, generations.LEASE, held.token)
            rollback(database, data_dir)

    for over_pin in (False, True):
        with pytest.raises(BuildSuperseded):
            rebuild(database, data_dir, KEEP, checkpoint=meanwhile, over_pin=over_pin)
        assert pointer(database) == (1, True)
        rollback(database, data_dir, 2)


def test_a_rollback_that_lost_its_lease_moves_nothing(
    sqlite_database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(sqlite_database, data_dir, 2)

    def overtaken(*_: object) -> None:
        with sqlite_database.writing() as session:
            held = leases.holder(session, generations.LEASE)
            assert held is not None
            leases.release(session, generations.LEASE, held.token)
        build(sqlite_database, data_dir, KEEP)

    monkeypatch.setattr("worker.index.rollback._check", overtaken)
    with pytest.raises(RollbackRefused, match="another generation became current meanwhile"):
        rollback(sqlite_database, data_dir)
    assert pointer(sqlite_database) == (3, False)


def test_what_is_rolled_back_to_is_not_deleted_meanwhile(
    database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its files, which are held, nor its row: clean-up and rollback lock the same pointer."""
    filled(database, data_dir, 3)

    def clean(*_: object) -> None:
        assert cleanup.clean(database, data_dir, 2, token=99) == []

    monkeypatch.setattr("worker.index.rollback._check", clean)
    assert rollback(database, data_dir, 1).number == 1
    assert Follower(database, data_dir).refresh().number == 1


def test_one_deleted_under_it_is_not_made_current(
    database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(database, data_dir, 2)

    def delete(*_: object) -> None:
        with database.writing() as session:
            assert generations.mark_removed(session, 1)

    monkeypatch.setattr("worker.index.rollback._check", delete)
    assert "not rolled back" in refused(database, data_dir, 1)


# -- the pin --------------------------------------------------------------------------------------


def test_the_service_leaves_a_pinned_generation_alone_until_the_operator_rebuilds(
    database: Database, data_dir: Path
) -> None:
    shop = filled(database, data_dir)
    soon = datetime.now(UTC) + timedelta(hours=1)
    shop.add("late", vectors(1, seed=20)[0])
    assert due(read_state(database, data_dir), LIMITS, soon)
    rollback(database, data_dir)
    state = read_state(database, data_dir)
    assert (state.generation, state.pinned) == (2, True)
    assert state.pending >= LIMITS.max_pending
    assert due(state, LIMITS, soon) is None
    # A message sent just before the rollback, which the service works on just after.
    assert rebuild(database, data_dir, KEEP) is None
    assert pointer(database) == (2, True)
    built = rebuild(database, data_dir, KEEP, over_pin=True)
    assert built is not None
    assert pointer(database) == (4, False)
    shop.add("later still", vectors(1, seed=21)[0])
    assert due(read_state(database, data_dir), LIMITS, soon)
    assert rebuild(database, data_dir, KEEP) is not None
    assert pointer(database) == (5, False)


def test_the_pin_is_checked_where_the_pointer_is_moved(
    database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(database, data_dir)
    rollback(database, data_dir)
    monkeypatch.setattr("worker.index.rebuild._pinned", lambda _: False)
    with pytest.raises(BuildSuperseded, match="chosen by a rollback"):
        rebuild(database, data_dir, KEEP)
    assert pointer(database) == (2, True)
    assert len(list(data_dir.glob("generation-*"))) == 3


def test_the_status_says_whether_it_is_pinned(
    sqlite_database: Database, data_dir: Path, empty_valkey_url: str
) -> None:
    filled(sqlite_database, data_dir)
    pinned = []
    with Redis.from_url(empty_valkey_url) as redis:
        for _ in range(2):
            generation = Status(sqlite_database, redis).reply().generation
            assert generation is not None
            pinned.append((generation.number, generation.pinned))
            rollback(sqlite_database, data_dir, 2 if len(pinned) == 1 else 1)
    assert pinned == [(3, False), (2, True)]


def test_an_outgrown_pin_is_warned_of_now_and_then(
    sqlite_database: Database, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled(sqlite_database, data_dir)
    rollback(sqlite_database, data_dir, 1)
    now = [0.0]
    reminder = PinReminder(clock=lambda: now[0])
    state = read_state(sqlite_database, data_dir)
    assert state.pending == 2
    with caplog.at_level(logging.WARNING):
        reminder.look(state, replace(LIMITS, max_pending=3))
        assert caplog.messages == []
        for now[0] in (1.0, 2.0, 599.0, 601.5):
            reminder.look(state, LIMITS)
    assert len(caplog.messages) == 2
    assert "generation 1, and 2 changes are pending" in caplog.messages[0]
    assert "lookalike-worker reindex" in caplog.messages[0]
    assert "another model" in (outgrown(replace(state, model_changed=True), LIMITS) or "")
    assert outgrown(replace(state, pinned=False), LIMITS) is None


def test_clean_up_after_a_rollback_keeps_what_it_chose_and_a_rebuild_drops_what_it_turned_away_from(
    database: Database, data_dir: Path
) -> None:
    filled(database, data_dir, 4)
    rollback(database, data_dir, 1)
    cleanup.clean(database, data_dir, 1, token=99)
    with database.reading() as session:
        assert [row.number for row in generations.kept(session)] == [4, 3, 1]
    assert rebuild(database, data_dir, replace(QUICK, keep=1), over_pin=True) is not None
    with database.reading() as session:
        assert [row.number for row in generations.kept(session)] == [5, 1]


def test_lookups_go_on_while_it_is_rolled_to_and_fro(
    sqlite_database: Database, data_dir: Path
) -> None:
    shop = filled(sqlite_database, data_dir, 2)
    follower = Follower(sqlite_database, data_dir, interval=0.005)
    follower.start()
    stop, errors = threading.Event(), []

    def look() -> None:
        try:
            while not stop.is_set():
                assert_serves(sqlite_database, follower.refresh(), shop)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for number in (1, 2, 1, 2):
            rollback(sqlite_database, data_dir, number)
    finally:
        stop.set()
        thread.join()
        follower.stop()
    assert errors == []
