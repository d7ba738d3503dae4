"""Random attributes and random conditions on them, as a shop and its visitors might send them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st
from pydantic import JsonValue

from producer.messages import Condition, Range
from worker.index.filters import matches

NAMES = ("price", "tags", "never")
_TINY = st.integers(-3, 3)
_NUMBERS = _TINY | st.sampled_from([0.0, -0.0, 0.5, 1.0, 2.5, -1e15, 1e15, 5e-324])
_TEXTS = st.sampled_from(["", "a", "b", "é", "😀", "1", "true", "None"])
_SMALL = st.booleans() | _NUMBERS | _TEXTS
_BEYOND = st.builds(
    lambda base, apart: base + apart, st.sampled_from([2**53, -(2**53), 2**54]), _TINY
)
_ENDLESS = st.sampled_from([2**63 - 1, -(2**63), 2**64 + 1, 10**400, -(10**400)])


def attributes(*, beyond: bool = False) -> st.SearchStrategy[dict[str, JsonValue]]:
    """What a shop says of a product: scalars, lists of them, nothing at all; or only integers `beyond` floats."""
    scalar = _BEYOND | _ENDLESS if beyond else _SMALL
    values: st.SearchStrategy[Any] = st.none() | scalar | st.lists(st.none() | scalar, max_size=4)
    return st.dictionaries(st.sampled_from(NAMES[:2]), values, max_size=2)


def conditions(*, beyond: bool = False) -> st.SearchStrategy[Condition]:
    """What may be asked of one attribute."""
    scalar = _BEYOND if beyond else _SMALL
    bound = st.none() | (_BEYOND if beyond else _NUMBERS).map(float)
    ranges: st.SearchStrategy[Any] = st.fixed_dictionaries(
        dict.fromkeys(("lt", "le", "gt", "ge"), bound)
    ).filter(lambda bounds: any(each is not None for each in bounds.values()))
    several: st.SearchStrategy[Any] = st.lists(scalar, min_size=1, max_size=4).map(tuple)
    return scalar | several | ranges.map(lambda bounds: Range(**bounds))


def truth(
    products: Sequence[Mapping[str, JsonValue]], name: str, condition: Condition
) -> list[bool]:
    """Which of the products meet it, one by one."""
    return [matches({name: condition}, None, each) for each in products]
