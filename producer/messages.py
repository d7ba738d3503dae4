"""The wire contract: every message on a queue, every reply in a mailbox, as frozen values.

A message knows its task name and its queue, so that nothing else has to. Messages travel as JSON and are
validated strictly on both sides: an unknown key, a wrong type or another wire version is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)

from producer.reasons import Reason
from producer.redaction import without_secrets

WIRE_VERSION: Literal[1] = 1
MIN_CHUNK, MAX_CHUNK = 1, 64
MAX_LIMIT = 1000
MAX_BATCH = 256
MAX_MATCHES = 25_600
"""The most that a batch may ask for altogether: its product ids times its limit."""
MAX_TASTE = 64
"""Products that a lookup may like, and dislike, at once."""
MAX_PICTURES = 8
"""Pictures that a lookup may like, and dislike, at once."""
MAX_CONDITIONS = 32
MAX_CHOICES = 1000
"""Values that a condition may allow."""
MAX_AT_MOST = 8
"""Attributes that `at_most` may name."""
MAX_DETAIL = 500
MAX_ATTRIBUTES = 64
MAX_TEXT = 8192
"""Characters that all attributes of a product may have together, names and lists included."""
MAX_WHERE_TEXT = 1 << 16
"""The same of all conditions of a lookup."""
MAX_BITS = 1000
"""Bits of a whole number: more would be none of JSON's any more, and no float is so large."""
MAX_MESSAGE = 16 << 20
"""Bytes of the largest message: more than any has that keeps to these limits."""


class Queue(StrEnum):
    """The five queues. Names are Redis lists under the prefix of `producer.keys`."""

    INGEST = "ingest"
    QUERY = "query"
    LOOKUP = "lookup"
    INDEX = "index"
    CONTROL = "control"


_SURROGATE = re.compile("[\ud800-\udfff]")


def _printable(value: str) -> str:
    """Refuse what SQL text columns and terminals cannot hold: NUL and lone surrogates."""
    if "\x00" in value or (not value.isascii() and _SURROGATE.search(value)):
        raise ValueError("must not contain NUL or lone surrogate characters")
    return value


ProductId = Annotated[
    str, StringConstraints(min_length=1, max_length=255), AfterValidator(_printable)
]
ImageName = Annotated[
    str, StringConstraints(min_length=1, max_length=255), AfterValidator(_printable)
]
Category = Annotated[
    str, StringConstraints(min_length=1, max_length=255), AfterValidator(_printable)
]
AttributeName = Annotated[
    str, StringConstraints(min_length=1, max_length=255), AfterValidator(_printable)
]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Scalar = (
    bool
    | Annotated[int, Field(ge=-(2**63), lt=2**63)]
    | Number
    | Annotated[str, AfterValidator(_printable)]
)
"""What an attribute is compared with; an integer that needs more than 64 bits becomes a float."""


def _finite(attributes: dict[str, JsonValue]) -> dict[str, JsonValue]:
    length = 0
    for key, value in attributes.items():
        _printable(key)
        length += len(key)
        for part in value if isinstance(value, list) else [value]:
            length += _length_of_part(key, part)
    if length > MAX_TEXT:
        raise ValueError(
            f"all attributes together may have {MAX_TEXT:,} characters, not {length:,}"
        )
    return attributes


def _length_of_part(key: str, part: JsonValue) -> int:
    """Check a value of an attribute; the characters that it takes."""
    if isinstance(part, dict | list):
        problem = f"attribute {key!r} must be a string, number, boolean or a list"
        raise ValueError(problem)  # noqa: TRY004 - what pydantic collects
    if isinstance(part, str):
        return len(_printable(part))
    if isinstance(part, float) and not math.isfinite(part):
        raise ValueError(f"attribute {key!r} must be a finite number")
    if isinstance(part, int) and part.bit_length() > MAX_BITS:
        raise ValueError(f"attribute {key!r} is too large a number")
    return 8


