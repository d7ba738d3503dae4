"""Invariant 8: a damaged or mismatched generation is refused before Annoy touches it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from db.session import Database
from tests.services import DatabaseFactory
from tests.unit.worker.index.factories import Shop, answerer, assert_same, build, found, question
from worker.index import generation, manifest
from worker.index.errors import GenerationDamaged, GenerationMismatch, GenerationRefused
from worker.index.generation import NODE_HEADER, Expected, Generation

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
    "manifest bit": flip("manifest.json", 0.5),
    "page zeroed": zero("tree.ann"),
    "vectors zeroed": zero("vectors.f16"),
    "no tree": lose("tree.ann"),
    "no vectors": lose("vectors.f16"),
    "no manifest": lose("manifest.json"),
    "no lock": lose("lock"),
    "a link": link,
    "files swapped": swap_files,
    "dimension": say(dimension=8),
    "metric": say(metric="angular"),
    "engine": say(engine="faiss"),
    "format": say(format=2),
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


def _copy(directory: Path, target: Path) -> Path:
    import shutil

    return Path(shutil.copytree(directory, target / directory.name))


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused_before_annoy_touches_it(
    built: tuple[Path, Expected], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, expected = _copy(built[0], tmp_path), built[1]
    Generation.open(directory, expected)
    monkeypatch.setattr(generation, "Tree", lambda *_: pytest.fail("Annoy was given the file"))
    DAMAGE[kind](directory)
    with pytest.raises(GenerationRefused):
        Generation.open(directory, expected)


@pytest.mark.parametrize("name", ["dimension", "metric", "engine", "format", "model"])
def test_a_manifest_that_lies_is_refused_for_what_it_says(
    built: tuple[Path, Expected], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without help from the digest in SQL."""
    directory = _copy(built[0], tmp_path)
    monkeypatch.setattr(generation, "Tree", lambda *_: pytest.fail("Annoy was given the file"))
    DAMAGE[name](directory)
    with pytest.raises(GenerationRefused):
        Generation.open(directory, Expected(model_digest="d" * 64))


def test_a_reduced_width_that_is_not_the_trees_is_refused(
    built: tuple[Path, Expected], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = _copy(built[0], tmp_path)
    described = json.loads((directory / "manifest.json").read_text())
    monkeypatch.setattr(generation, "Tree", lambda *_: pytest.fail("Annoy was given the file"))
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
