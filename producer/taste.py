"""A taste: the products and pictures that matches should look like, and those that they should not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast

from producer import checks
from producer.errors import InvalidRequest
from producer.messages import (
    MAX_PICTURES,
    MAX_TASTE,
    BytesImage,
    ImageRef,
    PictureLookup,
    ProductLookup,
    Question,
    Selection,
    TasteLookup,
)
from producer.pictures import PictureSource, to_ref

Products = str | Iterable[str]
"""The id of a product, or of several."""
Pictures = PictureSource | Sequence[PictureSource]
"""A picture, or a list or tuple of several."""


@dataclass(frozen=True)
class Taste:
    """What a question is about: each product and picture once, and none on both sides."""

    liked: tuple[str, ...] = ()
    disliked: tuple[str, ...] = ()
    images: tuple[ImageRef, ...] = ()
    disliked_images: tuple[ImageRef, ...] = ()
    sent: dict[str, bytes] = field(default_factory=dict)
    """Bytes that must travel beside the question, by their SHA-256."""

    @classmethod
    def of(
        cls,
        liked: Products | None,
        images: Pictures | None,
        disliked: Products | None,
        disliked_images: Pictures | None,
    ) -> Self:
        """The taste that a caller's arguments describe; files are read. Raises InvalidRequest."""
        products = _product_ids("liked", liked), _product_ids("disliked", disliked)
        sources = _sources("liked", images), _sources("disliked", disliked_images)
        if not products[0] and not sources[0]:
            raise InvalidRequest(
                "nothing to look like: give a product id or image= (what is disliked only leads away from it)"
            )
        sent: dict[str, bytes] = {}
        pictures = _refs(sources[0], sent), _refs(sources[1], sent)
        if both := set(products[0]) & set(products[1]):
            raise InvalidRequest(f"product {min(both)!r} is both liked and disliked: choose one")
        if set(pictures[0]) & set(pictures[1]):
            raise InvalidRequest("the same picture is both liked and disliked: choose one")
        return cls(*products, *pictures, sent)

    def question(self, selection: Selection, **envelope: Any) -> Question:
        """The message that asks for it: about one product alone, about several, or about pictures."""
        if self.images or self.disliked_images:
            return checks.build(
                PictureLookup,
                images=self.images,
                disliked_images=self.disliked_images,
                liked=self.liked,
                disliked=self.disliked,
                selection=selection,
                **envelope,
            )
        if len(self.liked) == 1 and not self.disliked:
            return checks.build(
                ProductLookup, product_ids=self.liked, selection=selection, **envelope
            )
        return checks.build(
            TasteLookup,
            liked=self.liked,
            disliked=self.disliked,
            selection=selection,
            **envelope,
        )


def _product_ids(side: str, value: object) -> tuple[str, ...]:
    """The ids of none, one or several products, each once."""
    if value is None:
        return ()
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        return (checks.product_id(value),)
    ids = tuple(dict.fromkeys(checks.product_id(each) for each in value))
    _at_most(MAX_TASTE, "products", side, ids)
    return ids


def _sources(side: str, value: Pictures | None) -> Sequence[PictureSource]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        return (cast("PictureSource", value),)  # to_ref looks closer
    _at_most(MAX_PICTURES, "pictures", side, value)
    return value


def _refs(sources: Sequence[PictureSource], sent: dict[str, bytes]) -> tuple[ImageRef, ...]:
    """How a message names the pictures, each once; their bytes, if any, go into `sent`."""
    refs: dict[ImageRef, None] = {}
    for source in sources:
        ref, data = to_ref(source)
        refs[ref] = None
        if data is not None and isinstance(ref, BytesImage):
            sent[ref.key] = data
    return tuple(refs)


def _at_most(most: int, what: str, side: str, given: Sequence[object]) -> None:
    if len(given) > most:
        raise InvalidRequest(f"at most {most} {what} can be {side} at once, not {len(given)}")
