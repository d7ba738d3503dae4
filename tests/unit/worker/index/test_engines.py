"""The engines, through the interface that they share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.unit.worker.index.factories import vectors
from tests.unit.worker.index.generations import (
    ENGINES,
    INDEXED,
    QUIET,
    described_as,
    source_of,
    with_faiss,
    with_files,
)
from worker.index import annoy_engine, faiss_engine, generation
from worker.index.annoy_engine import NEIGHBOURS, TREE, AnnoyEngine
from worker.index.engines import (
    Engine,
    EngineName,
    ExactEngine,
    Found,
    Searcher,
    Slots,
    Source,
    engine,
)
from worker.index.errors import BadVectors, EngineBroken, GenerationDamaged
from worker.index.faiss_engine import INDEX, FaissEngine
from worker.index.manifest import Manifest
from worker.index.neighbours import WIDTH
from worker.index.score import Vectors

REDUCED = 8
THOROUGH = 20_000
"""An effort that looks at everything."""


@dataclass(frozen=True)
class Built:
    engine: Engine
    source: Source
    folder: Path
    described: Manifest

    def open(self) -> Searcher:
        return self.engine.open(self.folder, self.described)

    @property
    def points(self) -> Vectors:
        """The reduced vectors, by slot."""
        return self.source.reduced(0, len(self.source))

    def distances(self, queries: Vectors) -> Vectors:
        """Squared, of all slots from each reduced query."""
        apart: Vectors = ((queries[:, None, :] - self.points[None, :, :]) ** 2).sum(axis=2)
        return apart


def build(folder: Path, name: EngineName, rows: Vectors, size: int = 0) -> Built:
    chosen, source = engine(name), source_of(rows, REDUCED)
    folder.mkdir(exist_ok=True)
    made = chosen.build(source, folder, replace(QUIET, size=size))
    described = described_as(name, source.rotation, images=len(rows), size=made)
    entries = {
        each: entry
        for each, entry in with_files_of(chosen, folder, described).files.items()
        if each in chosen.files
    }
    return Built(chosen, source, folder, described.model_copy(update={"files": entries}))


def with_files_of(chosen: Engine, folder: Path, described: Manifest) -> Manifest:
    """The manifest with the engine's own files."""
    for name in generation.files_of(described) - set(chosen.files):
        (folder / name).touch()
    return with_files(folder, described)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Callable[[EngineName], Built]:
    """900 pictures in clusters, built once with each engine."""
    made: dict[EngineName, Built] = {}

    def of(name: EngineName) -> Built:
        if name not in made:
            made[name] = build(tmp_path_factory.mktemp(name), name, vectors(900, seed=6))
        return made[name]

    return of


def assert_sound(found: Found, queries: int, count: int, slots: int) -> None:
    assert found.slots.shape == (queries, count)
    assert found.slots.dtype == np.int32
    assert found.certain.shape == (queries,)
    for row in found.slots:
        there = row[row >= 0]
        assert len(set(there.tolist())) == len(there)
        assert there.max(initial=0) < max(slots, 1)


def recall(found: Slots, apart: Vectors, count: int) -> float:
    """Share of the `count` nearest that are found; at equal distances any will do."""
    limits = np.sort(apart, axis=1)[:, count - 1]
    got = np.where(found >= 0, np.take_along_axis(apart, np.maximum(found, 0), axis=1), np.inf)
    return float((np.sort(got, axis=1)[:, :count] <= limits[:, None] + 1e-5).mean())


# -- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_works_on_this_machine_and_knows_its_release(name: EngineName) -> None:
    engine(name).self_test()
    assert engine(name).version()[0].isdigit()


@pytest.mark.parametrize("name", ENGINES)
def test_files_are_those_that_it_names(
    shelf: Callable[[EngineName], Built], name: EngineName
) -> None:
    built = shelf(name)
    built.engine.validate(built.described)
    assert set(built.described.files) == set(built.engine.files)
    assert (built.described.parameters.size > 0) == bool(built.engine.files)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("images", [1, 11, 500, 1_000_000])
