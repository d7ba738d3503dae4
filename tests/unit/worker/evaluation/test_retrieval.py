"""Precision, recall and average precision, against the definitions written out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.evaluation import retrieval
from worker.evaluation.retrieval import (
    Grouped,
    Vectors,
    neighbours,
    overlap,
    relevance,
    shared,
)


def unit(count: int, seed: int, dimension: int = 6) -> Vectors:
    """Random unit vectors."""
    vectors = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / lengths, np.float32)


def written_out(
    cosines: Vectors, alike_to: NDArray[np.bool_], own: int | None, k: int
) -> tuple[float, float, float] | None:
    """Precision@k, recall@k and average precision of one question."""
    order = sorted(range(len(cosines)), key=lambda place: -cosines[place])
    alike = [bool(alike_to[each]) for each in order if each != own]
    total = sum(alike)
    if not total:
        return None
    hits = [sum(alike[: place + 1]) / (place + 1) for place in range(len(alike)) if alike[place]]
    return sum(alike[:k]) / k, sum(alike[:k]) / total, sum(hits) / total


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("block", [1, 7, 256])
def test_as_the_definitions_say(monkeypatch: pytest.MonkeyPatch, inside: bool, block: int) -> None:
    monkeypatch.setattr(retrieval, "BLOCK", block)
    chance = np.random.default_rng(5)
    gallery = Grouped(unit(60, 1), chance.integers(0, 9, 60))
    questions = gallery[:30] if inside else Grouped(unit(30, 2), chance.integers(0, 12, 30))
    selves = np.arange(30) if inside else None
    done: list[int] = []
    found = relevance(questions, gallery, selves=selves, tops=(3,), progress=done.append)
    each = [
        written_out(gallery.vectors @ vector, gallery.groups == group, i if inside else None, 3)
        for i, (vector, group) in enumerate(zip(questions.vectors, questions.groups, strict=True))
    ]
    answered = np.array([measures for measures in each if measures is not None])
    assert sum(done) == 30
    assert (found.questions, found.skipped) == (len(answered), 30 - len(answered))
    assert found.gallery == 60
    measured = (found.precision[3], found.recall[3], found.mean_average_precision)
    assert measured == pytest.approx(answered.mean(axis=0))


def test_a_perfect_space() -> None:
    corners = np.eye(4, dtype=np.float32)
    groups = np.repeat(np.arange(4), 10)
    found = relevance(Grouped(corners, np.arange(4)), Grouped(corners[groups], groups))
    assert found.precision == {1: 1.0, 10: 1.0}
    assert found.recall == {1: pytest.approx(0.1), 10: 1.0}
    assert found.mean_average_precision == 1.0


def test_a_space_without_meaning() -> None:
    chance = np.random.default_rng(0)
    questions = Grouped(unit(300, 1), chance.integers(0, 4, 300))
    found = relevance(questions, Grouped(unit(4000, 2), chance.integers(0, 4, 4000)))
    assert found.precision[10] == pytest.approx(0.25, abs=0.03)
    assert found.mean_average_precision == pytest.approx(0.25, abs=0.03)


def test_a_picture_does_not_count_as_alike_to_itself() -> None:
    each = Grouped(unit(5, 3), np.arange(5))
    with pytest.raises(ValueError, match="no question has anything alike"):
        relevance(each, each, selves=np.arange(5))


def test_fewer_pictures_than_asked_for() -> None:
    few = Grouped(unit(3, 4), np.zeros(3, np.int64))
    found = relevance(few[:1], few, tops=(10,))
    assert found.precision[10] == pytest.approx(0.3)
    assert found.recall[10] == 1.0


def test_overlap_of_neighbours() -> None:
    one = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert overlap(one, one[:, ::-1]) == 1.0
    assert overlap(one, np.array([[4, 3, 9, 10], [1, 2, 3, 4]])) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="not of one shape"):
        overlap(one, one[:1])


@pytest.mark.parametrize("block", [1, 7, 256])
def test_neighbours_are_the_nearest_in_their_order(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(retrieval, "BLOCK", block)
    gallery = unit(60, 1)
    gallery[7] = gallery[3]  # of equal ones the first is nearer
    near, cosines = neighbours(gallery[:30], gallery, 5, selves=np.arange(30))
    for own, (places, alike) in enumerate(zip(near.tolist(), cosines, strict=True)):
        truth = gallery @ gallery[own]
        others = [place for place in range(60) if place != own]
        assert places == sorted(others, key=lambda place, c=truth: (-c[place], place))[:5]  # type: ignore[misc]
        assert alike == pytest.approx(truth[places])
    assert near[3, 0] == 7
    assert neighbours(gallery[:3], gallery, 1)[0].ravel().tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="60 neighbours are asked for, the gallery has 60"):
        neighbours(gallery[:3], gallery, 60, selves=np.arange(3))


def test_what_is_shared_is_known_for_each_question() -> None:
    one, other = np.array([[1, 2], [3, 4]]), np.array([[2, 9], [4, 3]])
    assert shared(one, other).tolist() == [0.5, 1.0]


def test_arrays_that_do_not_fit() -> None:
    vectors, groups = unit(3, 1), np.arange(3)
    for wrong in ((vectors, groups[:2]), (vectors[:0], groups[:0]), (vectors[0], groups)):
        with pytest.raises(ValueError, match="are not"):
            Grouped(*wrong)
    each = Grouped(vectors, groups)
    with pytest.raises(ValueError, match="questions of 6 numbers, a gallery of 2"):
        relevance(each, Grouped(vectors[:, :2], groups))
    with pytest.raises(ValueError, match="selves"):
        relevance(each, each, selves=np.array([0, 1, 3]))
    with pytest.raises(ValueError, match="tops"):
        relevance(each, each, tops=())
