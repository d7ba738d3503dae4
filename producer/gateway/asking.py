"""From requests to calls of the producer: what is added, removed, and asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from producer.browsing import PastLookup
from producer.client import Producer
from producer.errors import InvalidRequest
from producer.gateway import answers
from producer.gateway.bodies import Body
from producer.gateway.documents import (
    MAX_PRODUCTS,
    PICTURE,
    UPLOAD,
    Batch,
    Picked,
    PicturedProduct,
    PicturedQuestion,
    Product,
    Question,
)
from producer.gateway.documents_lookbook import PastQuestion
from producer.gateway.problems import Refusal, Refused, refuse
from producer.gateway.questions import new
from producer.pictures import PictureSource
from producer.rows import Row
from producer.selection import Options, selection

PRODUCTS, LOOKUP = "products", "lookup"
"""The parts of a form that hold the document."""
DISLIKED = "disliked_image"


def add(shop: Producer, body: Body) -> dict[str, Any]:
    """Add products; all are judged before any is accepted. Raises Refused and what `add_many` raises."""
    return answers.accepted(shop.add_many(list(_rows(body)), when_full="raise"))


def remove(shop: Producer, product_id: str, version: int | None) -> dict[str, Any]:
    """Take a product out. Raises what `remove` raises."""
    return answers.accepted(shop.remove(product_id, version=version, when_full="raise"))


def ask(shop: Producer, body: Body) -> dict[str, Any]:
    """Ask what a request asks; the lookup's id. Raises Refused, and what `find_similar` raises."""
    value = body.value()
    if isinstance(value, dict) and "product_ids" in value and not body.multipart:
        batch = body.read(Batch)
        asked = shop.find_similar_many(
            batch.product_ids, batch.limit, batch.where, **_options(batch)
        )
        return {"id": asked.id}
    question = body.read(PicturedQuestion if body.multipart else Question)
    lookup = shop.find_similar(
        question.product_id,
        image=_pictures(question.image, body, PICTURE),
        disliked=question.disliked or (),
        disliked_image=_pictures(question.disliked_image, body, DISLIKED),
        limit=question.limit,
        where=question.where,
        **_options(question),
    )
    return {"id": lookup.id}


def _rows(body: Body) -> Iterator[Row]:
    unused = set(body.files)
    for number, each in enumerate(_products(body), start=1):
        image: PictureSource = each.image
        if each.image.startswith(UPLOAD):
            part = each.image.removeprefix(UPLOAD)
            unused.discard(part)
            image = _only(body, part, number)
        row = Row(each.product_id, image, each.name, each.category, each.attributes, each.version)
        try:
            row.item(0)
        except InvalidRequest as error:
            raise InvalidRequest(f"product {number}: {error}") from None
        yield row
    if unused:
        raise _invalid(f"no product names the picture {min(unused)!r}: write {UPLOAD}{min(unused)}")


def _products(body: Body) -> Sequence[Product | PicturedProduct]:
    if body.multipart:
        _no_texts(body, PRODUCTS, ())
        return body.read_many(PicturedProduct, MAX_PRODUCTS)
    return body.read_many(Product, MAX_PRODUCTS)


def _only(body: Body, part: str, number: int) -> bytes:
    found = body.pictures(part)
    if len(found) != 1:
        raise _invalid(
            f"product {number}: {len(found)} parts of the form are called {part!r}, and its picture is one"
        )
    return found[0]


def _pictures(named: list[str] | None, body: Body, part: str) -> list[PictureSource]:
    """The pictures that are named in the document, and those that the form brings."""
    if part == PICTURE:
        _no_texts(body, LOOKUP, (PICTURE, DISLIKED))
        if unknown := set(body.files) - {PICTURE, DISLIKED}:
            raise _invalid(f"there is no part {min(unknown)!r}: call it {PICTURE} or {DISLIKED}")
    texts: Sequence[str] = body.texts.get(part, ())
    if bad := [each for each in texts if "://" not in each]:
        raise _invalid(f"{part}: {bad[0][:60]!r} is no address: send a file, or an address")
    return [*(named or ()), *texts, *body.pictures(part)]


def _no_texts(body: Body, document: str, allowed: Sequence[str]) -> None:
    if unknown := set(body.texts) - set(allowed):
        raise _invalid(f"there is no field {min(unknown)!r}: put it into the JSON of {document!r}")


def of_the_past(body: Body, lifetime: float) -> PastLookup | None:
    """The question to a kept generation, if a request asks one. Raises Refused and InvalidRequest."""
    value = body.value()
    if body.multipart or not isinstance(value, dict) or "generation" not in value:
        return None
    asked = body.read(PastQuestion)
    return new(
        PastLookup,
        lifetime,
        product_id=asked.product_id,
        generation=asked.generation,
        selection=selection(asked.limit, asked.where, **_options(asked)),
    )


def _options(picked: Picked) -> Options:
    return Options(
        min_similarity=picked.min_similarity,
        collapse=picked.collapse,
        at_most=picked.at_most,
        diversity=picked.diversity,
    )


def _invalid(detail: str) -> Refused:
    return refuse(Refusal.INVALID_REQUEST, detail)
