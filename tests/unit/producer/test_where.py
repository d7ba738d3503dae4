"""Conditions and attributes as text."""

from __future__ import annotations

import json
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.errors import InvalidRequest
from producer.messages import Range, Selection
from producer.where import parse_attributes, parse_scalar, parse_where, to_where


@pytest.mark.parametrize(
    ("texts", "where"),
    [
        ([], {}),
        (["category=dress"], {"category": "dress"}),
        (["category=dress|skirt"], {"category": ("dress", "skirt")}),
        (["category=2024"], {"category": "2024"}),
        (["in_stock=true", "size = 38"], {"in_stock": True, "size": 38}),
        (['size="38"'], {"size": "38"}),
        (["price<50"], {"price": Range(lt=50.0)}),
        (["price>=10", "price<=19.5"], {"price": Range(ge=10.0, le=19.5)}),
        (["price>-1"], {"price": Range(gt=-1.0)}),
        (["shop name=Ärmel & Co"], {"shop name": "Ärmel & Co"}),
        (["note=a<b"], {"note": "a<b"}),
        (['note="<b>"'], {"note": "<b>"}),
        (['note = "a|b" | c'], {"note": ("a|b", "c")}),
        (['size=12"|14"'], {"size": ('12"', '14"')}),
        (['size=""|38'], {"size": ("", 38)}),
        (['category="2024"|dress'], {"category": ("2024", "dress")}),
        (
            ["category=dress|skirt", "price<50", "in_stock=true", "brand=A|B"],
            {
                "category": ("dress", "skirt"),
                "price": Range(lt=50.0),
                "in_stock": True,
                "brand": ("A", "B"),
            },
        ),
    ],
)
def test_conditions_are_read(texts: list[str], where: dict[str, Any]) -> None:
    assert parse_where(texts) == where


@pytest.mark.parametrize(
    "texts",
    [
        ["price"],
        ["=5"],
        ["price="],
        ["price!=5"],
        ["price~=5"],
        ["price~5=5"],
        ["name:=x"],
        ["a|b=5"],
        ["price<cheap"],
        ["price<true"],
        ['price<"5"'],
        ["price=<5"],
        ["price=> 5"],
        ["price==5"],
        ["price<>5"],
        ["size=S|"],
        ["size=S||M"],
        ["category<5"],
        [f"{'a' * 256}=1"],
        ["a=\x00"],
        ["price<5", "price<6"],
        ["price=5", "price<6"],
        ["price<6", "price=5"],
        ["a=1", "a=2"],
        [f"a{number}=1" for number in range(33)],
    ],
)
def test_what_is_no_condition_is_refused(texts: list[str]) -> None:
    with pytest.raises(InvalidRequest):
        parse_where(texts)


def test_a_refusal_shows_the_text_and_how_to_write_it() -> None:
    with pytest.raises(InvalidRequest, match=r"'price!5' is no condition: write KEY=VALUE"):
        parse_where(["price!5"])
    with pytest.raises(InvalidRequest, match=r"'price<cheap': 'cheap' is not a number: write KEY"):
        parse_where(["price<cheap"])


