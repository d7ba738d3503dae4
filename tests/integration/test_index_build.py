"""Invariant 7: at every crash point the pointer names a whole generation, old or new."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from db.queries import catalogue, generations, leases
from db.session import Database
from producer.messages import Where
from tests.integration.catalogue_rows import repoint
from tests.services import DatabaseFactory
from tests.unit.worker.index.factories import (
    QUICK,
    Shop,
    answerer,
    assert_same,
    build,
    found,
    prefer_the_index,
    question,
    vectors,
)
from tests.unit.worker.index.generations import with_faiss
from worker.index import annoy_engine, builder, durable, identity, manifest, tuning
from worker.index.annoy_engine import TREES
from worker.index.builder import MORE_TREES, STEPS
from worker.index.engines import EngineName, engine
from worker.index.errors import (
    BuildFailed,
    BuildStopped,
    BuildSuperseded,
    CheckFailed,
    RecallTooLow,
)
from worker.index.generation import Expected, Generation
from worker.index.rebuild import RebuildLimits, Rebuilt, due, read_state, rebuild
from worker.index.tuning import Measured

ROOT = Path(__file__).resolve().parents[2]


class Crash(BaseException):
    """Stands for a kill: nothing catches it."""


def crash_at(name: str) -> Callable[[str], None]:
    def checkpoint(step: str) -> None:
        if step == name:
            raise Crash

    return checkpoint


def current(database: Database) -> generations.Generation | None:
    with database.reading() as session:
        return generations.current(session)


def open_current(database: Database, data_dir: Path) -> Generation:
    row = current(database)
    assert row is not None
    expected = Expected(row.number, row.model_digest, row.manifest_sha256)
    return Generation.open(data_dir / row.directory, expected)


def test_a_built_index_answers_as_brute_force_does(
    database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer_the_index(monkeypatch)
    shop = Shop(database)
    shop.fill(600)
    built = build(database, data_dir, replace(QUICK, reduce_to=0, recall_target=1.0))
    answers = answerer(database, data_dir)
    (reply,) = answers.by_products(question("p5")).replies
    assert (reply.path, reply.generation, reply.pending) == ("annoy", 1, 0)
    assert (built.images, built.revision) == (600, reply.as_of.revision)
    same = [found(answers, f"p{i}") == _rounded(shop, f"p{i}") for i in range(0, 600, 20)]
    assert np.mean(same) >= 0.9  # Annoy is not exact; each answer's distances are
    for i in range(0, 600, 20):
        truth = dict(shop.nearest(f"p{i}", 600))
        assert all(d == pytest.approx(truth[p], abs=1e-5) for p, d in found(answers, f"p{i}"))


def _rounded(shop: Shop, product_id: str) -> list[tuple[str, Any]]:
    return [(p, pytest.approx(d, abs=1e-5)) for p, d in shop.nearest(product_id, 10)]


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_leaves_a_whole_generation(
    sqlite_database: Database, data_dir: Path, step: str
) -> None:
    shop = Shop(sqlite_database)
    shop.fill(40)
    build(sqlite_database, data_dir)
    shop.add("late", vectors(1, seed=9)[0])
    with pytest.raises(Crash):
        rebuild(sqlite_database, data_dir, QUICK, checkpoint=crash_at(step))
    expected = 2 if step == "published" else 1
    assert open_current(sqlite_database, data_dir).manifest.number == expected
    assert_same(found(answerer(sqlite_database, data_dir), "p1"), shop.nearest("p1", 10))
    assert build(sqlite_database, data_dir).number == expected + 1
    named = {row.directory for row in _kept(sqlite_database)}
    assert {path.name for path in data_dir.iterdir()} == named


def _kept(database: Database) -> list[generations.Generation]:
    with database.reading() as session:
        return generations.kept(session)


KILLED = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from db.session import Database
from tests.unit.worker.index.factories import QUICK
from worker.index.rebuild import RebuildLimits, Rebuilt, due, read_state, rebuild
def checkpoint(step):
    if step == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
rebuild(Database(sys.argv[1]), Path(sys.argv[2]), QUICK, checkpoint=checkpoint, lease_ttl=0.05)
"""


