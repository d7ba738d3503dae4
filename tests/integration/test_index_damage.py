"""Invariant 8: a damaged or mismatched generation is refused before Annoy touches it."""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from db.errors import DatabaseUnavailable
from db.session import Database
from tests.services import DatabaseFactory
from tests.unit.worker.index.factories import Shop, answerer, assert_same, build, found, question
from worker.index import durable, follower, manifest, verified
from worker.index.annoy_engine import NODE_HEADER, AnnoyEngine
from worker.index.errors import GenerationDamaged, GenerationMismatch, GenerationRefused
from worker.index.generation import Expected, Generation
from worker.index.view import View

NODE = NODE_HEADER + 4 * 8


def cut_at_a_node(directory: Path) -> None:
    path = directory / "tree.ann"
    os.truncate(path, path.stat().st_size - 3 * NODE)


def cut_elsewhere(directory: Path) -> None:
    os.truncate(directory / "tree.ann", 1001)


def flip(name: str, place: float) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        data = bytearray((directory / name).read_bytes())
        data[int(place * (len(data) - 1))] ^= 0x10
        (directory / name).write_bytes(data)

    return damage


def zero(name: str) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        size = (directory / name).stat().st_size
        with (directory / name).open("r+b") as file:
            file.seek(size // 2)
            file.write(bytes(min(4096, size - size // 2)))

    return damage


def lose(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def link(directory: Path) -> None:
    """Even to the same bytes: what lies outside may change under a map."""
    moved = (directory / "tree.ann").rename(directory.parent / "elsewhere.ann")
    (directory / "tree.ann").symlink_to(moved)


def swap_files(directory: Path) -> None:
    (directory / "slot_image.npy").rename(directory / "x")
    (directory / "image_sorted.npy").rename(directory / "slot_image.npy")
    (directory / "x").rename(directory / "image_sorted.npy")


def say(**changes: Any) -> Callable[[Path], None]:
    """Another manifest than was published."""

    def damage(directory: Path) -> None:
        described = json.loads((directory / "manifest.json").read_text())
        (directory / "manifest.json").write_text(json.dumps(described | changes))

    return damage


DAMAGE = {
    "cut at a node": cut_at_a_node,
    "cut elsewhere": cut_elsewhere,
    "tree emptied": lambda d: os.truncate(d / "tree.ann", 0),
    "first bit": flip("tree.ann", 0.0),
    "last bit": flip("tree.ann", 1.0),
    "vector bit": flip("vectors.f16", 0.3),
    "rotation bit": flip("rotation.npy", 0.9),
    "slot bit": flip("slot_product.npy", 0.9),
    "neighbour bit": flip("neighbours.i32", 0.5),
    "attribute bit": flip("attribute_slots.npy", 1.0),
    "attribute name": flip("attributes.json", 0.5),
    "manifest bit": flip("manifest.json", 0.5),
    "page zeroed": zero("tree.ann"),
    "neighbours zeroed": zero("neighbours.i32"),
    "neighbours cut": lambda d: os.truncate(d / "neighbours.i32", 32 * 4 * 199),
    "vectors zeroed": zero("vectors.f16"),
    "no tree": lose("tree.ann"),
    "no vectors": lose("vectors.f16"),
    "no neighbours": lose("neighbours.i32"),
    "no attributes": lose("attributes.json"),
    "no manifest": lose("manifest.json"),
    "no lock": lose("lock"),
    "a link": link,
    "files swapped": swap_files,
    "dimension": say(dimension=8),
    "metric": say(metric="angular"),
    "engine": say(engine="faiss"),
    "format": say(format=1),
    "model": say(model_digest="e" * 64),
    "revision": say(revision=99),
}


@pytest.fixture(scope="module")
def built(
    sqlite_databases: DatabaseFactory, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Expected]]:
    data_dir = tmp_path_factory.mktemp("damage")
    with sqlite_databases.migrated() as url:
        database = Database(url)
        Shop(database).fill(200)
        build(database, data_dir)
        (directory,) = data_dir.iterdir()
        digest = manifest.digest_of((directory / "manifest.json").read_bytes())
        yield directory, Expected(1, "d" * 64, digest)
        database.close()


def never_given_to_annoy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test that gives it a file."""

    def fail(*_: object) -> None:
        pytest.fail("Annoy was given the file")

    monkeypatch.setattr(AnnoyEngine, "open", fail)


def forget(directory: Path) -> None:
    """As if this host had never compared all bytes."""
    for note in directory.glob("verified-*"):
        note.unlink()


def _copy(directory: Path, target: Path) -> Path:
    import shutil

    return Path(shutil.copytree(directory, target / directory.name))


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused_before_annoy_touches_it(
    built: tuple[Path, Expected], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, expected = _copy(built[0], tmp_path), built[1]
    Generation.open(directory, expected)
    never_given_to_annoy(monkeypatch)
    DAMAGE[kind](directory)
    with pytest.raises(GenerationRefused):
        Generation.open(directory, expected)


@pytest.mark.parametrize("name", ["dimension", "metric", "engine", "format", "model"])
def test_a_manifest_that_lies_is_refused_for_what_it_says(
    built: tuple[Path, Expected], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without help from the digest in SQL."""
    directory = _copy(built[0], tmp_path)
    never_given_to_annoy(monkeypatch)
    DAMAGE[name](directory)
    with pytest.raises(GenerationRefused):
        Generation.open(directory, Expected(model_digest="d" * 64))


def test_a_reduced_width_that_is_not_the_trees_is_refused(
    built: tuple[Path, Expected], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = _copy(built[0], tmp_path)
    described = json.loads((directory / "manifest.json").read_text())
    never_given_to_annoy(monkeypatch)
    say(parameters=described["parameters"] | {"reduced": 9})(directory)
    with pytest.raises(GenerationDamaged):
        Generation.open(directory)


def test_another_generation_than_asked_for_is_refused(built: tuple[Path, Expected]) -> None:
    with pytest.raises(GenerationMismatch):
        Generation.open(built[0], Expected(number=2))
    with pytest.raises(GenerationMismatch):
        Generation.open(built[0], Expected(model_digest="f" * 64))


def test_the_previous_generation_serves_when_the_newest_is_damaged(
    database: Database, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(database)
    shop.fill(200)
    build(database, data_dir)
    shop.remove("p3")
    build(database, data_dir)
    cut_at_a_node(max(data_dir.iterdir()))
    with caplog.at_level(logging.ERROR):
        answers = answerer(database, data_dir)
        (reply,) = answers.by_products(question("p1")).replies
    assert (reply.generation, reply.pending) == (1, 1)
    assert "generation 2 is not used" in caplog.text
    assert_same(found(answers, "p1"), shop.nearest("p1", 10))


@pytest.mark.parametrize("kind", ["vector bit", "model", "revision"])
def test_a_running_follower_keeps_its_generation_when_the_next_is_damaged(
    sqlite_database: Database, data_dir: Path, kind: str
) -> None:
    shop = Shop(sqlite_database)
    shop.fill(200)
    build(sqlite_database, data_dir)
    answers = answerer(sqlite_database, data_dir)
    assert_same(found(answers, "p1"), shop.nearest("p1", 10))
    shop.remove("p3")
    build(sqlite_database, data_dir)
    DAMAGE[kind](max(data_dir.iterdir()))
    (reply,) = answers.by_products(question("p1")).replies
    assert reply.generation == 1
    assert_same(found(answers, "p1"), shop.nearest("p1", 10))


def test_with_no_whole_generation_answers_are_exact_from_sql(
    database: Database, data_dir: Path
) -> None:
    shop = Shop(database)
    shop.fill(200)
    build(database, data_dir)
    lose("manifest.json")(next(data_dir.iterdir()))
    answers = answerer(database, data_dir)
    (reply,) = answers.by_products(question("p1")).replies
    assert (reply.generation, reply.path, reply.model_version) == (None, "exact", "d" * 64)
    assert_same(found(answers, "p1"), shop.nearest("p1", 10))
    assert build(database, data_dir).number == 2
    assert answers.by_products(question("p1")).replies[0].generation == 2


def _failing(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    "where",
    ["durable.sha256", "verified._sample", "generation.map_vectors", "annoy_engine.AnnoySearcher"],
)
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE, errno.ENOMEM])
def test_a_disk_that_fails_is_as_good_as_damage(
    built: tuple[Path, Expected],
    tmp_path: Path,
    where: str,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory, expected = _copy(built[0], tmp_path), built[1]
    monkeypatch.setattr(f"worker.index.{where}", _failing(number))
    with pytest.raises(GenerationDamaged):
        Generation.open(directory, expected)


def test_a_file_that_is_cut_off_after_it_was_verified(
    built: tuple[Path, Expected], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = _copy(built[0], tmp_path)
    os.truncate(directory / "vectors.f16", 0)
    monkeypatch.setattr(verified, "verify", lambda *_: None)
    with pytest.raises(GenerationDamaged):
        Generation.open(directory, built[1])


@pytest.mark.parametrize("noted", [True, False], ids=["read before", "never read here"])
def test_a_disk_that_fails_leaves_the_previous_generation_serving(
    sqlite_database: Database, data_dir: Path, noted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(sqlite_database)
    shop.fill(200)
    build(sqlite_database, data_dir)
    build(sqlite_database, data_dir)
    newest, sample = max(data_dir.iterdir()), verified._sample
    if not noted:
        forget(newest)

    def fail(path: Path, *of: Any) -> str:
        return _failing(errno.EIO)() if path.name == newest.name else sample(path, *of)

    monkeypatch.setattr(verified, "_sample", fail)
    monkeypatch.setattr(durable, "sha256", _failing(errno.EIO))
    answers = answerer(sqlite_database, data_dir)
    assert answers.by_products(question("p1")).replies[0].generation == 1
    assert_same(found(answers, "p1"), shop.nearest("p1", 10))


def test_a_refused_generation_is_not_read_again_at_once_nor_is_the_open_one(
    sqlite_database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading one may be reading gigabytes: not four times a second."""
    shop = Shop(sqlite_database)
    shop.fill(200)
    build(sqlite_database, data_dir)
    opened: list[str] = []
    real = verified.verify

    def noted(directory: Path, *of: Any) -> None:
        opened.append(directory.name[:19])
        real(directory, *of)

    monkeypatch.setattr(verified, "verify", noted)
    following = follower.Follower(sqlite_database, data_dir)
    following.refresh()
    build(sqlite_database, data_dir)
    flip("vectors.f16", 0.5)(max(data_dir.iterdir()))
    first, second = "generation-00000001", "generation-00000002"
    assert [following.refresh().number for _ in range(5)] == [1] * 5
    assert opened == [first, second]  # the open one was taken as it is


def test_a_refusal_outlasts_a_database_that_fails_right_after_it(
    sqlite_database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was published then, so that only the memory of the refusal keeps the disk from being read again."""
    shop = Shop(sqlite_database)
    shop.fill(200)
    build(sqlite_database, data_dir)
    flip("vectors.f16", 0.5)(next(data_dir.iterdir()))
    read: list[Path] = []
    real = verified.verify

    def noted(directory: Path, *of: Any) -> None:
        read.append(directory)
        real(directory, *of)

    monkeypatch.setattr(verified, "verify", noted)
    following = follower.Follower(sqlite_database, data_dir)
    with monkeypatch.context() as away:
        away.setattr(following, "_loaded", lambda *_: (_ for _ in ()).throw(DatabaseUnavailable()))
        for _ in range(5):
            with pytest.raises(DatabaseUnavailable):
                following.refresh()
    assert following.refresh().number is None
    assert len(read) == 1
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2 * follower.RETRY_AFTER)
    following.refresh()
    assert len(read) == 2  # a disk may have been mounted meanwhile


class _Away(follower.Follower):
    """Fails for as long as it is told to."""

    trouble: Exception | None = None
    tries = 0

    def refresh(self) -> View:
        self.tries += 1
        if self.trouble is not None:
            raise self.trouble
        return super().refresh()


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_database_that_is_away_costs_one_line_and_ever_fewer_tries(
    sqlite_database: Database, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Shop(sqlite_database).fill(20)
    following = _Away(sqlite_database, data_dir, interval=0.02)
    with caplog.at_level(logging.WARNING, "worker.index.follower"):
        following.start()
        try:
            following.trouble, before = DatabaseUnavailable(), following.tries
            time.sleep(1.0)
            assert 3 <= following.tries - before <= 8  # 50 at the usual pace
            assert [r.exc_info for r in caplog.records] == [None]
            following.trouble = ValueError("a bug")
            _until(lambda: len(caplog.records) == 2)
            following.trouble = None
            _until(lambda: len(caplog.records) == 3)
        finally:
            following.stop()
    assert [r.message for r in caplog.records[1:]] == [
        "the index is not followed: a bug",
        "the index is followed again",
    ]
    assert caplog.records[1].exc_info


def test_a_lookup_that_reaches_the_database_wakes_the_follower(
    sqlite_database: Database, data_dir: Path
) -> None:
    """A new generation is opened when the database is back, not at the end of a long pause."""
    Shop(sqlite_database).fill(20)
    following = _Away(sqlite_database, data_dir, interval=3.0)
    following.start()
    try:
        following.trouble, before = DatabaseUnavailable(), following.tries
        following._woken.set()
        _until(lambda: following.tries > before)
        following.trouble = None
        build(sqlite_database, data_dir)
        began = time.monotonic()
        _until(lambda: following.refresh().number == 1)
        assert time.monotonic() - began < 2.0
    finally:
        following.stop()
