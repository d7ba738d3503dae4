"""Questions that compare a shop's own catalogue with the service's: what is there as it should be, what else."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from producer.messages import (
    Attributes,
    Category,
    Frozen,
    ImageName,
    ImageRef,
    ProductId,
    Question,
    Queue,
)

MAX_COMPARED = 500
PAGE = 5000
"""Products that a reply lists at most."""


class Pictured(Frozen):
    """A picture of a product as the shop has it."""

    product_id: ProductId
    name: ImageName
    image: ImageRef
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of its bytes, where the shop has looked at them: then they are compared, and not where they are from."""
    category: Category | None
    attributes: Attributes
    version: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """What the shop would send it with; None for one that is greater than all before."""


class Verdict(StrEnum):
    """How the catalogue's picture compares with the shop's."""

    SAME = "same"
    MISSING = "missing"
    """Never there, removed, or without a vector of the model that is in use."""
    CHANGED = "changed"
    """Of other bytes or from elsewhere, or the product has another category or other attributes."""
    SUPERSEDED = "superseded"
    """It differs, but the catalogue has a version that is as new: sending it would change nothing."""


class Comparison(Question):
    """Are these pictures in the catalogue, as they are described?"""

    task: ClassVar[str] = "lookalike.compare"
    queue: ClassVar[Queue] = Queue.CONTROL
    kept: ClassVar[float] = 60.0
    pictures: Annotated[tuple[Pictured, ...], Field(min_length=1, max_length=MAX_COMPARED)]


class ComparisonReply(Frozen):
    """A verdict for each picture, in the order asked."""

    verdicts: tuple[Verdict, ...]


class ProductList(Question):
    """Which products are in the catalogue? A page of them, in the order in which they first came."""

    task: ClassVar[str] = "lookalike.products"
    queue: ClassVar[Queue] = Queue.CONTROL
    kept: ClassVar[float] = 60.0
    after: Annotated[int, Field(ge=0)] = 0
    """Where the page before ended."""


class ProductPage(Frozen):
    """Products with a live picture, each with the newest version of its pictures and its attributes."""

    products: tuple[tuple[str, int], ...]
    next: int | None
    """What to ask for the next page with; None after the last."""
