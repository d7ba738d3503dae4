"""Which of the nearest products make the answer."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.messages import Selection
from worker import choosing
from worker.choosing import Pool, Vectors, choose, farthest, needs_choice, pool_size, too_few

DIMENSION = 6


def unit(rows: Any) -> Vectors:
    array = np.asarray(rows, dtype=np.float64)
    scaled: Vectors = (array / np.linalg.norm(array, axis=-1, keepdims=True)).astype(np.float32)
    return scaled


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    """Products around a question, some of them doubles, nearest first."""
    count = draw(st.integers(0, 25))
    chance = np.random.default_rng(draw(st.integers(0, 10_000)))
    few = unit(chance.standard_normal((max(1, draw(st.integers(1, 12))), DIMENSION)) + 1.0)
    vectors = few[chance.integers(0, len(few), count)]
    if draw(st.booleans()):
        vectors = unit(vectors + 0.05 * chance.standard_normal((count, DIMENSION)))
    question = unit(chance.standard_normal(DIMENSION) + 1.0)
    distances = np.linalg.norm(vectors - question, axis=1).astype(np.float32)
    order = np.argsort(distances, kind="stable")
    contents = draw(st.lists(st.sampled_from("abcdefgh"), min_size=count, max_size=count))
    kinds = st.lists(st.sampled_from(["x", "y", (True, 1), (False, 1)]), max_size=2, unique=True)
    values: list[dict[str, tuple[Hashable, ...]]] = [
        {"brand": tuple(draw(kinds)), "category": (draw(st.sampled_from("pq")),)}
        for _ in range(count)
    ]
    return Pool(distances[order], vectors[order], [each.encode() for each in contents], values)


SELECTIONS = st.builds(
    Selection,
    limit=st.integers(1, 12),
    collapse=st.none() | st.sampled_from([0.0, 0.05, 0.5, 2.0]),
    at_most=st.dictionaries(st.sampled_from(["brand", "category"]), st.integers(1, 3)),
    diversity=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
)


@given(pools(), SELECTIONS)
def test_every_rule_holds_for_any_answer(pool: Pool, selection: Selection) -> None:
    chosen = choose(pool, selection)
    assert len(set(chosen)) == len(chosen) <= selection.limit
    for name, limit in selection.at_most.items():
        shown = [value for place in chosen for value in pool.values[place][name]]
        assert all(shown.count(value) <= limit for value in shown)
    if selection.collapse is not None:
        for i, one in enumerate(chosen):
            for other in chosen[i + 1 :]:
                assert pool.contents[one] != pool.contents[other]
                apart = float(np.linalg.norm(pool.vectors[one] - pool.vectors[other]))
                assert apart > selection.collapse - 1e-6
                assert apart > 0 or selection.collapse > 0


@given(pools(), SELECTIONS)
def test_nothing_is_left_out_but_by_a_rule(pool: Pool, selection: Selection) -> None:
    """Where the answer is short, every other product breaks a rule with one that was chosen."""
    chosen = choose(pool, selection)
    if len(chosen) == selection.limit:
        return
    for place in set(range(len(pool.distances))) - set(chosen):
        assert _full(pool, selection, chosen, place) or _double(pool, selection, chosen, place)


def _full(pool: Pool, selection: Selection, chosen: list[int], place: int) -> bool:
    return any(
        sum(value in pool.values[other][name] for other in chosen) >= limit
        for name, limit in selection.at_most.items()
        for value in pool.values[place][name]
    )


def _double(pool: Pool, selection: Selection, chosen: list[int], place: int) -> bool:
    collapse = selection.collapse
    return collapse is not None and any(
        pool.contents[other] == pool.contents[place]
        or float(np.linalg.norm(pool.vectors[other] - pool.vectors[place])) <= collapse + 1e-6
        for other in chosen
    )


@given(pools(), SELECTIONS)
def test_without_diversity_the_order_is_kept(pool: Pool, selection: Selection) -> None:
    chosen = choose(pool, selection.model_copy(update={"diversity": 0.0}))
    assert chosen == sorted(chosen)
    assert not len(pool.distances) or chosen[0] == 0


@given(pools(), st.integers(1, 12), st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]))
def test_diversity_is_maximal_marginal_relevance(pool: Pool, limit: int, weight: float) -> None:
    """Against a slow reference, choice by choice: equally good ones may be taken in any order."""
    chosen = choose(pool, Selection(limit=limit, diversity=weight))
    assert len(chosen) == min(limit, len(pool.distances))
    for taken in range(len(chosen)):
        scores = {
            place: _marginal(pool, chosen[:taken], place, weight)
            for place in set(range(len(pool.distances))) - set(chosen[:taken])
        }
        assert scores[chosen[taken]] >= max(scores.values()) - 1e-5


def _marginal(pool: Pool, before: list[int], place: int, weight: float) -> float:
    alike = 1.0 - float(pool.distances[place]) ** 2 / 2.0
    others = [float(pool.vectors[place] @ pool.vectors[other]) for other in before]
    return (1.0 - weight) * alike - weight * max(others, default=0.0)


def test_a_double_gives_way_to_something_else() -> None:
    """Two pictures of the same dress, and one that is farther but another."""
    vectors = unit([[1, 0.1], [1, 0.1], [1, 0.6]])
    question = unit([1.0, 0.0])
    pool = Pool(
        np.linalg.norm(vectors - question, axis=1).astype(np.float32),
        vectors,
        [b"1", b"2", b"3"],
        [{}, {}, {}],
    )
    assert choose(pool, Selection(limit=2)) == [0, 1]
    assert choose(pool, Selection(limit=2, diversity=0.6)) == [0, 2]
    assert choose(pool, Selection(limit=2, collapse=0.0)) == [0, 2]
    other = Pool(
        pool.distances, unit([[1, 0.1], [1, 0.1001], [1, 0.6]]), [b"1", b"1", b"3"], [{}] * 3
    )
    assert choose(other, Selection(limit=3, collapse=0.0)) == [0, 2]


def test_a_product_with_several_values_counts_for_each() -> None:
    distances, vectors = np.array([0, 0.1, 0.2, 0.3], dtype=np.float32), unit(np.eye(4))
    values: Any = [{"tag": ("a", "b")}, {"tag": ("b",)}, {"tag": ()}, {"tag": ("a",)}]
    pool = Pool(distances, vectors, [b"1", b"2", b"3", b"4"], values)
    assert choose(pool, Selection(limit=4, at_most={"tag": 1})) == [0, 2]
    assert choose(pool, Selection(limit=4, at_most={"tag": 2})) == [0, 1, 2, 3]


# -- how many to look at --------------------------------------------------------------------------


def test_what_needs_a_choice() -> None:
    assert not needs_choice(Selection(limit=5, min_similarity=0.5, where={"a": 1}))
    assert needs_choice(Selection(collapse=0.0))
    assert needs_choice(Selection(at_most={"brand": 1}))
    assert needs_choice(Selection(diversity=0.1))


def test_only_diversity_chooses_among_many() -> None:
    assert pool_size(Selection(limit=7, at_most={"a": 1}, collapse=0.1)) == 7
    assert pool_size(Selection(limit=1, diversity=0.5)) == choosing.LEAST_POOL
    assert pool_size(Selection(limit=100, diversity=0.5)) == 500


@pytest.mark.parametrize(
    ("looked_at", "usable", "chosen", "more"),
    [
        (10, 9, 9, True),  # one was gone
        (10, 10, 10, False),
        (10, 10, 4, True),  # they ruled each other out
        (choosing.LARGEST_POOL, choosing.LARGEST_POOL, 4, False),
        (choosing.LARGEST_POOL, 9, 9, True),
    ],
)
def test_more_are_looked_at(looked_at: int, usable: int, chosen: int, more: bool) -> None:
    assert too_few(Selection(limit=10, at_most={"a": 1}), looked_at, usable, chosen) is more


@given(st.floats(-1, 1, width=32))
def test_the_farthest_is_at_the_least_similarity(cosine: float) -> None:
    limit = farthest(Selection(min_similarity=cosine))
    assert 1.0 - limit**2 / 2.0 == pytest.approx(cosine, abs=1e-6)
    assert farthest(Selection()) == float("inf")


def test_an_empty_pool_gives_nothing() -> None:
    empty = Pool(np.empty(0, np.float32), np.empty((0, 3), np.float32), [], [])
    assert choose(empty, Selection(diversity=0.5, collapse=0.1, at_most={"a": 1})) == []
    assert choose(replace(empty), Selection()) == []
