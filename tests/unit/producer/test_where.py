"""Conditions and attributes as text."""

from __future__ import annotations

from typing import Any

import pytest

from producer.errors import InvalidRequest
from producer.messages import Range
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


def test_a_bound_that_is_none_shows_those_there_are() -> None:
    for bounds in ({"less": 3}, {"lt": 5, 1: 2}):
        with pytest.raises(
            InvalidRequest, match="no bound of 'price': a range has lt, le, gt or ge"
        ):
            to_where({"price": bounds})


def test_mappings_are_taken_as_python_writes_them() -> None:
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
