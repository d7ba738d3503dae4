"""Accuracy, against the definition written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from worker.evaluation.classification import TOPS, accuracy, confusion

SCORES = np.array(
    [[0.9, 0.1, 0.0, 0.0], [0.2, 0.5, 0.3, 0.0], [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]],
    np.float32,
)


def test_by_hand() -> None:
    found = accuracy(SCORES, np.array([0, 2, 0, 0]), np.array([0, 0, 1, 1, 1, 2, 2, 3]))
    assert found.pictures == 4
    assert found.top == {1: 0.5, 3: 0.75, 5: 1.0}
    assert found.commonest == {1: 0.0, 3: 1.0, 5: 1.0}  # 1, then 0, then 2
    assert found.macro == pytest.approx((2 / 3 + 0) / 2)


def test_equal_scores_are_no_luck() -> None:
    scores = np.zeros((4, 4), np.float32)
    assert accuracy(scores, np.arange(4), np.arange(4)).top == {1: 0.25, 3: 0.75, 5: 1.0}


def test_a_network_that_says_nan_is_right_about_nothing_else() -> None:
    scores = np.full((2, 3), np.nan, np.float32)
    scores[:, 2] = 0.1
    assert accuracy(scores, np.array([2, 1]), np.array([0])).top[1] == 0.5


@given(data=st.data(), categories=st.integers(1, 8), count=st.integers(1, 20))
def test_as_the_definition_says(data: st.DataObject, categories: int, count: int) -> None:
    floats = st.sampled_from([0.0, 0.25, 0.5, 1.0])
    scores = data.draw(arrays.arrays(np.float32, (count, categories), elements=floats))
    labels = data.draw(arrays.arrays(np.int64, count, elements=st.integers(0, categories - 1)))
    found = accuracy(scores, labels, labels)
    named = [sorted(range(categories), key=lambda c, row=row: (-row[c], c)) for row in scores]  # type: ignore[misc]
    for k in TOPS:
        right = [label in order[:k] for order, label in zip(named, labels.tolist(), strict=True)]
        assert found.top[k] == pytest.approx(np.mean(right))
        assert found.commonest[k] >= 1 / categories - 1e-9
    said = np.array([order[0] for order in named])
    counts = confusion(said, labels, categories)
    assert counts.sum() == count
    assert np.trace(counts) / count == pytest.approx(found.top[1])
    shares = [counts[c, c] / counts[c].sum() for c in range(categories) if counts[c].sum()]
    assert found.macro == pytest.approx(np.mean(shares))


def test_arrays_that_do_not_fit() -> None:
    none = np.array([], np.int64)
    with pytest.raises(ValueError, match="are not"):
        accuracy(SCORES, np.array([0]), none)
    with pytest.raises(ValueError, match="are not"):
        accuracy(SCORES[:0], none, none)
    for labels, trained in (([0, 0, 0, 4], [0]), ([0, 0, 0, -1], [0]), ([0, 0, 0, 0], [4])):
        with pytest.raises(ValueError, match="from 0 to 3"):
            accuracy(SCORES, np.array(labels), np.array(trained))
