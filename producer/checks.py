"""Refuse what no worker could serve, where it is asked, in words that say what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from producer.errors import InvalidRequest
from producer.messages import MAX_BATCH, MAX_LIMIT, MAX_MATCHES

M = TypeVar("M", bound=BaseModel)


def build(type_: type[M], **fields: Any) -> M:
    """Make a message, or raise InvalidRequest that names the field, what is wrong with it, and its value."""
    try:
        return type_(**fields)
    except ValidationError as error:
        raise InvalidRequest(explain(error)) from None


def explain(error: ValidationError) -> str:
    """The first problem of a validation as one sentence."""
    problem = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in problem["loc"] if not isinstance(part, int)) or "value"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{field}: {message} (got {short(problem['input'])})"


def limit(value: object) -> int:
    """A number of matches that a worker would give."""
    return count("limit", value)


def count(name: str, value: object) -> int:
    """A number of products."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_LIMIT:
        raise InvalidRequest(
            f"{name} must be a whole number from 1 to {MAX_LIMIT}, not {short(value)}"
        )
    return value


def number(name: str, value: object, least: float, most: float, what: str = "a number") -> float:
    """A number between two others, or equal to one of them; `what` says what it measures."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InvalidRequest(
            f"{name} must be {what} from {least:g} to {most:g}, not {short(value)}"
        )
    return float(value)


def product_id(value: object) -> str:
    """A product id: a string of 1 to 255 characters that any database can hold."""
    if not isinstance(value, str):
        raise InvalidRequest(
            f"a product id must be a string, not {type(value).__name__}: pass str({short(value)})"
        )
    if not 1 <= len(value) <= 255:
        raise InvalidRequest(f"a product id must have 1 to 255 characters, not {len(value)}")
    if not _printable(value):
        raise InvalidRequest("a product id must not contain NUL or lone surrogate characters")
    return value


def attribute(argument: str, value: object) -> str:
    """The name of an attribute, a key of the argument that is called so."""
    if not isinstance(value, str) or not 1 <= len(value) <= 255 or not _printable(value):
        raise InvalidRequest(
            f"{argument}: an attribute's name must be a string of 1 to 255 characters without NUL or lone "
            f"surrogates, not {short(value)}"
        )
    return value


def product_ids(values: object, *, most: int | None = MAX_BATCH) -> tuple[str, ...]:
    """One or more product ids, at most `most`."""
    if isinstance(values, str | bytes | Mapping):
        raise InvalidRequest("product ids must be a list of strings, not one string: pass [id]")
    try:
        ids = tuple(product_id(value) for value in values)  # type: ignore[attr-defined]
    except TypeError:
        raise InvalidRequest("product ids must be a list of strings") from None
    if not ids:
        raise InvalidRequest("no product id given: pass at least one")
    if most is not None and len(ids) > most:
        raise InvalidRequest(
            f"at most {most} product ids in one lookup, not {len(ids)}: ask in parts"
        )
    return ids


def matches(product_ids: Sequence[str], limit: int) -> None:
    """A batch whose reply stays of a size that Redis and the asker can take."""
    if len(product_ids) * limit > MAX_MATCHES:
        raise InvalidRequest(
            f"product ids times limit must be at most {MAX_MATCHES:,} in one lookup, not "
            f"{len(product_ids):,} times {limit:,}: ask in parts, or for fewer matches"
        )


def one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    """One of a few words."""
    if value not in allowed:
        words = " or ".join(repr(word) for word in allowed)
        raise InvalidRequest(f"{name} must be {words}, not {short(value)}")


def _printable(text: str) -> bool:
    return "\x00" not in text and not any("\ud800" <= each <= "\udfff" for each in text)


def short(value: object) -> str:
    """A value as an error shows it."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = f"a very large {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}…"