@pytest.mark.parametrize("step", ["renamed", "checked"])
def test_a_killed_builder_leaves_a_whole_generation_and_a_lease_that_runs_out(
    database: Database, database_url: str, data_dir: Path, step: str
) -> None:
    shop = Shop(database)
    shop.fill(40)
    build(database, data_dir)
    command = [sys.executable, "-c", KILLED, database_url, str(data_dir), step]
    done = subprocess.run(
        command, cwd=ROOT, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == -signal.SIGKILL
    assert open_current(database, data_dir).manifest.number == 1
    assert _built_after_the_lease(database, data_dir).number == 2
    assert len(list(data_dir.iterdir())) == 2


def _built_after_the_lease(database: Database, data_dir: Path) -> Rebuilt:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if built := rebuild(database, data_dir, QUICK):
            return built
    raise AssertionError("the lease of a dead process never ran out")


def test_everything_is_on_the_disk_before_it_is_relied_on(
    sqlite_database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files, then the manifest, then the rename, then the folder, then the check, then the pointer."""
    events = _recorded(monkeypatch)
    Shop(sqlite_database).fill(40)
    build(sqlite_database, data_dir, checkpoint=events.append)
    (directory,) = data_dir.iterdir()
    files = manifest.read(directory).files
    written = events.index("write manifest.json")
    assert all(events.index(f"sync {name}") < written for name in files)
    named = events.index(f"sync folder .building-{identity.of(sqlite_database)}-1")
    renamed = events.index("rename")
    order = [written, named, renamed, events.index(f"sync folder {data_dir.name}")]
    order += [events.index("check"), events.index("checked"), events.index("published")]
    assert order == sorted(order)


def _recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    events: list[str] = []
    check, rename, write = builder.check_in_child, Path.rename, durable.write
    file, folder = durable.sync_file, durable.sync_folder

    def noted(name: Callable[..., str], action: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            result = action(*args)
            events.append(name(*args))
            return result

        return call

    monkeypatch.setattr(durable, "write", noted(lambda path, _: f"write {path.name}", write))
    monkeypatch.setattr(durable, "sync_file", noted(lambda path: f"sync {path.name}", file))
    monkeypatch.setattr(
        durable, "sync_folder", noted(lambda path: f"sync folder {path.name}", folder)
    )
    monkeypatch.setattr(Path, "rename", noted(lambda *_: "rename", rename))
    monkeypatch.setattr(builder, "check_in_child", noted(lambda *_: "check", check))
    return events


def test_a_written_file_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    durable.write(tmp_path / "a", b"x")
    durable.sync_file(tmp_path / "a")
    durable.sync_folder(tmp_path)
    assert len(synced) == 3


# -- refused --------------------------------------------------------------------------------------


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_what_does_not_pass_the_check_is_not_published(
    sqlite_database: Database, data_dir: Path
) -> None:
    Shop(sqlite_database).fill(40)
    build(sqlite_database, data_dir)

    def damage(step: str) -> None:
        if step == "renamed":
            _flip_a_bit(max(data_dir.glob("generation-*")) / "tree.ann")

    with pytest.raises(CheckFailed, match=r"tree\.ann"):
        rebuild(sqlite_database, data_dir, QUICK, checkpoint=damage)
    assert open_current(sqlite_database, data_dir).manifest.number == 1
    assert len(list(data_dir.iterdir())) == 1


def test_an_index_that_kills_its_checker_is_not_published(
    sqlite_database: Database, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Shop(sqlite_database).fill(40)
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nkill -ILL $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    with pytest.raises(CheckFailed, match="signal 4"):
        rebuild(sqlite_database, data_dir, QUICK)
    assert current(sqlite_database) is None


POOR = replace(QUICK, rerank=5, recall_margin=0.03)
"""Ranks five candidates, of which at most five can be among the ten nearest."""


def test_an_index_of_too_low_recall_is_not_published(
    sqlite_database: Database, data_dir: Path
) -> None:
    Shop(sqlite_database).fill(200)
    build(sqlite_database, data_dir)
    before = {path.name for path in data_dir.iterdir()}
    with pytest.raises(RecallTooLow, match=r"0\.5\d\d.*0\.950.*LOOKALIKE_TREES.*--force"):
        rebuild(sqlite_database, data_dir, POOR)
    assert open_current(sqlite_database, data_dir).manifest.number == 1
    assert {path.name for path in data_dir.iterdir()} == before


def test_an_operator_can_take_it_all_the_same(sqlite_database: Database, data_dir: Path) -> None:
    Shop(sqlite_database).fill(200)
    build(sqlite_database, data_dir, replace(POOR, force=True))
    described = open_current(sqlite_database, data_dir).manifest
    assert 0.3 < described.recall <= 0.51
    assert described.parameters.reduced == described.dimension  # it was tried


def test_a_recall_within_the_margin_will_do(sqlite_database: Database, data_dir: Path) -> None:
    Shop(sqlite_database).fill(200)
    build(sqlite_database, data_dir, replace(POOR, recall_margin=0.6))
    assert open_current(sqlite_database, data_dir).manifest.recall <= 0.51


def test_vectors_are_widened_until_the_recall_is_enough(
    sqlite_database: Database, data_dir: Path
) -> None:
    """Where the operator chose the effort, until it is within the margin."""
    Shop(sqlite_database).fill(500)
    narrow = replace(QUICK, reduce_to=1, rerank=12, trees=1, search_k=100, recall_margin=0.23)
    build(sqlite_database, data_dir, narrow)
    described = open_current(sqlite_database, data_dir).manifest
    assert described.parameters.reduced > 1
    assert described.parameters.effort == 100
    assert described.recall >= 0.75


def tried(
    monkeypatch: pytest.MonkeyPatch, recall: Callable[[int, int], float]
) -> list[tuple[int, int]]:
    """Widths and trees of the attempts, each measured to have this recall."""
    attempts: list[tuple[int, int]] = []

    def tune(base: Generation, target: float, **_: object) -> Measured:
        parameters = base.manifest.parameters
        attempts.append((parameters.reduced, parameters.size))
        got = recall(*attempts[-1])
        return Measured(400, 30, got, got - 0.01, 100, 0.1)

    monkeypatch.setattr(tuning, "tune", tune)
    monkeypatch.setattr(builder, "check_in_child", lambda *_: None)
    return attempts


@pytest.mark.parametrize(
    ("enough", "expected"),
    [
        ((4, TREES), [(4, TREES)]),
        ((8, TREES), [(4, TREES), (8, TREES)]),
        ((16, TREES), [(4, TREES), (8, TREES), (16, TREES)]),
        ((16, MORE_TREES), [(4, TREES), (8, TREES), (16, TREES), (16, MORE_TREES)]),
    ],
)
def test_wider_vectors_are_tried_and_more_trees_last(
    sqlite_database: Database,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    enough: tuple[int, int],
    expected: list[tuple[int, int]],
) -> None:
    Shop(sqlite_database).fill(60)
    attempts = tried(monkeypatch, lambda *of: 0.995 if of >= enough else 0.9)
    build(sqlite_database, data_dir, replace(QUICK, trees=0, reduce_to=4, recall_margin=0.03))
    assert attempts == expected
    described = open_current(sqlite_database, data_dir).manifest
    assert (described.parameters.reduced, described.parameters.size) == expected[-1]
    assert described.recall == 0.995
    assert described.recall_at_least == pytest.approx(0.985)


def test_trees_that_are_given_are_not_added_to(
    sqlite_database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Shop(sqlite_database).fill(60)
    attempts = tried(monkeypatch, lambda *_: 0.9)
    with pytest.raises(RecallTooLow):
        rebuild(sqlite_database, data_dir, replace(QUICK, trees=3, recall_margin=0.03))
    assert attempts == [(8, 3), (16, 3)]


def test_the_lower_bound_decides_whether_another_attempt_is_made(
    sqlite_database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mean above the target is not enough; the last attempt is taken all the same."""
    Shop(sqlite_database).fill(60)
    attempts = tried(monkeypatch, lambda *_: 0.985)
    build(sqlite_database, data_dir, replace(QUICK, recall_margin=0.03))
    assert attempts == [(8, 8), (16, 8)]


def test_rows_that_were_lost_are_noticed(
    sqlite_database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Shop(sqlite_database).fill(40)
    build(sqlite_database, data_dir)
    before = {path.name for path in data_dir.iterdir()}
    real = catalogue.stream_vectors

    def losing(session: Any, model_version_pk: int) -> Any:
        first, *_ = real(session, model_version_pk, 39)
        yield first

    monkeypatch.setattr(catalogue, "stream_vectors", losing)
    with pytest.raises(BuildFailed, match="39 of 40 pictures"):
        rebuild(sqlite_database, data_dir, QUICK)
    assert open_current(sqlite_database, data_dir).manifest.number == 1
    assert {path.name for path in data_dir.iterdir()} == before


def test_an_engine_that_does_not_work_fails_the_build(
    sqlite_database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is counted as a failure, so that it is not tried four times a minute."""
    Shop(sqlite_database).fill(40)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(BuildFailed, match="faiss-cpu"):
        rebuild(sqlite_database, data_dir, replace(QUICK, engine="faiss"))
    assert list(data_dir.iterdir()) == []


def test_files_that_cannot_be_put_on_the_disk_fail_the_build(
    sqlite_database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the thread beside the build, too."""
    Shop(sqlite_database).fill(40)
    real = durable.sync_file

    def failing(path: Path) -> None:
        if path.name == "vectors.f16":
            raise OSError(5, "Input/output error")
        real(path)

    monkeypatch.setattr(durable, "sync_file", failing)
    with pytest.raises(BuildFailed, match="Input/output error"):
        rebuild(sqlite_database, data_dir, QUICK)
    assert list(data_dir.iterdir()) == []


def test_too_small_a_disk_is_named_before_the_build(
    sqlite_database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Shop(sqlite_database).fill(40)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(BuildFailed, match="LOOKALIKE_DATA_DIR"):
        rebuild(sqlite_database, data_dir, QUICK)


def test_a_full_disk_fails_the_build_and_leaves_nothing(
    sqlite_database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Shop(sqlite_database).fill(40)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(BuildFailed, match="No space left"):
        rebuild(sqlite_database, data_dir, QUICK)
    assert list(data_dir.iterdir()) == []


def test_who_lost_the_lease_publishes_nothing(database: Database, data_dir: Path) -> None:
    """Even when the builder does not notice: the token decides."""
    Shop(database).fill(40)

    def steal(step: str) -> None:
        if step == "checked":
            with database.writing() as session:
                lease = _lease_row(session)
                leases.release(session, generations.LEASE, lease)
                assert leases.acquire(session, generations.LEASE, "thief", 60.0) == lease + 1

    with pytest.raises(BuildSuperseded):
        rebuild(database, data_dir, QUICK, checkpoint=steal)
    assert current(database) is None


def _lease_row(session: Any) -> int:
    from sqlalchemy import select

    from db.models import Lease

    token: int = session.execute(select(Lease.token)).scalar_one()
    return token


def test_whose_files_were_removed_blames_the_lost_lease(database: Database, data_dir: Path) -> None:
    """And not the disk: it slept, another one took the lease, and cleaned up after it."""
    Shop(database).fill(40)

    def oversleep(step: str) -> None:
        if step == "sorted":
            with database.writing() as session:
                leases.release(session, generations.LEASE, _lease_row(session))
            build(database, data_dir)

    with pytest.raises(BuildSuperseded, match="another process took it"):
        rebuild(database, data_dir, QUICK, checkpoint=oversleep)
    assert open_current(database, data_dir).manifest.number == 1
    assert len(list(data_dir.iterdir())) == 1


def test_who_was_overtaken_publishes_nothing(sqlite_database: Database, data_dir: Path) -> None:
    """Another generation became current after this one's data were read."""
    Shop(sqlite_database).fill(40)
    build(sqlite_database, data_dir)
    build(sqlite_database, data_dir)

    def roll_back(step: str) -> None:
        if step == "checked":
            with sqlite_database.writing() as session:
                assert repoint(session, 1, expected=2)

    with pytest.raises(BuildSuperseded):
        rebuild(sqlite_database, data_dir, QUICK, checkpoint=roll_back)
    assert open_current(sqlite_database, data_dir).manifest.number == 1


def test_a_lost_lease_stops_the_build(sqlite_database: Database, data_dir: Path) -> None:
    Shop(sqlite_database).fill(40)

    def steal(step: str) -> None:
        if step == "read":
            with sqlite_database.writing() as session:
                leases.release(session, generations.LEASE, _lease_row(session))
            _wait_until_lost()

    with pytest.raises(BuildSuperseded, match="lease"):
        rebuild(sqlite_database, data_dir, QUICK, checkpoint=steal, lease_ttl=0.05)
    assert list(data_dir.iterdir()) == []


def _wait_until_lost() -> None:
    import threading

    for thread in threading.enumerate():
        if thread.name == "lease-reindex":
            thread.join(timeout=10)


def test_only_one_builds(sqlite_database: Database, data_dir: Path) -> None:
    Shop(sqlite_database).fill(40)
    inner = []

    def again(step: str) -> None:
        if step == "read":
            inner.append(rebuild(sqlite_database, data_dir, QUICK))

    assert build(sqlite_database, data_dir, checkpoint=again).number == 1
    assert inner == [None]


# -- small and odd --------------------------------------------------------------------------------


def test_nothing_is_built_before_there_is_a_model(
    sqlite_database: Database, data_dir: Path
) -> None:
    assert rebuild(sqlite_database, data_dir, QUICK) is None
    assert list(data_dir.iterdir()) == []


@pytest.mark.parametrize("count", [0, 1, 2, 11])
def test_small_catalogues(database: Database, data_dir: Path, count: int) -> None:
    shop = Shop(database)
    if count:
        shop.fill(count)
    assert build(database, data_dir).images == count
    shop.add("new", vectors(1, seed=5)[0])
    answers = answerer(database, data_dir)
    assert_same(found(answers, "new"), shop.nearest("new", 10))


def test_equal_pictures_are_all_found(sqlite_database: Database, data_dir: Path) -> None:
    shop = Shop(sqlite_database)
    same = vectors(1)[0]
    shop.add_many([(f"p{i}", "main", same, None, {}) for i in range(300)])
    build(sqlite_database, data_dir)
    got = found(answerer(sqlite_database, data_dir), "p7", limit=299)
    assert len({p for p, _ in got}) == 299
    assert {d for _, d in got} == {0.0}


def test_the_classic_recipe(sqlite_database: Database, data_dir: Path) -> None:
    Shop(sqlite_database).fill(60, categories=5)
    build(sqlite_database, data_dir, replace(QUICK, trees_per_category=True, reduce_to=0))
    described = open_current(sqlite_database, data_dir).manifest
    assert described.parameters.size == 5
    assert described.parameters.reduced == described.dimension
    assert [c.count for c in described.categories] == [12] * 5
    assert described.peak_memory > 1 << 20
    assert described.recall > 0.9


def test_the_manifest_says_what_was_measured(sqlite_database: Database, data_dir: Path) -> None:
    shop = Shop(sqlite_database)
    shop.fill(400)
    shop.add("p7", vectors(1, seed=5)[0], name="side", category="c1")
    build(sqlite_database, data_dir, replace(QUICK, trees=0))
    described = open_current(sqlite_database, data_dir).manifest
    assert (described.images, described.products) == (401, 400)
    assert described.recall_target == 0.98
    assert 0.98 <= described.recall_at_least <= described.recall <= 1.0
    assert described.recall_queries == 401
    assert 0 < described.latency_ms < 1000
    assert described.parameters.size == TREES
    assert described.parameters.effort in engine("annoy").efforts(401)
    assert described.parameters.rerank <= QUICK.rerank
    assert 0.5 < described.kept_variance <= 1.0
    steps = ["read", "sort", "rotate", "index", "tune", "sync"]
    assert set(steps) <= set(described.timings)
    assert all(seconds >= 0 for seconds in described.timings.values())
    assert sum(described.timings[step] for step in steps) <= described.build_seconds + 0.01


@pytest.mark.parametrize("name", ["exact", pytest.param("faiss", marks=with_faiss)])
def test_other_engines_are_built_checked_published_and_answer(
    database: Database, data_dir: Path, name: EngineName, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer_the_index(monkeypatch)
    shop = Shop(database)
    shop.fill(300)
    build(database, data_dir, replace(QUICK, engine=name))
    described = open_current(database, data_dir).manifest
    assert described.engine == name
    assert described.recall_at_least >= 0.98
    shop.add("new", vectors(1, seed=5)[0], category="c1")
    shop.remove("p2")
    answers = answerer(database, data_dir)
    wheres: list[Where] = [{}, {"category": "c1"}, {"even": True}]
    for where in wheres:
        (reply,) = answers.by_products(question("new", where=where)).replies
        truth = {p for p, _ in shop.nearest("new", 10, where)}
        assert len({m.product_id for m in reply.matches} & truth) >= 9
    (reply,) = answers.by_products(question("p5")).replies
    assert reply.path == ("faiss+overlay" if name == "faiss" else "exact+overlay")


@pytest.mark.parametrize("count", [0, 1, 2])
def test_small_catalogues_without_an_index(
    sqlite_database: Database, data_dir: Path, count: int
) -> None:
    shop = Shop(sqlite_database)
    if count:
        shop.fill(count)
    build(sqlite_database, data_dir, replace(QUICK, engine="exact"))
    shop.add("new", vectors(1, seed=5)[0])
    assert_same(found(answerer(sqlite_database, data_dir), "new"), shop.nearest("new", 10))


@with_faiss
def test_a_process_without_faiss_answers_from_sql(
    sqlite_database: Database,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A worker that was not set up for the engine that another one builds with."""
    shop = Shop(sqlite_database)
    shop.fill(200)
    build(sqlite_database, data_dir, replace(QUICK, engine="faiss"))
    monkeypatch.setitem(sys.modules, "faiss", None)
    answers = answerer(sqlite_database, data_dir)
    (reply,) = answers.by_products(question("p1")).replies
    assert (reply.generation, reply.path) == (None, "exact")
    assert "faiss-cpu" in caplog.text
    assert_same(found(answers, "p1"), shop.nearest("p1", 10))


# -- when to build --------------------------------------------------------------------------------


def test_what_is_pending_is_counted_in_pictures_and_in_products(
    database: Database, data_dir: Path
) -> None:
    shop = Shop(database)
    assert read_state(database, data_dir).generation is None
    shop.fill(40)
    before = read_state(database, data_dir)
    assert (before.generation, before.images, before.pending) == (None, 40, 40)
    build(database, data_dir)
    fresh = read_state(database, data_dir)
    assert (fresh.generation, fresh.pending, fresh.changed_products) == (1, 0, 0)
    assert fresh.damage is None
    for i in range(3):
        own = shop.items[f"p{i}"]
        shop.add(f"p{i}", own.pictures["main"], category=own.category, attributes={"price": -1})
    shop.add("new", vectors(1, seed=5)[0])
    shop.remove("p9")
    after = read_state(database, data_dir)
    assert (after.images, after.pending, after.changed_products) == (40, 2, 5)


@pytest.mark.parametrize(
    "damage",
    [
        lambda directory: (directory / "tree.ann").unlink(),
        lambda directory: os.truncate(directory / "vectors.f16", 10),
        lambda directory: (directory / "manifest.json").write_text('{"format": 1}'),
        shutil.rmtree,
    ],
    ids=["no tree", "cut", "of an earlier version", "gone"],
)
def test_a_generation_that_cannot_be_used_is_replaced(
    sqlite_database: Database, data_dir: Path, damage: Callable[[Path], object]
) -> None:
    Shop(sqlite_database).fill(40)
    build(sqlite_database, data_dir)
    damage(next(data_dir.iterdir()))
    state = read_state(sqlite_database, data_dir)
    assert state.damage
    assert state.damage in (due(state, RebuildLimits(), datetime.now(UTC)) or "")
    build(sqlite_database, data_dir)
    assert read_state(sqlite_database, data_dir).damage is None


# -- told to stop ---------------------------------------------------------------------------------


def _stopped(database: Database, data_dir: Path, stop: Callable[[], bool], **options: Any) -> None:
    """A build that stops leaves nothing, and the lease to whoever comes next."""
    build(database, data_dir)
    before = {path.name for path in data_dir.iterdir()}
    with pytest.raises(BuildStopped):
        rebuild(database, data_dir, QUICK, stop=stop, **options)
    assert {path.name for path in data_dir.iterdir()} == before
    assert open_current(database, data_dir).manifest.number == 1
    assert build(database, data_dir).number == 2


@pytest.mark.parametrize("step", STEPS[:-1])
def test_a_build_stops_between_any_two_steps(
    sqlite_database: Database, data_dir: Path, step: str
) -> None:
    Shop(sqlite_database).fill(40)
    done: list[str] = []
    before = STEPS.index(step)
    _stopped(sqlite_database, data_dir, lambda: len(done) >= before, checkpoint=done.append)
    assert done == list(STEPS[:before])


@pytest.mark.parametrize("step", ["read", "sort", "index"])
def test_a_build_stops_within_a_step(
    sqlite_database: Database, data_dir: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the loops over the vectors, which are most of the work."""
    Shop(sqlite_database).fill(400)
    monkeypatch.setattr(annoy_engine, "BLOCK", 16)
    monkeypatch.setattr("worker.index.spool.ROWS", 16)
    monkeypatch.setattr("db.queries.catalogue.vectors.BLOCK", 16, raising=False)
    shares: list[tuple[str, float]] = []
    _stopped(
        sqlite_database,
        data_dir,
        lambda: any(name == step for name, _ in shares),
        on_progress=lambda name, share: shares.append((name, share)),
    )
    assert shares[-1][0] == step
    assert [name for name, _ in shares].count(step) == 1
    assert shares[-1][1] < 0.9 or step == "read"  # a catalogue of one block is read at once


def test_a_build_stops_while_its_check_runs(
    sqlite_database: Database, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Shop(sqlite_database).fill(40)
    build(sqlite_database, data_dir)
    before = {path.name for path in data_dir.iterdir()}
    slow = tmp_path / "python"
    slow.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    began = time.monotonic()
    with pytest.raises(BuildStopped):
        rebuild(sqlite_database, data_dir, QUICK, stop=(tmp_path / "pid").exists)
    assert time.monotonic() - began < 20
    assert {path.name for path in data_dir.iterdir()} == before
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_generation_that_is_published_is_not_stopped(
    sqlite_database: Database, data_dir: Path
) -> None:
    Shop(sqlite_database).fill(40)
    published: list[bool] = []

    def stop() -> bool:
        published.append(current(sqlite_database) is not None)
        return published[-1]

    assert build(sqlite_database, data_dir, stop=stop).number == 1
    assert published


# -- several catalogues in one folder -------------------------------------------------------------


def test_two_catalogues_in_one_folder_leave_each_other_alone(
    sqlite_databases: DatabaseFactory, data_dir: Path
) -> None:
    """Neither what the other serves, nor what it is building or has not published yet."""
    with sqlite_databases.migrated() as here, sqlite_databases.migrated() as there:
        ours, theirs = Database(here), Database(there)
        for database in (ours, theirs):
            Shop(database).fill(40)
        build(ours, data_dir)
        seen: dict[str, bool] = {}

        def meanwhile(step: str) -> None:
            if step in {"read", "renamed"}:
                before = set(data_dir.iterdir())
                build(ours, data_dir, replace(QUICK, keep=2))
                mine = [path for path in before if f"-{identity.of(theirs)}-" in path.name]
                seen[step] = len(mine) == 1 and all(path.is_dir() for path in mine)

        build(theirs, data_dir, checkpoint=meanwhile)
        assert seen == {"read": True, "renamed": True}
        for _ in range(3):
            build(ours, data_dir)
        assert open_current(theirs, data_dir).manifest.number == 1
        assert open_current(ours, data_dir).manifest.number == 6
        build(theirs, data_dir)
        assert open_current(ours, data_dir).manifest.number == 6
        ours.close()
        theirs.close()


def test_a_catalogue_is_known_by_the_same_digits_for_ever(database: Database) -> None:
    assert identity.of(database) is None
    Shop(database)
    own = identity.of(database)
    assert own is not None
    assert len(own) == 8
    Shop(database, digest="e" * 64)
    assert identity.of(database) == own


def test_a_folder_that_is_already_there_is_not_tidied(
    sqlite_database: Database, data_dir: Path
) -> None:
    """It is another's build: a copy of the database knows the same digits and tokens."""
    Shop(sqlite_database).fill(40)
    other = data_dir / f".building-{identity.of(sqlite_database)}-1"
    other.mkdir()
    (other / "spool").write_bytes(b"x")
    with pytest.raises(BuildFailed, match="File exists"):
        rebuild(sqlite_database, data_dir, QUICK)
    assert (other / "spool").exists()
