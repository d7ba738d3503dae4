"""The options that say which matches are wanted, of every command that asks for matches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import typer

from producer.errors import InvalidRequest
from producer.selection import Options, parse_at_most
from producer.where import CATEGORY, parse_where

Limit = Annotated[int, typer.Option("--limit", "-n", help="How many matches, 1 to 1000.")]
Category = Annotated[
    str | None, typer.Option("--category", "-c", help="Only matches of this category.")
]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", "-w", help="Only matches such as price<50, size=S|M. May be repeated."),
]
MinSimilarity = Annotated[
    float | None,
    typer.Option("--min-similarity", metavar="X", help="Only matches so similar: 0.8 is 80%."),
]
Collapse = Annotated[
    float | None,
    typer.Option(
        "--collapse", metavar="DISTANCE", help="Show pictures within this distance once: 0 to 2."
    ),
]
AtMost = Annotated[
    list[str] | None,
    typer.Option(
        "--at-most", metavar="KEY=N", help="At most so many alike: brand=2. May be repeated."
    ),
]
Diversity = Annotated[
    float,
    typer.Option("--diversity", metavar="WEIGHT", help="Prefer unlike matches: 0 (off) to 1."),
]


@dataclass(frozen=True)
class Pick:
    """What a command line says of the matches that are wanted."""

    limit: int
    where: dict[str, object] = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    conditions: tuple[str, ...] = ()
    """What every match must meet by itself, as it was written."""
    thinning: tuple[str, ...] = ()
    """What leaves a match out because of others, as it was written."""


def pick(
    *,
    limit: int,
    category: str | None,
    where: Sequence[str] | None,
    min_similarity: float | None,
    collapse: float | None,
    at_most: Sequence[str] | None,
    diversity: float,
) -> Pick:
    """The options together. Raises InvalidRequest for text that cannot be read."""
    options = Options(
        min_similarity=min_similarity,
        collapse=collapse,
        at_most=parse_at_most(at_most or ()),
        diversity=diversity,
    )
    conditions = [*(where or ()), *_given(f"{CATEGORY}=", category)]
    return Pick(
        limit,
        _where(category, where),
        options,
        (*conditions, *_given("--min-similarity ", min_similarity)),
        (*_given("--collapse ", collapse), *(f"--at-most {each}" for each in at_most or ())),
    )


def _given(prefix: str, value: object) -> list[str]:
    return [] if value is None else [f"{prefix}{value}"]


def _where(category: str | None, where: Sequence[str] | None) -> dict[str, object]:
    conditions: dict[str, object] = dict(parse_where(where or ()))
    if category is not None:
        if CATEGORY in conditions:
            raise InvalidRequest("give the category by --category or by --where, not by both")
        conditions[CATEGORY] = category
    return conditions