def test_efforts_rise_and_cost_more(name: EngineName, images: int) -> None:
    chosen = engine(name)
    efforts = chosen.efforts(images)
    assert efforts
    assert list(efforts) == sorted(set(efforts))
    alike = [chosen.read_alike(effort, 512) for effort in efforts]
    assert alike == sorted(alike)
    assert alike[0] > 0


# -- those with an index --------------------------------------------------------------------------


@pytest.mark.parametrize("name", INDEXED)
def test_the_nearest_are_found(shelf: Callable[[EngineName], Built], name: EngineName) -> None:
    built = shelf(name)
    queries = built.points[::30]
    apart = built.distances(queries)
    efforts = built.engine.efforts(len(built.source))
    found = built.open().search(queries, 40, efforts[-1])
    assert_sound(found, len(queries), 40, 900)
    assert recall(found.slots, apart, 10) > 0.95
    assert (found.certain >= 10).all()
    poor = built.open().search(queries, 40, efforts[0])
    assert 0.2 < recall(poor.slots, apart, 10) <= recall(found.slots, apart, 10)


@pytest.mark.parametrize("name", INDEXED)
@pytest.mark.parametrize("count", [1, 2, 33, 50])
def test_more_than_there_are_gives_all_and_pads(
    tmp_path: Path, name: EngineName, count: int
) -> None:
    built = build(tmp_path, name, vectors(count))
    built.engine.validate(built.described)
    found = built.open().search(built.points[:2], count + 3, THOROUGH)
    assert_sound(found, min(count, 2), count + 3, count)
    for row in found.slots:
        assert sorted(row.tolist()) == [-1, -1, -1, *range(count)]
    assert found.certain.tolist() == [count] * min(count, 2)


@pytest.mark.parametrize("name", INDEXED)
def test_equal_pictures_are_found(tmp_path: Path, name: EngineName) -> None:
    built = build(tmp_path, name, np.tile(vectors(1), (80, 1)))
    found = built.open().search(built.points[:1], 80, THOROUGH)
    assert_sound(found, 1, 80, 80)
    assert (found.slots >= 0).sum() >= 40


@pytest.mark.parametrize("name", INDEXED)
@pytest.mark.parametrize("part", [2, 9, 90])
def test_only_eligible_slots_are_found(
    shelf: Callable[[EngineName], Built], name: EngineName, part: int
) -> None:
    built = shelf(name)
    queries, efforts = built.points[::45], built.engine.efforts(900)
    found = built.open().search(queries, 20, efforts[-1], lambda slots: slots % part == 0)
    assert_sound(found, len(queries), 20, 900)
    assert (found.slots[found.slots >= 0] % part == 0).all()
    there = (found.slots >= 0).sum(axis=1)
    assert (np.minimum(found.certain, 20) <= there).all()
    # What it is certain of are the nearest of those that are eligible.
    apart = built.distances(queries)
    apart[:, np.arange(900) % part != 0] = np.inf
    for row, near, sure in zip(found.slots, apart, np.minimum(found.certain, 10), strict=True):
        if sure:
            assert recall(row[None], near[None], int(sure)) >= 0.7


@pytest.mark.parametrize("name", INDEXED)
def test_nothing_is_found_where_nothing_is_eligible(
    shelf: Callable[[EngineName], Built], name: EngineName
) -> None:
    built = shelf(name)
    found = built.open().search(
        built.points[:3], 5, 2000, lambda slots: np.zeros(slots.shape, dtype=np.bool_)
    )
    assert (found.slots == -1).all()
    assert (found.certain == 0).all()


@pytest.mark.parametrize("name", INDEXED)
def test_a_query_finds_others_without_its_own_slot(
    shelf: Callable[[EngineName], Built], name: EngineName
) -> None:
    built = shelf(name)
    own = np.arange(0, 900, 30, dtype=np.int32)
    queries, efforts = built.points[own], built.engine.efforts(900)
    searcher = built.open()
    assert (searcher.search(queries, 20, efforts[-1]).slots == own[:, None]).any(axis=1).all()
    found = searcher.search(queries, 20, efforts[-1], without=own)
    assert_sound(found, len(own), 20, 900)
    assert not (found.slots == own[:, None]).any()
    assert (found.slots >= 0).all()
    apart = built.distances(queries)
    apart[np.arange(len(own)), own] = np.inf
    assert recall(found.slots, apart, 10) > 0.9


