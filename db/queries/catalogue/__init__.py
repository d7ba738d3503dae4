"""Products, their pictures, and the vectors and thumbnails of the pictures' bytes."""

from __future__ import annotations

from db.merge import ImageChange, ProductRemoval
from db.queries.catalogue.applying import Applied, apply, reveal
from db.queries.catalogue.browsing import ShownProduct, Wanted, categories, page
from db.queries.catalogue.comparing import StoredImage, live_products, stored_images
from db.queries.catalogue.finding import (
    Counts,
    Described,
    Head,
    LiveProduct,
    count,
    describe,
    head,
    live_images,
)
from db.queries.catalogue.thumbnails import add_thumbnails, thumbnails
from db.queries.catalogue.vectors import (
    ChangedAttributes,
    ChangedImage,
    NewEmbedding,
    VectorBlock,
    add_embeddings,
    attributes_since,
    changes_since,
    count_changes_since,
    count_embedded,
    count_products_since,
    known_embeddings,
    stream_vectors,
    vectors_of,
)

__all__ = [
    "Applied",
    "ChangedAttributes",
    "ChangedImage",
    "Counts",
    "Described",
    "Head",
    "ImageChange",
    "LiveProduct",
    "NewEmbedding",
    "ProductRemoval",
    "ShownProduct",
    "StoredImage",
    "VectorBlock",
    "Wanted",
    "add_embeddings",
    "add_thumbnails",
    "apply",
    "attributes_since",
    "categories",
    "changes_since",
    "count",
    "count_changes_since",
    "count_embedded",
    "count_products_since",
    "describe",
    "head",
    "known_embeddings",
    "live_images",
    "live_products",
    "page",
    "reveal",
    "stored_images",
    "stream_vectors",
    "thumbnails",
    "vectors_of",
]
