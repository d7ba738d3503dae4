"""Small pictures of products, for whoever shows them."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from db.queries import catalogue
from db.session import Database
from producer.messages import Thumbnail, ThumbnailReply


def thumbnails(database: Database, images: Sequence[tuple[str, str]]) -> ThumbnailReply:
    """Give the JPEGs that exist of `(product_id, name)`, in the order asked."""
    with database.reading() as session:
        found = catalogue.thumbnails(session, images)
    return ThumbnailReply(
        thumbnails=tuple(
            Thumbnail(product_id=image[0], name=image[1], jpeg=base64.b64encode(jpeg).decode())
            for image in images
            if (jpeg := found.get(image)) is not None
        )
    )