@pytest.mark.parametrize("name", INDEXED)
@pytest.mark.parametrize("restricted", [False, True])
def test_a_batch_finds_what_single_queries_find(
    shelf: Callable[[EngineName], Built],
    name: EngineName,
    restricted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(annoy_engine, "GROUP_BYTES", 40_000)  # of which a batch takes several
    built = shelf(name)
    searcher, queries = built.open(), built.points[::60]
    own = np.arange(0, 900, 60, dtype=np.int32)
    options = {"eligible": lambda slots: slots % 3 > 0} if restricted else {}
    together = searcher.search(queries, 15, 600, without=own, **options)
    for i, query in enumerate(queries):
        alone = searcher.search(query[None], 15, 600, without=own[i : i + 1], **options)
        assert sorted(alone.slots[0].tolist()) == sorted(together.slots[i].tolist())
        assert alone.certain[0] == together.certain[i]


@pytest.mark.parametrize("name", INDEXED)
def test_the_same_seed_and_one_job_give_the_same_files(tmp_path: Path, name: EngineName) -> None:
    rows = vectors(300)
    first, second = build(tmp_path / "a", name, rows), build(tmp_path / "b", name, rows)
    for file in first.engine.files:
        assert (first.folder / file).read_bytes() == (second.folder / file).read_bytes()


@pytest.mark.parametrize("name", INDEXED)
def test_a_size_that_is_given_is_taken(tmp_path: Path, name: EngineName) -> None:
    assert build(tmp_path, name, vectors(200), size=3).described.parameters.size == 3


@pytest.mark.parametrize("name", INDEXED)
def test_an_index_of_another_count_or_width_is_refused(
    shelf: Callable[[EngineName], Built], name: EngineName
) -> None:
    built = shelf(name)
    for images, reduced in ((901, REDUCED), (10, REDUCED), (900, REDUCED + 1), (900, 4)):
        parameters = built.described.parameters.model_copy(update={"reduced": reduced})
        lying = built.described.model_copy(update={"images": images, "parameters": parameters})
        with pytest.raises(GenerationDamaged):
            _validated_and_opened(built.engine, built.folder, lying)


def _validated_and_opened(chosen: Engine, folder: Path, described: Manifest) -> None:
    chosen.validate(described)
    chosen.open(folder, described)


@pytest.mark.parametrize("name", INDEXED)
def test_progress_rises_to_its_end_and_may_stop_a_build(tmp_path: Path, name: EngineName) -> None:
    shares: list[float] = []
    recipe = replace(QUIET, on_progress=shares.append)
    engine(name).build(source_of(vectors(100)), tmp_path, recipe)
    assert shares
    assert shares == sorted(shares)
    assert all(0.0 <= share <= 1.0 for share in shares)

    def stop(share: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        engine(name).build(source_of(vectors(100)), tmp_path, replace(QUIET, on_progress=stop))


# -- Annoy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "problem"),
    [([[0]] * 64, "returned 1"), ([[0, 1, 2, 3, 4]] * 64, "not the nearest")],
)
def test_a_broken_annoy_is_named_with_the_way_out(found: list[list[int]], problem: str) -> None:
    with pytest.raises(EngineBroken, match=problem) as caught:
        annoy_engine.verify_answers(vectors(64, 8), found)
    assert "ANNOY_COMPILER_ARGS" in str(caught.value)


def test_an_annoy_whose_file_is_laid_out_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The vectors of its nodes are read beside it."""
    real = annoy_engine._nodes
    monkeypatch.setattr(annoy_engine, "_nodes", lambda *of: np.roll(real(*of), 1, axis=1))
    with pytest.raises(EngineBroken, match="laid out otherwise"):
        AnnoyEngine().self_test()


def test_a_full_disk_of_temporary_files_is_not_blamed_on_annoy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(annoy_engine, "_planted", full)
    with pytest.raises(EngineBroken, match=r"No space left on device.*TMPDIR"):
        AnnoyEngine().self_test()


def test_annoy_is_never_given_nan(tmp_path: Path) -> None:
    source = source_of(vectors(4))
    source.rotation.mean[3] = np.nan
    with pytest.raises(BadVectors):
        AnnoyEngine().build(source, tmp_path, QUIET)


NODE = annoy_engine.NODE_HEADER + 4 * REDUCED


@pytest.mark.parametrize(
    ("file", "size"),
    [(TREE, 0), (TREE, 29 * NODE), (TREE, 60 * NODE + 4), (TREE, 30 * NODE - 1)]
    + [(NEIGHBOURS, 4 * WIDTH * rows + odd) for rows, odd in ((0, 0), (29, 0), (31, 0), (30, 4))],
)
def test_sizes_that_cannot_be_are_refused_before_annoy_opens_anything(
    tmp_path: Path, file: str, size: int
) -> None:
    built = build(tmp_path, "annoy", vectors(30))
    built.engine.validate(built.described)
    entry = built.described.files[file].model_copy(update={"bytes": size})
    lying = built.described.model_copy(update={"files": built.described.files | {file: entry}})
    with pytest.raises(GenerationDamaged, match=file):
        built.engine.validate(lying)


def test_a_tree_that_annoy_cannot_map_is_refused(tmp_path: Path) -> None:
    built = build(tmp_path, "annoy", vectors(30))
    os.truncate(tmp_path / TREE, 1001)
    with pytest.raises(GenerationDamaged, match="mapped"):
        built.open()


def test_a_seed_that_is_left_out_teaches_nothing(tmp_path: Path) -> None:
    """Its own list is not read: here it is the only one that leads to some slots."""
    built = build(tmp_path, "annoy", vectors(400, seed=8), size=1)
    query, own = built.points[5:6], np.array([5], dtype=np.int32)
    lists = np.full((400, WIDTH), -1, dtype="<i4")
    lists.tofile(tmp_path / NEIGHBOURS)
    seeds = set(built.open().search(query, 400, 1).slots[0].tolist())
    only = np.setdiff1d(np.arange(400), list(seeds))[:WIDTH]
    lists[5] = only
    lists.tofile(tmp_path / NEIGHBOURS)
    searcher = built.open()
    assert np.isin(only, searcher.search(query, 400, 1).slots).all()
    found = searcher.search(query, 400, 1, without=own).slots
    assert set(found[0].tolist()) == seeds - {5}


# -- FAISS ----------------------------------------------------------------------------------------


def test_without_faiss_the_setting_and_the_package_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    for use in (FaissEngine().self_test, FaissEngine().version):
        with pytest.raises(EngineBroken, match=r"LOOKALIKE_ENGINE=faiss.*faiss-cpu"):
            use()


@with_faiss
def test_a_faiss_file_that_is_none_is_refused(tmp_path: Path) -> None:
    built = build(tmp_path, "faiss", vectors(50))
    os.truncate(tmp_path / INDEX, 100)
    with pytest.raises(GenerationDamaged):
        built.open()
    few = built.described.files[INDEX].model_copy(update={"bytes": 50 * REDUCED - 1})
    with pytest.raises(GenerationDamaged):
        built.engine.validate(built.described.model_copy(update={"files": {INDEX: few}}))


def test_lists_are_never_more_than_can_be_learnt() -> None:
    for images in (1, 39, 40, 1000, 250_000, 10**9):
        lists = faiss_engine._lists(images)
        assert 1 <= lists <= faiss_engine.MOST_LISTS
        assert lists == 1 or lists * faiss_engine.TRAINING <= images


# -- exact ----------------------------------------------------------------------------------------


def test_the_exact_engine_writes_nothing_and_is_never_cheaper_than_reading(tmp_path: Path) -> None:
    built = build(tmp_path / "exact", "exact", vectors(20))
    assert isinstance(built.engine, ExactEngine)
    assert built.engine.files == ()
    found = built.open().search(built.points[:2], 4, 1)
    assert_sound(found, 2, 4, 20)
    assert (found.slots == -1).all()
    assert (found.certain == 0).all()
    assert built.engine.read_alike(1, 512) == float("inf")
