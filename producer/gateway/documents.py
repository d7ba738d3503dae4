"""The documents that travel over HTTP: what a request says, and what is answered.

A request that does not fit its document is malformed; one that fits may still be refused by the producer, for
rules that a schema cannot say.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, WithJsonSchema

from producer.messages import (
    MAX_ATTRIBUTES,
    MAX_BATCH,
    MAX_PICTURES,
    MAX_TASTE,
    AtMost,
    Attributes,
    Category,
    ImageName,
    Limit,
    ProductId,
    Where,
)

MAX_PRODUCTS = 5000
"""Products of one request."""
UPLOAD = "upload:"
"""Before the name of the part that brings a picture."""
PICTURE = "image"
"""The part that a product's picture is in, if it names none."""

_SCALAR: dict[str, Any] = {"type": ["string", "number", "boolean"]}
Address = Annotated[
    str,
    StringConstraints(min_length=8, max_length=4096, pattern=r"^(https?|s3|gs)://[^/?#\s]+[/?#]?"),
]
"""An address that workers fetch from, as far as LOOKALIKE_IMAGE_HOSTS and LOOKALIKE_IMAGE_BUCKETS allow."""
Upload = Annotated[str, StringConstraints(min_length=8, max_length=255, pattern=r"^upload:.+$")]
Values = Annotated[
    Attributes,
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": MAX_ATTRIBUTES,
            "additionalProperties": {"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR}]},
        }
    ),
]


class Document(BaseModel):
    """Base of every document: immutable, strict, no extra keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        use_attribute_docstrings=True,
        ser_json_inf_nan="constants",
    )


# -- requests -------------------------------------------------------------------------------------


class _Described(Document):
    product_id: ProductId
    """The shop's own id."""
    name: ImageName = "main"
    """Name of the picture: a product's other pictures have other names."""
    category: Category | None = None
    attributes: Values = Field(default_factory=dict)
    """What to filter by: strings, numbers, booleans, or lists of them."""
    version: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Orders the changes of a product, the greatest wins; the time of the request if not given."""


class Product(_Described):
    """A picture of a product, to be made searchable."""

    image: Address
    """Where workers fetch the picture."""


class PicturedProduct(_Described):
    """A picture of a product, to be made searchable, in a request that brings pictures."""

    image: Upload | Address = f"{UPLOAD}{PICTURE}"
    """`upload:` and the name of the part that the picture is in, or an address."""


class _Picked(Document):
    limit: Limit = 10
    """How many matches."""
    where: Where = Field(default_factory=dict)
    """Conditions on category and attributes: a value, a list any of which may hold, or a range."""
    min_similarity: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Least cosine between the question's vector and a match's."""
    collapse: Annotated[float, Field(ge=0, le=2)] | None = None
    """Distance up to which two pictures are shown once; 0: the same picture."""
    at_most: AtMost = Field(default_factory=dict)
    """Most matches with the same value of an attribute, such as {"brand": 2}."""
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of being unlike the matches before."""


_Ids = Annotated[list[ProductId], Field(min_length=1, max_length=MAX_TASTE)]
_Addresses = Annotated[list[Address], Field(min_length=1, max_length=MAX_PICTURES)]


class Taste(_Picked):
    """What a question is about, besides the pictures that a form brings."""

    product_id: ProductId | _Ids | None = None
    """A product to look like, or several together."""
    image: Address | _Addresses | None = None
    """A picture to look like, or several together."""
    disliked: ProductId | _Ids | None = None
    """Products to look unlike."""
    disliked_image: Address | _Addresses | None = None
    """Pictures to look unlike."""


class Question(Taste):
    """What looks like a product, like a picture, or like several together?"""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": [name], "properties": {name: {"not": {"type": "null"}}}}
                for name in ("product_id", "image")
            ]
        }
    )


class PicturedQuestion(Taste):
    """What looks like the pictures that the request brings, and like what is named here?"""


class Batch(_Picked):
    """What looks like each of these products, by itself? Answered from one view of the index."""

    product_ids: Annotated[list[ProductId], Field(min_length=1, max_length=MAX_BATCH)]


# -- answers --------------------------------------------------------------------------------------


class ProblemDocument(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    reason: str
    """A code that never changes."""
    accepted: int | None = None
    """Products that were accepted before the queue was full."""


class JobDocument(BaseModel):
    """A job that was accepted, or what became of it."""

    id: str
    url: str
    items: int | None = None
    """Pictures, or products to remove, in the job."""


class AcceptedDocument(BaseModel):
    """What was accepted: it will be applied, or given up with a reason."""

    accepted: int
    jobs: list[JobDocument]


class FailureDocument(BaseModel):
    """An item that was given up."""

    product_id: str
    name: str | None
    reason: str
    detail: str


class OutcomeDocument(BaseModel):
    """What became of a job, retries of its items included."""

    id: str
    state: Literal["waiting", "ended"]
    applied: int
    failures: list[FailureDocument]


class MatchDocument(BaseModel):
    """A product that looks like what was asked about."""

    product_id: str
    name: str
    """Name of the picture that is nearest."""
    distance: float
    """Euclidean distance between unit vectors: 0 the same, √2 unrelated, 2 opposite."""
    similarity: float
    """Cosine of the angle between the two vectors."""
    category: str | None
    attributes: dict[str, JsonValue]


class AsOfDocument(BaseModel):
    """The moment that a reply describes."""

    revision: int
    at: datetime


class ReplyDocument(BaseModel):
    """The matches, nearest first, with what answered."""

    matches: list[MatchDocument]
    product_id: str | None
    """The product that was asked about; null for pictures, or several together."""
    generation: int | None
    model_version: str | None
    as_of: AsOfDocument
    pending: int
    path: str
    """How it was found."""


class LookupDocument(BaseModel):
    """A lookup, and its replies once it is done."""

    id: str
    url: str
    state: Literal["queued", "running", "done", "failed"]
    replies: list[ReplyDocument] | None = None
    """One reply, or of a batch one for each product that is in the catalogue, in the order asked."""
    not_found: list[str] | None = None
    """Products asked about that are not in the catalogue."""
    problem: ProblemDocument | None = None
    """Why it has failed."""


class HealthDocument(BaseModel):
    """The gateway answers, and reaches the queue."""

    state: Literal["ok"]
