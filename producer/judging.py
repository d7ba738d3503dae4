"""Questions about judgements: what people think of a match, which `lookalike-worker evaluate` counts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from producer.messages import Frozen, ProductId, Question, Queue

MAX_JUDGEMENTS = 1000
"""Judgements that a reply lists."""

Verdict = Literal["up", "down"]
Judge = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Distance = Annotated[float, Field(ge=0.0, le=2.001)]
"""Between unit vectors, give or take a rounding."""


class JudgeMatch(Question):
    """Note what somebody thinks of a match, in place of what they thought before; None takes it back."""

    task: ClassVar[str] = "lookalike.judge"
    queue: ClassVar[Queue] = Queue.CONTROL
    kept: ClassVar[float] = 60.0
    product_id: ProductId
    """What was asked about."""
    match: ProductId
    verdict: Verdict | None
    judge: Judge
    generation: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    """The index generation that gave the match, where it is known."""
    distance: Distance | None = None

    @model_validator(mode="after")
    def _two(self) -> Self:
        if self.product_id == self.match:
            raise ValueError("a product is no match of itself")
        return self


class Judgement(Frozen):
    """What somebody thinks of a match."""

    product_id: str
    match: str
    verdict: Verdict | None
    """None: nothing any more."""
    judge: str
    at: datetime
    generation: int | None = None
    model_version: str | None = None
    """Digest of the model of that generation."""
    distance: float | None = None


class JudgementList(Question):
    """What does anybody think of the matches of a product?"""

    task: ClassVar[str] = "lookalike.judgements"
    queue: ClassVar[Queue] = Queue.CONTROL
    kept: ClassVar[float] = 60.0
    product_id: ProductId


class Judgements(Frozen):
    """Those of a product, by match and judge."""

    judgements: tuple[Judgement, ...]
