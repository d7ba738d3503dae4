from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.worker.index.factories import vectors
from worker.index.score import Vectors
from worker.taste import STEP, blend

X, Y, Z = np.eye(3, dtype=np.float32)


def one(vector: Vectors) -> Vectors:
    return vector[None]


def test_one_thing_is_its_own_direction() -> None:
    assert np.array_equal(blend([one(X)], []), X)


def test_several_are_met_in_the_middle() -> None:
    assert blend([one(X), one(Y)], []) == pytest.approx((X + Y) / np.sqrt(2), abs=1e-6)


def test_a_thing_counts_once_however_many_pictures_it_has() -> None:
    many = np.stack([X, X, X, X])
    assert blend([many, one(Y)], []) == pytest.approx(blend([one(X), one(Y)], []), abs=1e-6)
    both = np.stack([X, Z])
    assert blend([both], []) == pytest.approx((X + Z) / np.sqrt(2), abs=1e-6)


def test_what_is_disliked_is_left_behind() -> None:
    near = (X + 0.2 * Y) / np.linalg.norm(X + 0.2 * Y)
    wanted = blend([one(X)], [one(near)])
    assert wanted @ X > 0.9
    assert wanted @ near < X @ near
    expected = X + STEP * (X - near)
    assert wanted == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)


def test_disliking_what_is_liked_too_changes_nothing() -> None:
    assert blend([one(X)], [one(X)]) == pytest.approx(X)


def test_where_there_is_no_direction_the_first_picture_is_taken() -> None:
    assert np.array_equal(blend([one(X), one(-X)], []), X)
    assert np.array_equal(blend([np.stack([Y, -Y])], []), Y)


def test_opposites_with_a_dislike_lead_away_from_it() -> None:
    assert blend([one(X), one(-X)], [one(Y)]) == pytest.approx(-Y)


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(0, 6))
def test_it_is_a_unit_vector_nearer_to_what_is_liked(seed: int, liked: int, disliked: int) -> None:
    rows = vectors(liked + disliked, seed=seed)
    wanted = [one(row) for row in rows[:liked]]
    blended = blend(wanted, [one(row) for row in rows[liked:]])
    assert blended.shape == rows[0].shape
    assert blended.dtype == np.float32
    assert np.linalg.norm(blended) == pytest.approx(1.0, abs=1e-5)
    if disliked:
        apart = rows[:liked].mean(axis=0) - rows[liked:].mean(axis=0)
        assert blended @ apart >= blend(wanted, []) @ apart - 1e-5
