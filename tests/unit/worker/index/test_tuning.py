from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from tests.unit.worker.index.factories import vectors
from tests.unit.worker.index.generations import ENGINES, INDEXED, generation
from worker.index import tuning
from worker.index.annoy_engine import NEIGHBOURS
from worker.index.engines import EngineName, Found, Slots, engine
from worker.index.generation import Generation
from worker.index.neighbours import WIDTH
from worker.index.score import Vectors
from worker.index.tuning import Measured, measure, truth_of, tune

QUERIES = 120


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return generation(tmp_path_factory.mktemp("tuning"), vectors(1500, seed=21))


def tuned(base: Generation, target: float, **options: int) -> Measured:
    chosen = {"effort": 0, "rerank": 200, "seed": 1, "queries": QUERIES} | options
    return tune(base, target, **chosen)


# -- the truth ------------------------------------------------------------------------------------


def test_the_truth_is_that_of_brute_force_without_the_query(base: Generation) -> None:
    truth = truth_of(base, 40, seed=3)
    rows = base.vectors_at(np.arange(len(base)))
    assert len(set(truth.slots.tolist())) == 40
    for slot, vector, limit in zip(truth.slots, truth.vectors, truth.limits, strict=True):
        assert np.array_equal(vector, rows[slot])
        apart = np.sort(np.linalg.norm(np.delete(rows, slot, axis=0) - vector, axis=1))
        assert limit == pytest.approx(apart[9], abs=1e-5)


def test_equal_pictures_are_each_others_neighbours(tmp_path: Path) -> None:
    base = generation(tmp_path, np.repeat(vectors(20), 15, axis=0))
    truth = truth_of(base, 50, seed=1)
    assert np.allclose(truth.limits, 0.0)
    assert measure(base, truth, 2000, 200).recall > 0.9


@pytest.mark.parametrize(("images", "count"), [(1, 0), (2, 1), (8, 7), (11, 10), (30, 10)])
def test_small_indexes_have_as_many_neighbours_as_there_are(
    tmp_path: Path, images: int, count: int
) -> None:
    base = generation(tmp_path, vectors(images))
    assert truth_of(base, 500, seed=1).count == count
    measured = tuned(base, 0.98)
    assert measured.recall == pytest.approx(1.0)
    assert measured.queries == (images if count else 0)


# -- the measure ----------------------------------------------------------------------------------