def _brief(where: dict[str, Any]) -> dict[str, Any]:
    texts = (
        each
        for condition in where.values()
        for each in (condition if isinstance(condition, tuple) else (condition,))
        if isinstance(each, str)
    )
    if sum(map(len, texts)) > MAX_WHERE_TEXT:
        raise ValueError(f"all conditions together may have {MAX_WHERE_TEXT:,} characters")
    return where


Attributes = Annotated[
    dict[str, JsonValue], Field(max_length=MAX_ATTRIBUTES), AfterValidator(_finite)
]


class Frozen(BaseModel):
    """Base of every value on the wire: immutable, strict, no extra keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, ser_json_inf_nan="constants"
    )


class Range(Frozen):
    """A numeric condition: any of less than, at most, greater than, at least; None is no bound."""

    lt: Number | None = None
    le: Number | None = None
    gt: Number | None = None
    ge: Number | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.lt is self.le is self.gt is self.ge is None:
            raise ValueError("a range needs at least one of lt, le, gt, ge")
        return self


Condition = (
    Scalar | Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=MAX_CHOICES)] | Range
)
Where = Annotated[
    dict[AttributeName, Condition], Field(max_length=MAX_CONDITIONS), AfterValidator(_brief)
]
AtMost = Annotated[dict[AttributeName, Limit], Field(max_length=MAX_AT_MOST)]


class Selection(Frozen):
    """Which of the nearest products a reply is made of, and how many."""

    limit: Limit = 10
    where: Where = Field(default_factory=dict)
    """Conditions on category and attributes; all must hold."""
    min_similarity: Annotated[float, Field(ge=-1.0, le=1.0)] | None = None
    """Least cosine between the question's vector and a match's."""
    collapse: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    """Distance up to which two matches count as the same picture, of which only the nearer one is shown.

    0 collapses the same bytes, and pictures that the network cannot tell apart.
    """
    at_most: AtMost = Field(default_factory=dict)
    """Most matches with the same value of an attribute (or category), such as {"brand": 2}."""
    diversity: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Weight of being unlike the matches already chosen, against being like what was asked about.

    0 orders by likeness alone. Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998) with
    lambda = 1 - diversity.
    """


# -- pictures -------------------------------------------------------------------------------------


class PathImage(Frozen):
    """A file as the worker sees it, under one of the worker's image roots."""

    kind: Literal["path"] = "path"
    path: Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class UrlImage(Frozen):
    """An http(s) address that the worker fetches."""

    kind: Literal["url"] = "url"
    url: Annotated[str, StringConstraints(min_length=8, max_length=4096, pattern=r"^https?://")]

    def __repr_args__(self) -> Iterator[tuple[str, str]]:
        """Without what may sign it: a repr ends in logs."""
        yield "url", without_secrets(self.url)


class StoreImage(Frozen):
    """An object in a bucket of an object store, that the worker fetches."""

    kind: Literal["store"] = "store"
    url: Annotated[str, StringConstraints(min_length=8, max_length=4096, pattern=r"^(s3|gs)://")]


class BytesImage(Frozen):
    """Bytes that travel beside the message, under `keys.picture(key)`, and expire."""

    kind: Literal["bytes"] = "bytes"
    key: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the bytes, so that the same picture is sent once."""


ImageRef = Annotated[PathImage | UrlImage | StoreImage | BytesImage, Field(discriminator="kind")]


# -- messages: jobs -------------------------------------------------------------------------------

_JOB_ID = re.compile(r"^[0-9a-f-]{36}$")
Identifier = Annotated[str, StringConstraints(pattern=_JOB_ID.pattern)]


class Message(Frozen):
    """What goes on a queue. `task` and `queue` are of the class, not of the instance."""

    task: ClassVar[str]
    queue: ClassVar[Queue]
    v: Literal[1] = WIRE_VERSION

    @classmethod
    def parse(cls, body: object) -> Self:
        """Validate what came off a queue as JSON, where a list may stand for a tuple; ValidationError."""
        return cls.model_validate_json(json.dumps(body))


class ImageItem(Frozen):
    """One picture of a product to be made searchable, with what the shop says of the product."""

    product_id: ProductId
    name: ImageName = "main"
    image: ImageRef
    category: Category | None = None
    attributes: Attributes = Field(default_factory=dict)
    version: Annotated[int, Field(ge=0, lt=2**63)]
    """Order of the shop's changes to this product: the greatest version wins, however late."""


