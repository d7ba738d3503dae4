"""Rebuilds: which generation counts, and lookups that go on meanwhile."""

from __future__ import annotations

import pytest

from producer.errors import LookalikeError
from tests.unit.worker.demo.factories import Index, shop_with
from worker.demo import swaps
from worker.demo.complaints import Complaints
from worker.demo.swaps import build, swap_while_asking


def test_the_first_generation_counts() -> None:
    index = Index()
    assert build(shop_with(index), index.rebuild) == 1


def test_a_generation_that_was_there_before_does_not_count() -> None:
    index = Index(built=[1, 1])
    assert build(shop_with(index), index.rebuild) == 3


def test_a_rebuild_that_began_too_early_is_followed_by_another() -> None:
    index = Index(revision=5, lags=[2, 1])
    assert build(shop_with(index), index.rebuild) == 3
    assert index.built == [3, 4, 5]


def test_a_rebuild_that_never_comes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swaps, "BUILD_TIMEOUT", 0.01)
    with pytest.raises(LookalikeError, match="no new index generation"):
        build(shop_with(Index()), lambda: None)


def test_lookups_go_on_until_the_last_generation_answers() -> None:
    index, complaints, done = Index(built=[1]), Complaints(), list[int]()
    swapped = swap_while_asking(shop_with(index), ["a"], index.rebuild, complaints, done.append)
    assert complaints.lines == ()
    assert done == [1, 2]
    assert set(swapped.generations) <= {1, 2, 3}
    assert 3 in swapped.generations or swapped.milliseconds


def test_a_failing_swap_stops_the_lookups_and_is_a_complaint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(swaps, "BUILD_TIMEOUT", 0.01)
    index, complaints = Index(built=[1]), Complaints()
    swapped = swap_while_asking(shop_with(index), ["a"], lambda: None, complaints, lambda _: None)
    assert len(complaints.lines) == 1
    assert swapped.generations in {(), (1,)}
