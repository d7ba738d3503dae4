"""The documents behind the lookbook: what it is shown, and what it may change."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, JsonValue

from producer.browsing import MAX_IDS, KeptGeneration
from producer.gateway.documents import Document, Id, Picked, whole
from producer.judging import Distance
from producer.messages import QueueStatus, StatusReply
from producer.reasons import Reason

_Number = Annotated[int, Field(ge=1, lt=2**63)]
Number = Annotated[_Number, BeforeValidator(whole, json_schema_input_type=_Number)]


# -- requests -------------------------------------------------------------------------------------


class PastQuestion(Picked):
    """What did a kept generation of the index say looks like this product?"""

    product_id: Id
    generation: Number
    """Its number, as `GET /generations` tells it."""


class FailuresById(Document):
    """Some of what was given up."""

    ids: Annotated[list[Number], Field(min_length=1, max_length=MAX_IDS)]


class FailuresByReason(Document):
    """What was given up for a reason."""

    reason: Reason


class AllFailures(Document):
    """All that was given up."""

    all: Literal[True]


class Vote(Document):
    """What the caller thinks of a match."""

    product_id: Id
    """What was asked about."""
    match: Id
    verdict: Literal["up", "down"] | None
    """null takes it back."""
    generation: Number | None = None
    """The index generation that gave the match, as its reply tells it."""
    distance: Distance | None = None


# -- answers --------------------------------------------------------------------------------------


class AccessDocument(BaseModel):
    """What the caller may do."""

    open: bool
    """Whether there are no keys: whoever is on this machine may do everything."""
    scopes: list[Literal["read", "write"]]


class ShownDocument(BaseModel):
    """A product as a page shows it."""

    product_id: str
    name: str
    """Of the picture to show."""
    category: str | None
    attributes: dict[str, JsonValue]


class CatalogueDocument(BaseModel):
    """A page of the catalogue."""

    products: list[ShownDocument]
    next: str | None
    """What to give as `after` for the next page; null after the last."""


class CategoryDocument(BaseModel):
    """How many products a category has."""

    category: str | None
    """null: those without one."""
    products: int


class CategoriesDocument(BaseModel):
    """The largest categories, and the number of all products. It may be some seconds old."""

    total: int
    categories: list[CategoryDocument]


class GenerationsDocument(BaseModel):
    """The generations of the index whose files are kept, the newest first."""

    generations: list[KeptGeneration]


class StatusDocument(BaseModel):
    """How the queue is, and what the service says of itself."""

    backlog: int
    """Jobs accepted and not yet applied."""
    queues: list[QueueStatus]
    service: StatusReply | None
    """null when no worker answers in time."""
    problem: str | None
    """Why there is no answer of the service."""


class FailedDocument(BaseModel):
    """An item that was given up, and is kept until somebody requeues or discards it."""

    id: int
    product_id: str | None
    name: str | None
    reason: str
    detail: str
    attempts: int
    at: datetime


class FailuresDocument(BaseModel):
    """A page of what was given up, the newest first."""

    failures: list[FailedDocument]
    next: str | None
    """What to give as `after` for the next page; null after the last."""


class RequeuedDocument(BaseModel):
    """How many were sent again, and how many of those that were chosen are still kept."""

    requeued: int
    left: int
    """They cannot be sent again, or did not fit on the queue or into the time of a request."""


class DiscardedDocument(BaseModel):
    """How many were forgotten, and how many of those that were chosen are still kept."""

    discarded: int
    left: int


class JudgementDocument(BaseModel):
    """What somebody thinks of a match."""

    product_id: str
    match: str
    verdict: Literal["up", "down"] | None
    judge: str
    """Name of the API key; `anybody` where there are no keys."""
    mine: bool
    """Whether that is the caller."""
    at: datetime
    generation: int | None
    model_version: str | None
    distance: float | None


class JudgementsDocument(BaseModel):
    """What anybody thinks of the matches of a product."""

    judgements: list[JudgementDocument]
