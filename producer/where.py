"""Conditions on matches: from a shop's code as a mapping, from a command line as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from producer import checks
from producer.errors import InvalidRequest
from producer.messages import Range, Scalar, Where

_EXPRESSION = re.compile(
    r"\s*([^<>=!\s](?:[^<>=!]*[^<>=!\s])?)\s*(<=|>=|!=|<|>|=)\s*(.*?)\s*", re.DOTALL
)
_NO_KEY = re.compile(r"[~!^|*]|:$")
"""What makes a key part of an operator that there is not: `name~=x`, `name:=x`."""
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,14})")
_DECIMAL = re.compile(r"-?(0|[1-9]\d{0,14})\.\d{1,15}")
_BOUNDS = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_WHERE: TypeAdapter[Where] = TypeAdapter(Where)
_HINT = "write KEY=VALUE, KEY=THIS|THAT, KEY<NUMBER, KEY<=NUMBER, KEY>NUMBER or KEY>=NUMBER"


def parse_where(expressions: Iterable[str]) -> Where:
    """Conditions from texts such as `price<50`, `category=dress|skirt` and `in_stock=true`.

    All must hold. Two bounds of one key make a range. A value in double quotes stays text ("38").
    Raises InvalidRequest that shows the text and how to write it.
    """
    found: dict[str, Any] = {}
    for text in expressions:
        key, operator, value = _split(text)
        if operator == "=":
            if key in found:
                raise InvalidRequest(f"{text!r}: {key} is asked for twice: write {key}=THIS|THAT")
            found[key] = _choice(key, value)
        else:
            bounds = found.setdefault(key, {})
            if not isinstance(bounds, dict) or _BOUNDS[operator] in bounds:
                raise InvalidRequest(f"{text!r}: {key} has such a condition already")
            bounds[_BOUNDS[operator]] = _number(text, value)
    return to_where(found)


def to_where(conditions: Mapping[str, object] | None) -> Where:
    """Conditions as a message says them.

    A value is a string, number or boolean; a list, tuple or set of them, any of which may hold; or a Range,
    also as a mapping of lt, le, gt and ge. Raises InvalidRequest.
    """
    if conditions is None:
        return {}
    if not isinstance(conditions, Mapping):
        raise InvalidRequest('where must be a mapping such as {"category": "dress"}')
    try:
        return _WHERE.validate_python(
            {key: _condition(key, value) for key, value in conditions.items()}, strict=True
        )
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = problem["loc"][0] if problem["loc"] else "where"
        raise InvalidRequest(
            f"where: the condition on {key!r} must be a string, number or boolean, a list of them, or a "
            "range such as {'lt': 50}"
        ) from None


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


def _choice(key: str, value: str) -> Scalar | tuple[Scalar, ...]:
    parts = [part.strip() for part in value.split("|")]
    # A category is text, also where it looks like a number.
    values = tuple(part if key == "category" else _scalar(part) for part in parts)
    return values[0] if len(values) == 1 else values


def _scalar(text: str) -> Scalar:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1]
    return parse_scalar(text)


def _number(text: str, value: str) -> float:
    number = parse_scalar(value)
    if isinstance(number, bool | str):
        raise InvalidRequest(f"{text!r}: {value!r} is not a number: {_HINT}")
    return float(number)


def _condition(key: object, value: object) -> object:
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in Range.model_fields]
        if unknown:
            raise InvalidRequest(
                f"where: {unknown[0]!r} is no bound of {key!r}: a range has lt, le, gt or ge, such as "
                "{'lt': 50}"
            )
        bounds = {
            name: float(bound) if type(bound) is int else bound for name, bound in value.items()
        }
        return checks.build(Range, **bounds)
    return tuple(value) if isinstance(value, list | set | frozenset) else value
