from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.unit.worker.index.factories import vectors
from worker.index.neighbours import BLOCK, WIDTH, Lists, lists
from worker.index.score import Vectors


def listed(points: Vectors, seed: int = 1) -> Lists:
    return lists(points, seed, lambda share: None)


def distances(points: Vectors) -> NDArray[np.float64]:
    """Of all pairs; none to itself."""
    wide = points.astype(np.float64)
    apart: NDArray[np.float64] = ((wide[:, None, :] - wide[None, :, :]) ** 2).sum(axis=2)
    np.fill_diagonal(apart, np.inf)
    return apart


def assert_sound(near: Lists, points: Vectors) -> None:
    """No slot lists itself or another twice; nothing comes after a -1; the nearest come first."""
    count = len(points)
    assert near.shape == (count, WIDTH)
    assert near.dtype == np.int32
    apart = np.sqrt(distances(points))
    for slot, row in enumerate(near):
        there = row[row >= 0]
        assert np.array_equal(row[: len(there)], there)
        assert slot not in there
        assert len(set(there.tolist())) == len(there)
        assert there.max(initial=0) < count
        # Distances are kept to 16 bits: 1 in 128 of a distance, and a rounding of what was subtracted.
        kept = apart[slot][there]
        assert (np.diff(kept) >= -0.01 * kept[1:] - 1e-2).all()


@pytest.mark.parametrize("count", [1, 2, 3, 32, 33, 34, BLOCK, BLOCK + 1, 700])
def test_lists_are_sound_and_as_full_as_they_can_be(count: int) -> None:
    points = vectors(count, 8, seed=count)
    near = listed(points)
    assert_sound(near, points)
    if count <= BLOCK:  # all pairs were compared
        assert ((near >= 0).sum(axis=1) == min(WIDTH, count - 1)).all()
    else:
        assert ((near >= 0).sum(axis=1) == WIDTH).mean() > 0.99


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 1.001, -3.0]), min_size=1, max_size=80))
def test_equal_points_list_each_other(values: list[float]) -> None:
    points = np.tile(np.array(values, dtype=np.float32)[:, None], (1, 3))
    near = listed(points)
    assert_sound(near, points)
    assert ((near >= 0).sum(axis=1) == min(WIDTH, len(values) - 1)).all()


def test_many_equal_points_list_each_other() -> None:
    points = np.ones((600, 4), dtype=np.float32)
    near = listed(points)
    assert_sound(near, points)
    assert (near >= 0).all()


@pytest.mark.parametrize("count", [40, BLOCK])
def test_in_one_block_the_lists_are_the_true_neighbours(count: int) -> None:
    points = vectors(count, 8, seed=4)
    near = listed(points)
    apart = np.sqrt(distances(points))
    limits = np.sort(apart, axis=1)[:, WIDTH - 1]
    found = np.take_along_axis(apart, near.astype(np.int64), axis=1)
    assert (found <= 1.01 * limits[:, None] + 1e-2).all()


def test_most_of_the_nearest_are_listed_among_many() -> None:
    """One in five would be there by chance, if the lists were of random slots of the right cluster."""
    points = vectors(2000, 8, seed=5)
    near = listed(points)
    truth = np.argsort(distances(points), axis=1)[:, :10]
    hits = [np.isin(true, row).mean() for true, row in zip(truth, near, strict=True)]
    assert np.mean(hits) > 0.75
    assert_sound(near[:0], points[:0])


def test_the_same_seed_gives_the_same_lists_in_any_number_of_threads() -> None:
    points = vectors(900, 8)
    assert np.array_equal(listed(points), listed(points))
    assert not np.array_equal(listed(points), listed(points, seed=2))


def test_progress_is_told_to_its_end() -> None:
    shares: list[float] = []
    lists(vectors(50, 8), 1, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_who_is_told_may_stop_it() -> None:
    def stop(share: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        lists(vectors(50, 8), 1, stop)
