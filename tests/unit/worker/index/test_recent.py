from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from producer.messages import Condition, Range
from tests.unit.worker.index.shelves import NAMES, attributes, conditions, truth
from worker.index.recent import Recent, RecentView

Products = Sequence[dict[str, JsonValue]]


def added(products: Products) -> Recent:
    rows = Recent()
    for each in products:
        rows.add(each)
    return rows


def met(view: RecentView, where: Mapping[str, Condition]) -> list[bool]:
    return [bool(each) for each in view.meet(where)]


@given(st.lists(attributes(), max_size=40), st.sampled_from(NAMES), conditions())
def test_what_is_marked_is_what_meets_the_condition(
    products: Products, name: str, condition: Condition
) -> None:
    assert met(added(products).snapshot(), {name: condition}) == truth(products, name, condition)


@given(st.lists(attributes(), max_size=20), conditions(), conditions())
def test_all_conditions_must_hold(products: Products, one: Condition, other: Condition) -> None:
    both = met(added(products).snapshot(), {NAMES[0]: one, NAMES[1]: other})
    assert both == [
        a and b
        for a, b in zip(
            truth(products, NAMES[0], one), truth(products, NAMES[1], other), strict=True
        )
    ]


@given(
    st.lists(attributes(beyond=True), max_size=20), st.sampled_from(NAMES), conditions(beyond=True)
)
def test_integers_that_no_float_can_hold_are_never_missed(
    products: Products, name: str, condition: Condition
) -> None:
    marked = met(added(products).snapshot(), {name: condition})
    expected = truth(products, name, condition)
    assert all(there for there, wanted in zip(marked, expected, strict=True) if wanted)


@pytest.mark.parametrize(("value", "bound"), [(2**53 + 1, 2.0**53), (10**400, 1.7e308)])
def test_an_integer_beside_a_bound_is_not_lost_in_rounding(value: int, bound: float) -> None:
    assert met(added([{"n": value}]).snapshot(), {"n": Range(gt=bound)}) == [True]
    assert met(added([{"n": -value}]).snapshot(), {"n": Range(lt=-bound)}) == [True]


@given(st.lists(attributes(), max_size=60), conditions())
def test_a_snapshot_stays_what_it_was(products: Products, condition: Condition) -> None:
    """Also while the arrays grow, which they do at 16, 32 and 64 values."""
    rows, taken = Recent(), []
    for each in products:
        taken.append(rows.snapshot())
        rows.add(each)
    for count, view in enumerate(taken):
        assert view.count == count
        for name in NAMES:
            assert met(view, {name: condition}) == truth(products[:count], name, condition)


def test_snapshots_see_no_later_row_while_a_thread_adds() -> None:
    rows, done = Recent(), threading.Event()
    kinds: list[dict[str, JsonValue]] = [
        {"n": 1, "t": "a"},
        {"n": [2, 1], "t": ["b", "a"]},
        {"n": "1"},
        {},
    ]
    failures: list[str] = []
    views: list[RecentView] = [rows.snapshot()]

    def look() -> None:
        while not done.is_set():
            view = views[-1]
            expected = [i % 4 < 2 for i in range(view.count)]
            for where in ({"n": 1}, {"t": "a"}, {"n": Range(le=1.0)}):
                if met(view, where) != expected:
                    failures.append(f"{view.count} rows, {where}")

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(1500):
        rows.add(kinds[i % 4])
        if i % 7 == 0:
            views.append(rows.snapshot())
    done.set()
    for thread in threads:
        thread.join()
    assert not failures, failures[:3]
    assert len(rows) == 1500
