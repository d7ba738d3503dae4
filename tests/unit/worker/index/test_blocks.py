from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.worker.index.factories import vectors
from worker.index.blocks import Places, blocks
from worker.index.score import Vectors


def cut(points: Vectors, largest: int, seed: int = 1) -> list[Places]:
    return list(blocks(points, largest, np.random.default_rng(seed)))


def assert_a_partition(parts: list[Places], count: int, largest: int) -> None:
    assert all(0 < len(part) <= largest for part in parts if count)
    assert sorted(np.concatenate([np.empty(0, np.int32), *parts]).tolist()) == list(range(count))


@given(st.integers(0, 300), st.integers(1, 64), st.integers(1, 30), st.integers(0, 9))
def test_every_place_is_in_one_block(count: int, largest: int, width: int, seed: int) -> None:
    points = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    assert_a_partition(cut(points, largest, seed), count, largest)


@given(
    st.lists(st.sampled_from([0.0, 1.0, -60_000.0, 1e-7]), min_size=1, max_size=200),
    st.integers(1, 40),
)
def test_equal_points_are_cut_too(values: list[float], largest: int) -> None:
    points = np.tile(np.array(values, dtype=np.float32)[:, None], (1, 3))
    assert_a_partition(cut(points, largest), len(values), largest)


@pytest.mark.parametrize("count", [1, 2, 33, 500])
def test_points_that_are_all_equal(count: int) -> None:
    assert_a_partition(cut(np.ones((count, 4), np.float32), 32), count, 32)


def test_one_point_aside_does_not_make_the_cuts_endless() -> None:
    points = np.zeros((400, 4), np.float32)
    points[7] = -5.0
    assert_a_partition(cut(points, 16), 400, 16)


def test_neighbours_come_into_one_block() -> None:
    """Far more often than by chance, which is 32 in 1000."""
    points = vectors(1000, seed=3)
    block_of = np.empty(1000, dtype=int)
    for number, part in enumerate(cut(points, 32)):
        block_of[part] = number
    apart = ((points[:, None, :] - points[None, :, :]) ** 2).sum(axis=2)
    np.fill_diagonal(apart, np.inf)
    assert np.mean(block_of[apart.argmin(axis=1)] == block_of) > 0.3


def test_the_same_chance_gives_the_same_blocks() -> None:
    points = vectors(300)
    first, second, other = cut(points, 32), cut(points, 32), cut(points, 32, seed=2)
    assert [part.tolist() for part in first] == [part.tolist() for part in second]
    assert [part.tolist() for part in first] != [part.tolist() for part in other]
