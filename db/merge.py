"""What the newest messages say of products, whatever the order in which they come (invariant 2).

Pure: no database. The version in a message decides. A product's version decides its category and
attributes, an image's version its picture, and `removed_version` what is gone: a picture is live when its
version is above the removal's. Of two things that are said under one version, the one whose text is the greater
counts: either may, but always the same. Each of the three only grows, so messages commute, and a message that
comes twice changes nothing the second time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

NEVER = -1
"""Version of what no message has spoken of; messages start at 0."""


@dataclass(frozen=True)
class ImageChange:
    """A product's picture as a message describes it."""

    product_id: str
    name: str
    content_sha256: bytes
    """32 bytes: SHA-256 of the picture's bytes."""
    source: str
    category: str | None
    attributes: Mapping[str, Any]
    version: int


@dataclass(frozen=True)
class ProductRemoval:
    """A product taken out: beats every change of its version or a lower one."""

    product_id: str
    version: int


@dataclass(frozen=True)
class ImageState:
    """What is known of a picture."""

    content_sha256: bytes
    source: str
    version: int


@dataclass(frozen=True)
class ProductState:
    """What is known of a product and its pictures, by name."""

    category: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    version: int = NEVER
    removed_version: int = NEVER
    images: Mapping[str, ImageState] = field(default_factory=dict)

    def is_live(self, image: ImageState) -> bool:
        """Whether a lookup may show the picture."""
        return image.version > self.removed_version


@dataclass(frozen=True)
class Merged:
    """The state after the messages, and how many of them still counted."""

    products: dict[str, ProductState]
    applied: int
    superseded: int


def merge(
    before: Mapping[str, ProductState],
    changes: Iterable[ImageChange],
    removals: Iterable[ProductRemoval],
) -> Merged:
    """The state of the products that the messages speak of, from their state before.

    `before` needs the products of the messages only; one that is missing has never been heard of.
    A message is superseded when a newer one, or the same one, was there first.
    """
    products = dict(before)
    applied = superseded = 0
    messages: tuple[ImageChange | ProductRemoval, ...] = (*changes, *removals)
    for message in messages:
        known = products.get(message.product_id) or ProductState()
        if isinstance(message, ImageChange):
            counted, after = _change(known, message)
        else:
            counted, after = _remove(known, message)
        products[message.product_id] = after
        applied += counted
        superseded += not counted
    return Merged(products, applied, superseded)


def _change(product: ProductState, change: ImageChange) -> tuple[bool, ProductState]:
    image = product.images.get(change.name)
    picture = ImageState(change.content_sha256, change.source, change.version)
    newer = image is None or _order_of_image(picture) > _order_of_image(image)
    if newer:
        product = replace(product, images={**product.images, change.name: picture})
    if _says_more(change, product):
        product = replace(
            product,
            category=change.category,
            attributes=change.attributes,
            version=change.version,
        )
    return newer and change.version > product.removed_version, product


def _order_of_image(image: ImageState) -> tuple[int, bytes, str]:
    return image.version, image.content_sha256, image.source


def _says_more(change: ImageChange, product: ProductState) -> bool:
    if change.version != product.version:
        return change.version > product.version
    return _described(change) > _described(product)


def _described(said: ImageChange | ProductState) -> str:
    return json.dumps([said.category, dict(said.attributes)], sort_keys=True)


def _remove(product: ProductState, removal: ProductRemoval) -> tuple[bool, ProductState]:
    if removal.version <= product.removed_version:
        return False, product
    return True, replace(product, removed_version=removal.version)
