"""`where`: which products a lookup may answer with. Pure: of a category and attributes only."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from producer.messages import Condition, Range, Scalar, Where
from worker.index.subset import Conditions

CATEGORY = "category"


def matches(where: Where, category: str | None, attributes: Mapping[str, JsonValue]) -> bool:
    """Whether a product meets every condition. An attribute that it does not have meets none.

    `category` is the product's own, whatever its attributes say. Of an attribute that is a list, one element
    is enough. True is not 1, and "1" is not 1.
    """
    return all(
        _holds(condition, category if key == CATEGORY else attributes.get(key))
        for key, condition in where.items()
    )


def _holds(condition: Condition, value: JsonValue) -> bool:
    if isinstance(value, list):
        return any(_holds(condition, each) for each in value)
    if value is None:
        return False
    if isinstance(condition, Range):
        return _within(condition, value)
    if isinstance(condition, tuple):
        return any(_same(wanted, value) for wanted in condition)
    return _same(condition, value)


def _same(wanted: Scalar, value: JsonValue) -> bool:
    return wanted == value and isinstance(wanted, bool) == isinstance(value, bool)


def _within(bounds: Range, value: JsonValue) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return (
        (bounds.lt is None or value < bounds.lt)
        and (bounds.le is None or value <= bounds.le)
        and (bounds.gt is None or value > bounds.gt)
        and (bounds.ge is None or value >= bounds.ge)
    )


def conditions(where: Where) -> Conditions:
    """What the index itself can restrict to: everything, category and attributes apart."""
    attributes = {key: condition for key, condition in where.items() if key != CATEGORY}
    if CATEGORY not in where:
        return Conditions(None, attributes)
    condition = where[CATEGORY]
    wanted = condition if isinstance(condition, tuple) else (condition,)
    return Conditions(frozenset(name for name in wanted if isinstance(name, str)), attributes)