def test_recall_is_the_share_that_is_found(
    base: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With searches that find a known number of the true neighbours."""
    truth = truth_of(base, 4, seed=2)
    squared = np.full((4, 12), np.inf, dtype=np.float32)
    for row, hits in enumerate((10, 10, 5, 0)):
        squared[row, :hits] = (truth.limits[row] * 0.99) ** 2
        squared[row, hits:11] = (truth.limits[row] + 0.01) ** 2
    slots = np.arange(48).reshape(4, 12)
    monkeypatch.setattr(tuning, "_searched", lambda *_: (slots, squared.copy()))
    measured = measure(base, truth, 1, 12)
    assert measured.recall == pytest.approx(25 / 40)
    error = float(np.std([1.0, 1.0, 0.5, 0.0])) / 2
    assert measured.at_least == pytest.approx(25 / 40 - 1.645 * error)
    assert measured.queries == 4


def test_a_query_that_finds_itself_gains_nothing(
    base: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = truth_of(base, 4, seed=2)
    monkeypatch.setattr(
        tuning, "_searched", lambda *_: (truth.slots[:, None], np.zeros((4, 1), np.float32))
    )
    assert measure(base, truth, 1, 12).recall == 0.0


def test_the_lower_bound_is_below_the_mean(base: Generation) -> None:
    truth = truth_of(base, QUERIES, seed=1)
    poor = measure(base, truth, 300, 20)
    assert 0.3 < poor.recall < 1.0
    assert poor.recall - 0.2 < poor.at_least < poor.recall
    few = measure(base, truth_of(base, 15, seed=1), 300, 20)
    assert few.recall - few.at_least > poor.recall - poor.at_least


class Noted:
    """Passes searches on, and notes what they leave out."""

    def __init__(self, base: Generation) -> None:
        assert base.searcher is not None
        self._searcher = base.searcher
        self.without: list[Slots | None] = []

    def search(
        self,
        queries: Vectors,
        count: int,
        effort: int,
        eligible: object = None,
        without: Slots | None = None,
    ) -> Found:
        assert eligible is None
        self.without.append(without)
        return self._searcher.search(queries, count, effort, None, without)


@pytest.mark.parametrize("name", INDEXED)
def test_every_search_leaves_the_querys_own_slot_out(tmp_path: Path, name: EngineName) -> None:
    base = generation(tmp_path, vectors(300), engine_name=name, effort=4)
    noted = Noted(base)
    measured = tuned(replace(base, searcher=noted), 0.98, queries=50)
    assert measured.recall > 0.9
    slots = set(truth_of(base, 50, seed=1).slots.tolist())
    assert noted.without
    for each in noted.without:
        assert each is not None
        assert set(each.tolist()) <= slots


def test_a_querys_own_list_of_neighbours_is_no_help(tmp_path: Path) -> None:
    """Pictures from outside have none: with no other list, an index is as poor as with no list at all."""
    base = generation(tmp_path, vectors(1500, seed=21))
    lists = np.fromfile(tmp_path / NEIGHBOURS, dtype="<i4").reshape(-1, WIDTH)
    nothing = np.full_like(lists, -1)
    poor = 0
    for seed in range(12):
        truth = truth_of(base, 1, seed=seed)
        own = nothing.copy()
        own[truth.slots] = lists[truth.slots]
        helped, bare = (_measured_with(base, tmp_path, each, truth) for each in (own, nothing))
        assert helped == bare
        poor += bare < 1.0
    assert poor  # there was something to be helped with


def _measured_with(base: Generation, folder: Path, lists: Slots, truth: tuning.Truth) -> float:
    lists.astype("<i4").tofile(folder / NEIGHBOURS)
    searcher = engine("annoy").open(folder, base.manifest)
    return measure(replace(base, searcher=searcher), truth, 300, 200).recall


# -- the search for parameters --------------------------------------------------------------------


@pytest.mark.parametrize("target", [0.5, 0.9, 0.98])
def test_the_target_is_reached_with_no_more_effort_than_it_takes(
    base: Generation, target: float
) -> None:
    measured = tuned(base, target)
    assert measured.at_least >= target
    truth = truth_of(base, QUERIES, seed=1)
    cheaper = [e for e in engine("annoy").efforts(len(base)) if e < measured.effort]
    if cheaper:
        assert measure(base, truth, cheaper[-1], measured.rerank).at_least < target
    assert measured.latency_ms > 0


def test_a_target_that_cannot_be_reached_gives_the_best_there_is(base: Generation) -> None:
    measured = tuned(base, 1.01)
    efforts = engine("annoy").efforts(len(base))
    assert measured.recall >= measure(base, truth_of(base, QUERIES, 1), efforts[-1], 60).recall


def test_fewer_candidates_are_ranked_where_they_do_as_well(
    base: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the time that they take: here, as many milliseconds as candidates."""
    real = tuning.measure

    def timed(*of: object) -> Measured:
        measured = real(*of)  # type: ignore[arg-type]
        return replace(measured, latency_ms=float(measured.rerank))

    monkeypatch.setattr(tuning, "measure", timed)
    assert tuned(base, 0.9).rerank == 60
    assert tuned(base, 0.9, rerank=80).rerank == 60
    assert tuned(base, 0.9, rerank=30).rerank == 30


def test_an_effort_that_is_given_is_taken_with_its_candidates(base: Generation) -> None:
    measured = tuned(base, 0.9, effort=777, rerank=70)
    assert (measured.effort, measured.rerank) == (777, 70)


def test_the_latency_is_the_median_of_single_queries(
    base: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(range(10_000))
    monkeypatch.setattr("worker.index.tuning.time.perf_counter", lambda: float(next(times)))
    asked: list[int] = []
    real = tuning._searched

    def noted(base: Generation, truth: tuning.Truth, effort: int, rerank: int) -> object:
        asked.append(len(truth.vectors))
        return real(base, truth, effort, rerank)

    monkeypatch.setattr(tuning, "_searched", noted)
    measured = tuned(base, 0.9, queries=30)
    assert asked[-30:] == [1] * 30
    assert measured.latency_ms == median([1000.0] * 30)


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_can_be_tuned(tmp_path: Path, name: EngineName) -> None:
    base = generation(tmp_path, vectors(400), engine_name=name, effort=4)
    measured = tuned(base, 0.9, queries=60)
    assert measured.at_least >= 0.9
    assert measured.effort in engine(name).efforts(400)
    if name == "exact":
        assert measured.recall == 1.0