def test_a_bound_that_is_none_shows_those_there_are() -> None:
    for bounds in ({"less": 3}, {"lt": 5, 1: 2}):
        with pytest.raises(
            InvalidRequest, match="no bound of 'price': a range has lt, le, gt or ge"
        ):
            to_where({"price": bounds})


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"price": {"lt": "50"}}, "condition on 'price': lt: should be a valid number .got '50'"),
        ({"price": {"lt": True}}, "lt: should be a valid number"),
        ({"price": {"lt": float("inf")}}, "lt: should be a finite number"),
        ({"price": {"lt": 10**400}}, "lt: should be a valid number"),
        ({"price": {}}, "condition on 'price': a range needs at least one of lt, le, gt, ge"),
        ({"price": {"lt": None}}, "a range needs at least one"),
        ({"price": float("nan")}, "condition on 'price' should be a finite number"),
        ({"price": Decimal("NaN")}, "condition on 'price' should be a finite number"),
        ({"price": 10**5000}, "condition on 'price' must be"),
        ({"size": ["S", "\ud800"]}, "condition on 'size' must not contain NUL"),
        ({"size": []}, "condition on 'size' must be .* a list of 1 to 1000 of them"),
        ({"size": [["S"]]}, "condition on 'size' must be"),
        ({"category": 5}, "a category is text"),
        ({"category": ["dress", True]}, "a category is text"),
        ({"category": {"lt": 5}}, "a category is text"),
        ({"": 1}, "where: an attribute's name must be .* not ''"),
        ({10**5000: 1}, "name must be .* not a very large int"),
        ({str(number): 1 for number in range(33)}, "where: at most 32 conditions, not 33"),
    ],
)
def test_a_refusal_names_the_condition_and_what_is_wrong_with_it(where: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        to_where(where)


conditions = st.lists(
    st.text('abc<>=!|" .059~\x00\ud800\n', max_size=12)
    | st.sampled_from(["category", "price", "a"]).flatmap(
        lambda key: st.text('<>=|"059.-e ', max_size=8).map(key.__add__)
    ),
    max_size=4,
)


@given(conditions | st.lists(st.text(), max_size=3))
def test_no_text_does_worse_than_to_be_refused(texts: list[str]) -> None:
    try:
        where = parse_where(texts)
    except InvalidRequest:
        return
    wire = json.dumps(Selection(where=where).model_dump(mode="json"))
    assert Selection.model_validate_json(wire).where == to_where(where) == where


anything: st.SearchStrategy[object] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.decimals()
    | st.text()
    | st.binary()
    | st.builds(object),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["lt", "ge", "near"]) | st.integers(), inner, max_size=2)
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from(["category", "a", ""]) | st.integers(), anything, max_size=3)
)
def test_no_mapping_does_worse_than_to_be_refused(where: Any) -> None:
    with suppress(InvalidRequest):
        Selection(where=to_where(where))


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{2,9}( [a-z]+)?", fullmatch=True).filter("category".__ne__),
        st.booleans()
        | st.integers(-(10**14), 10**14)
        | st.sampled_from(["S", "a b", "007", "<b>"]),
        max_size=5,
    )
)
def test_what_is_written_is_what_is_read(where: dict[str, Any]) -> None:
    texts = [f'{k}="{v}"' if isinstance(v, str) else f"{k} = {v}" for k, v in where.items()]
    read = parse_where(texts)
    assert read == where
    assert [type(value) for value in read.values()] == [type(value) for value in where.values()]


def test_mappings_are_taken_as_python_writes_them() -> None:
    assert to_where({"p": Decimal("5.5"), "q": [Decimal(1), "x"], "r": {"lt": Decimal(2)}}) == {
        "p": 5.5,
        "q": (1.0, "x"),
        "r": Range(lt=2.0),
    }
    assert to_where({"price": {"lt": 50, "ge": None}}) == {"price": Range(lt=50.0)}
    assert to_where({"a": ["x", "y"], "b": {"lt": 5}, "c": {1}, "d": Range(gt=1.0), "e": 2.5}) == {
        "a": ("x", "y"),
        "b": Range(lt=5.0),
        "c": (1,),
        "d": Range(gt=1.0),
        "e": 2.5,
    }
    assert to_where(None) == {}


@pytest.mark.parametrize(
    "where",
    ["price<5", {"a": None}, {"a": []}, {"a": {}}, {"a": {"near": 1}}, {"a": [[1]]}, {1: 1}],
)
def test_other_mappings_are_refused(where: Any) -> None:
    with pytest.raises(InvalidRequest):
        to_where(where)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("49.0", 49.0),
        ("-3", -3),
        ("0", 0),
        ("true", True),
        ("FALSE", False),
        ("007", "007"),
        ("1e5", "1e5"),
        ("nan", "nan"),
        ("1234567890123456", "1234567890123456"),
        ("1,5", "1,5"),
        ("", ""),
    ],
)
def test_scalars_are_numbers_only_if_nothing_is_lost(text: str, value: Any) -> None:
    assert parse_scalar(text) == value
    assert type(parse_scalar(text)) is type(value)


def test_attributes_are_read() -> None:
    assert parse_attributes(["price=49.0", 'size="38"', "a=b=c"]) == {
        "price": 49.0,
        "size": "38",
        "a": "b=c",
    }
    with pytest.raises(InvalidRequest, match="KEY=VALUE"):
        parse_attributes(["price"])
