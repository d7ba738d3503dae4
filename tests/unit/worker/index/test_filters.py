from __future__ import annotations

import pytest
from pydantic import JsonValue

from producer.messages import Range, Where
from worker.index.filters import beyond_category, categories, matches

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
    assert categories({}) is None
    assert categories({"price": 1}) is None
    assert categories({"category": "a"}) == frozenset({"a"})
    assert categories({"category": ("a", "b", 3)}) == frozenset({"a", "b"})
    assert categories({"category": 3}) == frozenset()
    assert beyond_category({"category": "a", "price": 1})
    assert not beyond_category({"category": "a"})