class Removal(Frozen):
    """A product to be taken out: beats every change of a lower version."""

    product_id: ProductId
    version: Annotated[int, Field(ge=0, lt=2**63)]


class Job(Message):
    """A message kept in the ledger until the worker has applied it or given it up."""

    id: Identifier
    accepted_at: float
    """Seconds since the epoch, by the producer's clock."""
    attempt: Annotated[int, Field(ge=1)] = 1


class IngestChunk(Job):
    """1 to 64 pictures to fetch, embed and store in one transaction."""

    task: ClassVar[str] = "lookalike.ingest"
    queue: ClassVar[Queue] = Queue.INGEST
    items: Annotated[tuple[ImageItem, ...], Field(min_length=MIN_CHUNK, max_length=MAX_CHUNK)]


class RemoveChunk(Job):
    """Products to take out, in one transaction. Needs no GPU, so it never waits behind pictures."""

    task: ClassVar[str] = "lookalike.remove"
    queue: ClassVar[Queue] = Queue.CONTROL
    items: Annotated[tuple[Removal, ...], Field(min_length=1, max_length=1000)]


# -- messages: questions (answered in a mailbox) --------------------------------------------------


class Question(Message):
    """A message whose answer the asker polls for in the mailbox `keys.mailbox(id)`."""

    kept: ClassVar[float] = 0.0
    """Seconds that the mailbox is kept at least; one of a lookup is kept until it expires."""
    id: Identifier
    expires_at: float
    """Seconds since the epoch after which nobody waits for the answer any more."""


class ProductLookup(Question):
    """What looks like these products? One reply each, all from one view of the index."""

    task: ClassVar[str] = "lookalike.lookup"
    queue: ClassVar[Queue] = Queue.LOOKUP
    product_ids: Annotated[tuple[ProductId, ...], Field(min_length=1, max_length=MAX_BATCH)]
    selection: Selection = Field(default_factory=Selection)


class TasteLookup(Question):
    """What looks like all of these products together, and not like those? One reply, without any of them."""

    task: ClassVar[str] = "lookalike.taste"
    queue: ClassVar[Queue] = Queue.LOOKUP
    liked: Annotated[tuple[ProductId, ...], Field(min_length=1, max_length=MAX_TASTE)]
    disliked: Annotated[tuple[ProductId, ...], Field(max_length=MAX_TASTE)] = ()
    selection: Selection = Field(default_factory=Selection)


class PictureLookup(Question):
    """What looks like these pictures, and products, together? Embedded and answered in one hop."""

    task: ClassVar[str] = "lookalike.query"
    queue: ClassVar[Queue] = Queue.QUERY
    images: Annotated[tuple[ImageRef, ...], Field(max_length=MAX_PICTURES)] = ()
    disliked_images: Annotated[tuple[ImageRef, ...], Field(max_length=MAX_PICTURES)] = ()
    liked: Annotated[tuple[ProductId, ...], Field(max_length=MAX_TASTE)] = ()
    disliked: Annotated[tuple[ProductId, ...], Field(max_length=MAX_TASTE)] = ()
    selection: Selection = Field(default_factory=Selection)

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if not self.images and not self.disliked_images:
            raise ValueError("a picture lookup needs a picture")
        if not self.images and not self.liked:
            raise ValueError("something must be liked")
        return self


class StatusRequest(Question):
    """How is the service?"""

    task: ClassVar[str] = "lookalike.status"
    queue: ClassVar[Queue] = Queue.CONTROL
    kept: ClassVar[float] = 60.0


