"""Conditions on matches: from a shop's code as a mapping, from a command line as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from producer import checks
from producer.errors import InvalidRequest
from producer.messages import MAX_CHOICES, MAX_CONDITIONS, Condition, Range, Scalar, Where
from producer.rows import number

_EXPRESSION = re.compile(
    r"\s*([^<>=!\s](?:[^<>=!]*[^<>=!\s])?)\s*(<=|>=|!=|<|>|=)\s*([^<>=\s].*?)\s*", re.DOTALL
)
_PART = re.compile(r'\s*("[^"]*"|[^|]*?)\s*(\||\Z)')
"""A value up to the next `|`, or the end; in double quotes a `|` is a part of it."""
_NO_KEY = re.compile(r"[~!^|*]|:$")
"""What makes a key part of an operator that there is not: `name~=x`, `name:=x`."""
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,14})")
_DECIMAL = re.compile(r"-?(0|[1-9]\d{0,14})\.\d{1,15}")
CATEGORY = "category"
_BOUNDS = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_WHERE: TypeAdapter[Where] = TypeAdapter(Where)
_TELLING = ("value_error", "finite_number")
"""Problems whose own words say more than what a condition looks like."""
_HINT = "write KEY=VALUE, KEY=THIS|THAT, KEY<NUMBER, KEY<=NUMBER, KEY>NUMBER or KEY>=NUMBER"


def parse_where(expressions: Iterable[str]) -> Where:
    """Conditions from texts such as `price<50`, `category=dress|skirt` and `in_stock=true`.

    All must hold. Two bounds of one key make a range. A value in double quotes stays text ("38", "a|b").
    Raises InvalidRequest that shows the text and how to write it.
    """
    found: dict[str, Any] = {}
    for text in expressions:
        key, operator, value = _split(text)
        if operator == "=":
            if key in found:
                raise InvalidRequest(f"{text!r}: {key} is asked for twice: write {key}=THIS|THAT")
            found[key] = _choice(text, key, value)
        else:
            bounds = found.setdefault(key, {})
            if not isinstance(bounds, dict) or _BOUNDS[operator] in bounds:
                raise InvalidRequest(f"{text!r}: {key} has such a condition already")
            bounds[_BOUNDS[operator]] = _number(text, value)
    return to_where(found)


def to_where(conditions: Mapping[str, object] | None) -> Where:
    """Conditions as a message says them.

    A value is a string, number or boolean; a list, tuple or set of them, any of which may hold; or a Range,
    also as a mapping of lt, le, gt and ge. A Decimal becomes a float. Of the category, which is text, it is a
    string or a list of them. Raises InvalidRequest.
    """
    if conditions is None:
        return {}
    if not isinstance(conditions, Mapping):
        raise InvalidRequest('where must be a mapping such as {"category": "dress"}')
    plain = {
        checks.attribute("where", key): _condition(key, value) for key, value in conditions.items()
    }
    try:
        where = _WHERE.validate_python(plain, strict=True)
    except ValidationError as error:
        raise InvalidRequest(f"where: {_problem(error)}") from None
    _check_category(where.get(CATEGORY, ""))
    return where


def parse_scalar(text: str) -> Scalar:
    """A number, a boolean, or the text itself (`007` and `1e5` are codes, not numbers)."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        return float(text)
    return text


def parse_attributes(assignments: Iterable[str]) -> dict[str, Scalar]:
    """Attributes from texts such as `price=49.0`; InvalidRequest for what is not KEY=VALUE."""
    attributes: dict[str, Scalar] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InvalidRequest(f"{text!r} is no attribute: write KEY=VALUE")
        attributes[key.strip()] = _scalar(value.strip())
    return attributes


def _split(text: str) -> tuple[str, str, str]:
    match = _EXPRESSION.fullmatch(text)
    if match is None or not match[3] or match[2] == "!=" or _NO_KEY.search(match[1]):
        raise InvalidRequest(f"{text!r} is no condition: {_HINT}")
    return match[1], match[2], match[3]


def _choice(text: str, key: str, value: str) -> Scalar | tuple[Scalar, ...]:
    parts = _parts(value)
    if "" in parts:
        raise InvalidRequest(f"{text!r}: a value before or after '|' is missing: {_HINT}")
    # A category is text, also where it looks like a number.
    values = tuple((_unquoted(p) or p) if key == CATEGORY else _scalar(p) for p in parts)
    return values[0] if len(values) == 1 else values


def _parts(value: str) -> list[str]:
    parts = []
    for found in _PART.finditer(value):
        parts.append(found[1])
        if not found[2]:
            break
    return parts


def _scalar(text: str) -> Scalar:
    quoted = _unquoted(text)
    return parse_scalar(text) if quoted is None else quoted


def _unquoted(text: str) -> str | None:
    """What stands in double quotes, if the text does."""
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] == '"' else None


def _number(text: str, value: str) -> float:
    bound = parse_scalar(value)
    if isinstance(bound, bool | str):
        raise InvalidRequest(f"{text!r}: {value!r} is not a number: {_HINT}")
    return float(bound)


def _condition(key: object, value: object) -> object:
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in Range.model_fields]
        if unknown:
            raise InvalidRequest(
                f"where: {unknown[0]!r} is no bound of {key!r}: a range has lt, le, gt or ge, such as "
                "{'lt': 50}"
            )
        return _range(key, {name: number(bound) for name, bound in value.items()})
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(number(each) for each in value)
    return number(value)


def _range(key: object, bounds: Mapping[str, Any]) -> Range:
    try:
        return Range(**bounds)
    except ValidationError as error:
        problem = checks.explain(error).removeprefix("value: ")
        raise InvalidRequest(f"where: the condition on {key!r}: {problem}") from None


def _check_category(condition: Condition) -> None:
    values = condition if isinstance(condition, tuple) else (condition,)
    if not all(isinstance(value, str) for value in values):
        raise InvalidRequest(
            "where: a category is text: write category=THIS|THAT on a command line, and a string or a list "
            "of strings in Python"
        )


def _problem(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False)
    place = problems[0]["loc"]
    if not place:
        return f"at most {MAX_CONDITIONS} conditions, not {len(problems[0]['input'])}"
    told = next((each["msg"] for each in problems if each["type"] in _TELLING), None)
    if told is not None:
        words = told.removeprefix("Value error, ").removeprefix("Input ")
        return f"the condition on {place[0]!r} {words}"
    return (
        f"the condition on {place[0]!r} must be a string, number or boolean, a list of 1 to "
        f"{MAX_CHOICES} of them, or a range such as {{'lt': 50}}"
    )
