"""Questions of whoever looks at the service: what is in the catalogue and the index, and what was given up."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator

from producer.messages import Category, Frozen, ProductId, Question, Queue, Selection
from producer.reasons import Reason

MAX_PAGE = 200
"""Products, or failures, of one page."""
MAX_CATEGORIES = 1000
"""Categories that a reply lists."""
MAX_IDS = 1000
"""Failures that a question may name."""

PageSize = Annotated[int, Field(ge=1, le=MAX_PAGE)]
Number = Annotated[int, Field(ge=1, lt=2**63)]


class _Browsing(Question):
    """What somebody is waiting for in front of a page."""

    queue: ClassVar[Queue] = Queue.CONTROL
    kept: ClassVar[float] = 60.0


# -- the catalogue --------------------------------------------------------------------------------


class Browse(_Browsing):
    """Which products are there? A page of them, in the order of their ids' characters."""

    task: ClassVar[str] = "lookalike.browse"
    category: Category | None = None
    """Only those of this category; None: of any."""
    uncategorised: bool = False
    """Only those that have none."""
    prefix: Annotated[str, StringConstraints(max_length=255)] = ""
    """What their ids begin with."""
    after: ProductId | None = None
    """The id that the page before ended with."""
    limit: PageSize = 60


class Shown(Frozen):
    """A product as a page shows it."""

    product_id: str
    name: str
    """Of the picture to show: its main one, or the one that came first."""
    category: str | None
    attributes: dict[str, JsonValue]


class CataloguePage(Frozen):
    """Products with a live picture."""

    products: tuple[Shown, ...]
    more: bool
    """Whether there are others after the last."""


class CategoryList(_Browsing):
    """Which categories are there, and how large is each?"""

    task: ClassVar[str] = "lookalike.categories"


class CategoryCount(Frozen):
    """How many products a category has."""

    category: str | None
    """None: those without one."""
    products: int


class Categories(Frozen):
    """The largest categories first, and the number of all products. It may be some seconds old."""

    total: int
    categories: tuple[CategoryCount, ...]


# -- the index ------------------------------------------------------------------------------------


class GenerationList(_Browsing):
    """Which generations of the index are kept?"""

    task: ClassVar[str] = "lookalike.generations"


class KeptGeneration(Frozen):
    """A generation of the index whose files are there."""

    number: int
    model_name: str
    model_version: str
    """Digest of its model."""
    images: int
    revision: int
    recall: float
    """Measured recall@10 against exact search when it was built."""
    built_at: datetime
    current: bool
    """Whether it answers lookups."""


class Generations(Frozen):
    """Those that are kept, the newest first."""

    generations: tuple[KeptGeneration, ...]


class PastLookup(Question):
    """What did a kept generation say looks like this product? Answered from its files, by its own model.

    The reply is a BatchReply, as that of a ProductLookup. On the control queue, so that lookups do not wait for
    the seconds that opening a generation takes.
    """

    task: ClassVar[str] = "lookalike.past"
    queue: ClassVar[Queue] = Queue.CONTROL
    product_id: ProductId
    generation: Number
    selection: Selection = Field(default_factory=Selection)


# -- what was given up ----------------------------------------------------------------------------


class FailureList(_Browsing):
    """What was given up? A page of it, the newest first."""

    task: ClassVar[str] = "lookalike.failures"
    reason: Reason | None = None
    product_id: ProductId | None = None
    before: Number | None = None
    """The id that the page before ended with."""
    limit: PageSize = 50


class Failed(Frozen):
    """An item that was given up, and is kept until somebody requeues or discards it."""

    id: int
    product_id: str | None
    """None for a message that was refused."""
    name: str | None
    """Of the picture; None for a removal."""
    reason: str
    detail: str
    attempts: int
    at: datetime


class FailurePage(Frozen):
    """Items that were given up."""

    failures: tuple[Failed, ...]
    more: bool
    """Whether there are older ones."""


class _Chosen(_Browsing):
    """Some of what was given up: by their ids, by their reason, or every one."""

    ids: Annotated[tuple[Number, ...], Field(max_length=MAX_IDS)] = ()
    reason: Reason | None = None
    every: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if [bool(self.ids), self.reason is not None, self.every].count(True) != 1:
            raise ValueError("say which: their ids, a reason, or every one")
        return self


class Requeue(_Chosen):
    """Send these once more, as they were."""

    task: ClassVar[str] = "lookalike.requeue"


class Requeued(Frozen):
    """How many were sent again, and how many of those that were chosen are still kept.

    Kept are those that cannot be sent again, since their bytes are gone or their address was signed, and what did
    not fit on the queue or into the time that a question may take.
    """

    requeued: int
    left: int


class Discard(_Chosen):
    """Forget these for good."""

    task: ClassVar[str] = "lookalike.discard"


class Discarded(Frozen):
    """How many were forgotten, and how many are still kept, since the time was up."""

    discarded: int
    left: int
