"""Which of the nearest products a lookup gives: from a shop's arguments, or as text from a command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict

from producer import checks
from producer.errors import InvalidRequest
from producer.messages import MAX_AT_MOST, Selection
from producer.where import to_where


class Options(TypedDict, total=False):
    """How matches are picked, besides how many and by what conditions; see `Producer.find_similar`."""

    min_similarity: float | None
    collapse: float | None
    at_most: Mapping[str, int] | None
    diversity: float


def selection(
    limit: int,
    where: Mapping[str, object] | None,
    *,
    min_similarity: float | None = None,
    collapse: float | None = None,
    at_most: Mapping[str, int] | None = None,
    diversity: float = 0.0,
) -> Selection:
    """The arguments of a lookup as a message says them. Raises InvalidRequest with the rule that is broken."""
    return checks.build(
        Selection,
        limit=checks.limit(limit),
        where=to_where(where),
        min_similarity=_min_similarity(min_similarity),
        collapse=_collapse(collapse),
        at_most=_at_most(at_most),
        diversity=checks.number("diversity", diversity, 0, 1, "a weight"),
    )


def parse_at_most(expressions: Iterable[str]) -> dict[str, int]:
    """`at_most` from texts such as `brand=2`; InvalidRequest that shows the text and how to write it."""
    found: dict[str, int] = {}
    for text in expressions:
        key, _, number = (part.strip() for part in text.rpartition("="))
        if not key or not (number.isascii() and number.isdigit() and len(number) < 10):
            raise InvalidRequest(
                f"{text!r} is no limit of an attribute: write KEY=NUMBER, such as brand=2"
            )
        if key in found:
            raise InvalidRequest(f"{text!r}: {key} has such a limit already")
        found[key] = int(number)
    return found


def _min_similarity(value: object) -> float | None:
    what = "a cosine (0.8 is 80%)"
    return None if value is None else checks.number("min_similarity", value, -1, 1, what)


def _collapse(value: object) -> float | None:
    return None if value is None else checks.number("collapse", value, 0, 2, "a distance")


def _at_most(value: object) -> dict[str, int]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequest('at_most must be a mapping such as {"brand": 2}')
    if len(value) > MAX_AT_MOST:
        raise InvalidRequest(
            f"at_most must name {MAX_AT_MOST} attributes or fewer, not {len(value)}"
        )
    return {
        checks.attribute("at_most", key): checks.count(f"at_most: the number for {key!r}", number)
        for key, number in value.items()
    }