class ThumbnailRequest(Question):
    """Small pictures of products, for a gallery."""

    task: ClassVar[str] = "lookalike.thumbnails"
    queue: ClassVar[Queue] = Queue.CONTROL
    kept: ClassVar[float] = 60.0
    images: Annotated[tuple[tuple[ProductId, ImageName], ...], Field(min_length=1, max_length=500)]


# -- messages: housekeeping (sent by beat and by the operator's command line) ---------------------


class WatchIndex(Message):
    """Look at the index's age and pending changes, and ask for a rebuild when one is due."""

    task: ClassVar[str] = "lookalike.watch_index"
    queue: ClassVar[Queue] = Queue.CONTROL


class Reindex(Message):
    """Build a generation from SQL and swap it in, unless one is being built."""

    task: ClassVar[str] = "lookalike.reindex"
    queue: ClassVar[Queue] = Queue.INDEX
    reason: str


class SweepLedger(Message):
    """Publish again what was accepted and neither applied nor given up in time."""

    task: ClassVar[str] = "lookalike.sweep_ledger"
    queue: ClassVar[Queue] = Queue.CONTROL


# -- replies --------------------------------------------------------------------------------------


class Match(Frozen):
    """A product that looks like the one asked about, by its nearest picture."""

    product_id: str
    name: str
    """Name of the picture that is nearest."""
    distance: float
    """Euclidean distance between unit vectors: 0 the same, √2 unrelated, 2 opposite."""
    category: str | None = None
    attributes: dict[str, JsonValue] = Field(default_factory=dict)

    @property
    def similarity(self) -> float:
        """Cosine of the angle between the two unit vectors, from the distance: 1 - d²/2."""
        return 1.0 - self.distance * self.distance / 2.0


class AsOf(Frozen):
    """The moment that an answer describes: every change up to `revision` is in it."""

    revision: int
    at: datetime


BasePath = Literal["annoy", "faiss", "category", "subset", "exact", "none"]
SearchPath = Literal[
    "annoy", "faiss", "category", "subset", "exact", "none",
    "annoy+overlay", "faiss+overlay", "category+overlay", "subset+overlay", "exact+overlay", "overlay",
]  # fmt: skip
"""How the base was searched: by the engine's index (filtered where there are conditions), or by reading the
pictures of the categories asked for, those that meet the conditions, or all; and whether the overlay had anything
to say."""


class Reply(Frozen):
    """The answer to one question, nearest first, with what answered it."""

    matches: tuple[Match, ...]
    product_id: str | None = None
    """The product that was asked about; None for a lookup by picture, or by several products together."""
    generation: int | None
    """Number of the index generation that answered; None before the first."""
    model_version: str | None
    """Digest of the model whose vectors were compared."""
    as_of: AsOf
    pending: int
    """Changes newer than the generation; they were answered from the overlay."""
    path: SearchPath
    """How it was found: see SearchPath."""


class BatchReply(Frozen):
    """Answers to `find_similar_many`, in the order asked, and the ids that are not in the catalogue."""

    replies: tuple[Reply, ...]
    not_found: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many products were answered; a batch without replies is falsy."""
        return len(self.replies)

    def of(self, product_id: str) -> Reply | None:
        """The reply about this product; None if it is not in the catalogue, or was not asked about."""
        return next((reply for reply in self.replies if reply.product_id == product_id), None)


class QueueStatus(Frozen):
    """The messages of a queue."""

    name: str
    waiting: int
    """Not taken by any worker yet, of whatever priority."""
    unacked: int | None = None
    """Taken by workers and not acknowledged: what they are at, and what they hold in hand. None where nobody may
    look: a shop's user of Redis. An estimate when there are very many."""
    oldest: float | None = None
    """Seconds since the oldest was sent: of all that are un-acknowledged, and of those that wait the next one.
    A job sent again counts from when it was accepted. None when there is none, or nobody may look."""


