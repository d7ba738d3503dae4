"""The documents that travel over HTTP: what a request says, and what is answered.

A request that does not fit its document is malformed; one that fits may still be refused by the producer, for
rules that a schema cannot say.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    WithJsonSchema,
)

from producer.messages import (
    MAX_AT_MOST,
    MAX_ATTRIBUTES,
    MAX_BATCH,
    MAX_CHOICES,
    MAX_CONDITIONS,
    MAX_PICTURES,
    MAX_TASTE,
    Attributes,
    Category,
    Limit,
    ProductId,
    Range,
    Where,
)

MAX_PRODUCTS = 5000
"""Products of one request."""
UPLOAD = "upload:"
"""Before the name of the part that brings a picture."""
PICTURE = "image"
"""The part that a product's picture is in, if it names none."""

_TEXT: dict[str, Any] = {"type": "string", "pattern": "^[^\\u0000]*$"}
_NAME: dict[str, Any] = _TEXT | {"minLength": 1, "maxLength": 255}
_SCALAR: dict[str, Any] = {"anyOf": [_TEXT, {"type": "number"}, {"type": "boolean"}]}
_BOUND: dict[str, Any] = {"type": "number"}
_RANGE: dict[str, Any] = {
    "type": "object",
    "properties": dict.fromkeys(Range.model_fields, _BOUND),
    "additionalProperties": False,
    "minProperties": 1,
}


def _choices(one: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_CHOICES}


def whole(value: object) -> object:
    """A whole number in whichever spelling: to JSON, 5.0 is one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _bounded(where: dict[str, Any]) -> dict[str, Any]:
    for key, condition in where.items():
        if (
            isinstance(condition, Range)
            and None in condition.model_dump(exclude_unset=True).values()
        ):
            raise ValueError(f"a bound of {key!r} must be a number: leave it out")
    return where


Address = Annotated[
    str,
    StringConstraints(
        min_length=8,
        max_length=4096,
        pattern=r"^(https?://([^/?#@:\[\]\\\x00-\x20]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?([/?#]|$)"
        r"|(s3|gs)://[^/?#\\\x00-\x20]+/[^/?#\x00-\x20])",
    ),
]
"""An address that workers fetch from, as far as LOOKALIKE_IMAGE_HOSTS and LOOKALIKE_IMAGE_BUCKETS allow."""
Upload = Annotated[str, StringConstraints(min_length=8, max_length=255, pattern=r"^upload:.+$")]
Id = Annotated[ProductId, WithJsonSchema(_NAME)]
Text = Annotated[Category, WithJsonSchema(_NAME)]
_Version = Annotated[int, Field(ge=0, lt=2**63)]
Version = Annotated[_Version, BeforeValidator(whole, json_schema_input_type=_Version)]
Count = Annotated[Limit, BeforeValidator(whole, json_schema_input_type=Limit)]
Values = Annotated[
    Attributes,
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": MAX_ATTRIBUTES,
            "propertyNames": _TEXT,
            "additionalProperties": {"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR}]},
        }
    ),
]
Conditions = Annotated[
    Where,
    AfterValidator(_bounded),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": MAX_CONDITIONS,
            "propertyNames": _NAME,
            "properties": {"category": {"anyOf": [_TEXT, _choices(_TEXT)]}},
            "additionalProperties": {"anyOf": [_SCALAR, _choices(_SCALAR), _RANGE]},
        }
    ),
]
AtMost = Annotated[
    dict[Id, Count], Field(max_length=MAX_AT_MOST, json_schema_extra={"propertyNames": _NAME})
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
    product_id: Id
    """The shop's own id."""
    name: Text = "main"
    """Name of the picture: a product's other pictures have other names."""
    category: Text | None = None
    attributes: Values = Field(default_factory=dict)
    """What to filter by: strings, numbers, booleans, or lists of them."""
    version: Version | None = None
    """Orders the changes of a product, the greatest wins; the time of the request if not given."""


class Product(_Described):
    """A picture of a product, to be made searchable."""

    image: Address
    """Where workers fetch the picture."""


class PicturedProduct(_Described):
    """A picture of a product, to be made searchable, in a request that brings pictures."""

    image: Upload | Address = f"{UPLOAD}{PICTURE}"
    """`upload:` and the name of the part that the picture is in, or an address."""


class Picked(Document):
    """Which of the nearest products a reply is made of, and how many."""

    limit: Count = 10
    """How many matches."""
    where: Conditions = Field(default_factory=dict)
    """Conditions on category and attributes: a value, a list any of which may hold, or a range."""
    min_similarity: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Least cosine between the question's vector and a match's."""
    collapse: Annotated[float, Field(ge=0, le=2)] | None = None
    """Distance up to which two pictures are shown once; 0: the same picture."""
    at_most: AtMost = Field(default_factory=dict)
    """Most matches with the same value of an attribute, such as {"brand": 2}."""
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of being unlike the matches before."""


def _listed(value: object) -> object:
    """One as a list of one."""
    return [value] if isinstance(value, str) else value


_Ids = Annotated[list[Id], Field(min_length=1, max_length=MAX_TASTE)]
_Addresses = Annotated[list[Address], Field(min_length=1, max_length=MAX_PICTURES)]
_Products = Annotated[_Ids, BeforeValidator(_listed, json_schema_input_type=Id | _Ids)]
_Pictures = Annotated[
    _Addresses, BeforeValidator(_listed, json_schema_input_type=Address | _Addresses)
]


class Taste(Picked):
    """What a question is about, besides the pictures that a form brings."""

    product_id: _Products | None = None
    """A product to look like, or several together."""
    image: _Pictures | None = None
    """A picture to look like, or several together."""
    disliked: _Products | None = None
    """Products to look unlike."""
    disliked_image: _Pictures | None = None
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


class Batch(Picked):
    """What looks like each of these products, by itself? Answered from one view of the index."""

    product_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_BATCH)]


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
