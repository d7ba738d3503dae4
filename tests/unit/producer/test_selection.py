"""How matches are picked: what is taken, what is refused, and in what words."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.errors import InvalidRequest
from producer.messages import Range, Selection
from producer.selection import Options, parse_at_most, selection


def test_arguments_become_a_selection() -> None:
    assert selection(10, None) == Selection()
    assert selection(
        3,
        {"price": {"lt": 5}},
        min_similarity=0,
        collapse=0.5,
        at_most={"brand": 2, "category": 1000},
        diversity=1,
    ) == Selection(
        limit=3,
        where={"price": Range(lt=5.0)},
        min_similarity=0.0,
        collapse=0.5,
        at_most={"brand": 2, "category": 1000},
        diversity=1.0,
    )


def test_the_message_the_function_and_the_options_have_the_same_names() -> None:
    assert list(inspect.signature(selection).parameters) == list(Selection.model_fields)
    assert ["limit", "where", *Options.__annotations__] == list(Selection.model_fields)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"limit": 0}, "limit must be a whole number from 1 to 1000, not 0"),
        ({"limit": 10**5000}, "limit must be .* not a very large int"),
        ({"where": {"a": None}}, "where: the condition on 'a'"),
        (
            {"min_similarity": 80},
            r"min_similarity must be a cosine \(0.8 is 80%\) from -1 to 1, not 80",
        ),
        ({"min_similarity": "0.8"}, "not '0.8'"),
        ({"min_similarity": True}, "not True"),
        ({"min_similarity": float("nan")}, "not nan"),
        ({"collapse": -0.1}, "collapse must be a distance from 0 to 2, not -0.1"),
        ({"collapse": 2.1}, "not 2.1"),
        ({"collapse": False}, "not False"),
        ({"diversity": 1.01}, "diversity must be a weight from 0 to 1, not 1.01"),
        ({"diversity": None}, "not None"),
        ({"at_most": 2}, r"at_most must be a mapping such as \{\"brand\": 2\}"),
        ({"at_most": {"brand": 0}}, "at_most: the number for 'brand' must be .* 1 to 1000, not 0"),
        ({"at_most": {"brand": 2.0}}, "not 2.0"),
        ({"at_most": {"brand": True}}, "not True"),
        ({"at_most": {"": 2}}, "at_most: an attribute's name must be .* not ''"),
        ({"at_most": {5: 2}}, "not 5"),
        ({"at_most": {"a\x00": 2}}, "without NUL"),
        ({"at_most": {str(number): 1 for number in range(9)}}, "8 attributes or fewer, not 9"),
    ],
)
def test_a_refusal_says_which_rule_is_broken(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        selection(**{"limit": 10, "where": None, **wrong})


@given(
    limit=st.integers(-1, 1001),
    min_similarity=st.none() | st.floats() | st.integers(-2, 2),
    collapse=st.none() | st.floats(),
    at_most=st.none() | st.dictionaries(st.text(max_size=3), st.integers(0, 3), max_size=9),
    diversity=st.floats(),
)
def test_what_is_taken_survives_the_wire(**arguments: Any) -> None:
    try:
        picked = selection(where={"a": 1}, **arguments)
    except InvalidRequest:
        return
    assert Selection.model_validate_json(picked.model_dump_json()) == picked


@pytest.mark.parametrize(
    ("texts", "at_most"),
    [
        ([], {}),
        (["brand=2"], {"brand": 2}),
        ([" shop name = 10 ", "a=b=1"], {"shop name": 10, "a=b": 1}),
        (["brand=0"], {"brand": 0}),  # `selection` says better what is wrong with it
    ],
)
def test_numbers_of_alike_matches_are_read(texts: list[str], at_most: dict[str, int]) -> None:
    assert parse_at_most(texts) == at_most


@pytest.mark.parametrize(
    "text", ["brand", "=2", "brand=", "brand=two", "brand=-1", "a=\u0663", "a=1.5"]
)
def test_what_is_no_number_of_alike_matches_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="write KEY=NUMBER, such as brand=2") as caught:
        parse_at_most([text])
    assert repr(text) in str(caught.value)


def test_an_attribute_is_limited_once() -> None:
    with pytest.raises(InvalidRequest, match="'brand=3': brand has such a limit already"):
        parse_at_most(["brand=2", "brand=3"])


@given(st.lists(st.text() | st.text("a=2 ", max_size=6), max_size=3))
def test_no_text_does_worse_than_to_be_refused(texts: list[str]) -> None:
    try:
        found = parse_at_most(texts)
    except InvalidRequest:
        return
    assert len(found) == len(texts)