class GenerationStatus(Frozen):
    """The current index generation."""

    number: int
    revision: int
    images: int
    built_at: datetime
    recall: float
    """Measured recall@10 against exact search when it was built."""
    pinned: bool = False
    """Whether a rollback chose it: it is not replaced by itself until `lookalike-worker reindex`."""


class WorkerStatus(Frozen):
    """A process of the service that is alive."""

    role: str
    host: str
    pid: int
    started_at: float
    """Seconds since the epoch."""
    busy: int = 0
    """Messages that it is working on."""
    longest: float | None = None
    """Seconds for which it has been working on the oldest of them; None when it is idle."""
    stuck: bool = False
    """Whether that takes suspiciously long: half of what has the process started anew."""


class RolloutStatus(Frozen):
    """A model that is being rolled out."""

    model_version: str
    model_name: str
    images: int
    """Pictures of the catalogue."""
    embedded: int
    given_up: dict[str, int] = Field(default_factory=dict)
    """Those that could not be embedded anew, by reason."""
    without_missing: bool = False
    """Whether it becomes active all the same."""
    waits_for: str | None = None
    """What keeps it from going on, if anything does."""

    @property
    def waiting(self) -> int:
        """Pictures that are neither embedded nor given up."""
        return max(0, self.images - self.embedded - sum(self.given_up.values()))


class FreshnessStatus(Frozen):
    """Seconds from a job's acceptance until lookups find what it brought, of the last so many changes.

    A change counts once for each process that answers lookups; a retry counts from when it was written down.
    """

    p50: float
    p95: float
    samples: int
    since: datetime
    """When the first of them was measured."""


class StatusReply(Frozen):
    """What `lookalike status` shows of the service behind the queues."""

    products: int
    images: int
    revision: int
    pending: int
    model_version: str | None
    model_name: str | None
    generation: GenerationStatus | None
    dead_letters: dict[str, int] = Field(default_factory=dict)
    """Count of dead letters by reason."""
    workers: tuple[WorkerStatus, ...] = ()
    rebuild_failure: str | None = None
    """Why the last rebuild failed, if it did."""
    queues: tuple[QueueStatus, ...] = ()
    """As a worker sees them, who may look into messages."""
    freshness: FreshnessStatus | None = None
    """None before the first change."""
    rollout: RolloutStatus | None = None
    """None when no model is being rolled out."""


class Thumbnail(Frozen):
    """A small JPEG of a product's picture, base64."""

    product_id: str
    name: str
    jpeg: str


class ThumbnailReply(Frozen):
    """The thumbnails that exist, in the order asked."""

    thumbnails: tuple[Thumbnail, ...]


class Failure(Frozen):
    """Why there is no reply."""

    reason: Reason
    detail: str


class AnswerState(StrEnum):
    """States that are written into a mailbox; expired and unknown follow from its absence."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"


class Answer(Frozen):
    """What lies in a mailbox.

    `reply` is the JSON text of the question's own reply type: text, so that nobody has to parse a long reply
    to learn its state, and whoever wants it parses it once.
    """

    state: AnswerState
    reply: str | None = None
    failure: Failure | None = None


def _cut(detail: str) -> str:
    """Outcomes are kept by the hundred thousand: no address or traceback may make one large."""
    return detail if len(detail) <= MAX_DETAIL else f"{detail[: MAX_DETAIL - 1]}…"


class ItemFailure(Frozen):
    """An item of a chunk that was given up, or will be tried again as part of the job `retried_as`."""

    product_id: str
    name: str | None
    reason: Reason
    detail: Annotated[str, AfterValidator(_cut)]
    retried_as: str | None = None


class Outcome(Frozen):
    """What became of a chunk; kept for a while under `keys.outcome(job_id)`."""

    applied: int
    """Items whose change is committed, or was already superseded by a newer one."""
    failures: tuple[ItemFailure, ...] = ()
