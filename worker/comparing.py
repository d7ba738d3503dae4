"""Compares pictures as a shop describes them with those that are stored. Reads no file and asks no server."""

from __future__ import annotations

import json
import os.path
from collections.abc import Collection, Mapping

from db.queries import backfill, catalogue, models
from db.queries.catalogue import StoredImage
from db.session import Database
from producer.comparison import (
    PAGE,
    Comparison,
    ComparisonReply,
    Pictured,
    ProductList,
    ProductPage,
    Verdict,
)
from producer.messages import BytesImage, PathImage, StoreImage
from worker.images.errors import ImageError
from worker.images.web import bare

_NO_MODEL = 0


def compare(database: Database, question: Comparison) -> ComparisonReply:
    """A verdict for each picture. Raises DatabaseUnavailable."""
    ids = [picture.product_id for picture in question.pictures]
    with database.reading() as session:
        serving = models.serving(session)
        model, incoming = serving.active, serving.incoming
        stored = catalogue.stored_images(session, ids, model.pk if model else _NO_MODEL)
        digests = {each.content_sha256 for each in stored.values()}
        wanted = set()
        if incoming:
            given_up = backfill.given_up(session, incoming.pk, digests)
            wanted = given_up - catalogue.known_embeddings(session, given_up, incoming.pk)
    verdicts = (
        verdict(each, stored.get((each.product_id, each.name)), wanted)
        for each in question.pictures
    )
    return ComparisonReply(verdicts=tuple(verdicts))


def list_products(database: Database, question: ProductList) -> ProductPage:
    """The next products of the catalogue. Raises DatabaseUnavailable."""
    with database.reading() as session:
        found = catalogue.live_products(session, question.after, PAGE)
    last = found[-1][0] if len(found) == PAGE else None
    return ProductPage(products=tuple((id_, version) for _, id_, version in found), next=last)


def verdict(shops: Pictured, stored: StoredImage | None, wanted: Collection[bytes] = ()) -> Verdict:
    """How the stored picture compares with the shop's.

    `wanted` are bytes that a model which is rolled out could not have: their pictures are sent again.
    """
    if stored is None:
        return Verdict.MISSING
    if stored.live and _is_same(shops, stored):
        return Verdict.CHANGED if stored.content_sha256 in wanted else Verdict.SAME
    newest = stored.version if stored.live else stored.removed_version
    if shops.version is not None and shops.version <= newest:
        return Verdict.SUPERSEDED
    return Verdict.CHANGED if stored.live else Verdict.MISSING


def _is_same(shops: Pictured, stored: StoredImage) -> bool:
    if shops.sha256 is not None:
        same_picture = shops.sha256 == stored.content_sha256.hex()
    else:
        same_picture = _source(shops) == stored.source
    return (
        same_picture
        and shops.category == stored.category
        and _canonical(shops.attributes) == _canonical(stored.attributes)
    )


def _source(shops: Pictured) -> str | None:
    """What is stored as the source of such a picture."""
    image = shops.image
    if isinstance(image, PathImage):
        return os.path.realpath(image.path)
    if isinstance(image, BytesImage):
        return None
    if isinstance(image, StoreImage):
        return image.url
    try:
        return bare(image.url)
    except ImageError:  # no address: whoever fetches it will say so
        return None


def _canonical(attributes: Mapping[str, object]) -> str:
    """As text, in which 1, 1.0 and true differ, as they do for whoever filters by them."""
    return json.dumps(attributes, sort_keys=True)
