from __future__ import annotations

import pytest
from pydantic import JsonValue

from producer.messages import Range, Where
from worker.index.filters import conditions, matches
from worker.index.subset import Conditions

ATTRIBUTES: dict[str, JsonValue] = {
    "price": 49.5,
    "in_stock": True,
    "sizes": ["s", "m"],
    "brand": "Fjäll",
    "none": None,
}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, True),
        ({"category": "dress"}, True),
        ({"category": "skirt"}, False),
        ({"category": ("skirt", "dress")}, True),
        ({"category": Range(lt=3)}, False),
        ({"price": Range(lt=50)}, True),
        ({"price": Range(lt=49.5)}, False),
        ({"price": Range(le=49.5, ge=49.5)}, True),
        ({"price": Range(gt=49.5)}, False),
        ({"price": 49.5}, True),
        ({"price": "49.5"}, False),
        ({"in_stock": True}, True),
        ({"in_stock": 1}, False),
        ({"in_stock": Range(ge=0)}, False),
        ({"sizes": "m"}, True),
        ({"sizes": ("l", "m")}, True),
        ({"sizes": "l"}, False),
        ({"brand": "Fjäll", "price": Range(lt=10)}, False),
        ({"brand": Range(lt=10)}, False),
        ({"missing": "x"}, False),
        ({"none": "x"}, False),
    ],
)
def test_where(where: Where, expected: bool) -> None:
    assert matches(where, "dress", ATTRIBUTES) is expected


def test_the_category_is_the_products_own() -> None:
    assert not matches({"category": "x"}, None, {"category": "x"})


def test_what_the_index_can_restrict_to() -> None:
    assert conditions({}) == Conditions(None, {})
    assert not conditions({})
    price = Range(lt=50)
    assert conditions({"price": price}) == Conditions(None, {"price": price})
    assert conditions({"category": "a"}) == Conditions(frozenset({"a"}), {})
    assert conditions({"category": ("a", "b", 3)}).categories == frozenset({"a", "b"})
    assert conditions({"category": 3}).categories == frozenset()
    assert conditions({"category": price}).categories == frozenset()
    assert conditions({"category": "a", "price": 1}) == Conditions(frozenset({"a"}), {"price": 1})
    wheres: list[Where] = [{"category": 3}, {"price": 1}, {"category": "a"}]
    assert all(conditions(where) for where in wheres)
