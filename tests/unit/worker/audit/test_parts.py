"""The parts of an audit that need neither a database nor an index."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from db.queries.audit import AuditedImage, Recorded
from producer.messages import MAX_CHUNK, ImageItem, PathImage, UrlImage
from worker.audit.embeddings import vet
from worker.audit.findings import EXAMPLES, Example, Flaw, Kind, Tally
from worker.audit.requeue import chunked, item_of
from worker.audit.unused import Used

DIMENSION = 4


def row(pk: int, vector: bytes | None, **more: Any) -> AuditedImage:
    """A picture with an embedding."""
    values: dict[str, Any] = {
        "image_pk": pk,
        "product_pk": pk,
        "category": None,
        "attributes": {},
        "removed": False,
        "revision": 1,
        "product_revision": 1,
        "content_sha256": bytes(32),
        "dimension": None if vector is None else DIMENSION,
        "vector": vector,
    }
    return AuditedImage(**(values | more))


def numbers(*values: float) -> bytes:
    """A vector as SQL has it."""
    return np.array(values, "<f4").tobytes()


# -- embeddings -----------------------------------------------------------------------------------


def test_only_vectors_of_the_right_kind_are_usable() -> None:
    rows = [
        row(1, numbers(1, 0, 0, 0)),
        row(2, None),
        row(3, None, removed=True),
        row(4, numbers(1, 0, 0)),
        row(5, numbers(1, 0, 0, 0), dimension=3),
        row(6, numbers(float("inf"), 0, 0, 0)),
        row(7, numbers(0.5, 0.5, 0.5, 0.5)),
        row(8, numbers(0, 0, 0, 0.9)),
        row(9, b""),
        row(10, numbers(1.0005, 0, 0, 0), removed=True),
    ]
    vetted = vet(rows, DIMENSION)
    assert [each.image_pk for each in vetted.usable] == [1, 7, 10]
    assert vetted.vectors.shape == (3, DIMENSION)
    assert vetted.vectors[1].tolist() == [0.5] * 4
    assert {(each.image_pk, each.kind, each.detail) for each in vetted.flaws} == {
        (2, Kind.MISSING_EMBEDDING, None),
        (4, Kind.BAD_EMBEDDING, "12 bytes, for 4 numbers"),
        (5, Kind.BAD_EMBEDDING, "16 bytes, for 4 numbers"),
        (6, Kind.BAD_EMBEDDING, "not finite"),
        (8, Kind.BAD_EMBEDDING, "of length 0.9"),
        (9, Kind.BAD_EMBEDDING, "0 bytes, for 4 numbers"),
    }


def test_a_block_without_embeddings_is_no_trouble() -> None:
    assert vet([], DIMENSION).usable == []
    assert vet([row(1, None)], DIMENSION).vectors.shape == (0, DIMENSION)


# -- findings -------------------------------------------------------------------------------------


def test_a_tally_counts_all_and_names_a_few() -> None:
    tally = Tally()
    for pk in range(1, 20):
        tally.picture(Flaw(pk, Kind.NOT_LIVE))
    tally.add(Kind.LITTER, "a", "b")
    tally.add(Kind.OVERLAY_LARGE, count=7)
    tally.add(Kind.DOUBLED, count=0)
    assert tally.image_pks == list(range(1, EXAMPLES + 1))
    live, litter, large = tally.findings({1: ("sku", "main"), 2: ("sku", "side")})
    assert (live.kind, live.count, live.is_gap) == (Kind.NOT_LIVE, 19, True)
    assert live.examples[:2] == (Example("sku", "main"), Example("sku", "side"))
    assert live.examples[2] == Example(detail="picture 3, which the catalogue does not have")
    assert (litter.count, [each.detail for each in litter.examples]) == (2, ["a", "b"])
    assert (large.count, large.examples, large.is_gap) == (7, (), False)


# -- what is used ---------------------------------------------------------------------------------


def digest(number: int) -> bytes:
    """Of some bytes."""
    return hashlib.sha256(str(number).encode()).digest()


def test_what_no_picture_has_is_unused() -> None:
    used = Used(
        [[digest(i) for i in range(50)], [], [digest(3)], [digest(i) for i in range(50, 99)]]
    )
    wanted = sorted(digest(i) for i in range(90, 110))
    assert set(used.without(wanted)) == {digest(i) for i in range(99, 110)}
    assert used.without([]) == []
    assert Used([]).without([digest(1), b"short"]) == [digest(1), b"short"]
    assert Used([[b"short"]]).without([b"short"]) == []


# -- embedding again ------------------------------------------------------------------------------


def recorded(source: str, **more: Any) -> Recorded:
    """A live picture that came from there."""
    values: dict[str, Any] = {
        "image_pk": 1,
        "product_id": "sku",
        "name": "side",
        "source": source,
        "content_sha256": digest(1),
        "version": 17,
        "category": "dress",
        "attributes": {"price": 1.5, "sizes": ["S", "M"]},
    }
    return Recorded(**(values | more))


@pytest.mark.parametrize(
    ("source", "image"),
    [
        ("/shop/1.jpg", PathImage(path="/shop/1.jpg")),
        ("https://cdn.example/1.jpg", UrlImage(url="https://cdn.example/1.jpg")),
        ("http://cdn.example/1.jpg", UrlImage(url="http://cdn.example/1.jpg")),
    ],
)
def test_a_picture_is_asked_for_where_it_came_from_in_its_own_version(
    source: str, image: PathImage | UrlImage
) -> None:
    assert item_of(recorded(source)) == ImageItem(
        product_id="sku",
        name="side",
        image=image,
        category="dress",
        attributes={"price": 1.5, "sizes": ["S", "M"]},
        version=17,
    )


@pytest.mark.parametrize("source", ["bytes", "bytes:0123456789abcdef", "", "1.jpg", "ftp://a/b"])
def test_what_came_as_bytes_cannot_be_asked_for(source: str) -> None:
    assert item_of(recorded(source)) is None
    assert item_of(recorded("/a.jpg", attributes={"price": float("nan")})) is None


def items(*digests: int) -> list[tuple[bytes, ImageItem]]:
    """Pictures of these bytes."""
    return [
        (
            digest(each),
            ImageItem(product_id=f"p{place}", image=PathImage(path=f"/{each}"), version=1),
        )
        for place, each in enumerate(digests)
    ]


def paths(chunks: list[list[ImageItem]]) -> list[list[str]]:
    """The sources of each message's pictures."""
    return [
        [item.image.path for item in chunk if isinstance(item.image, PathImage)] for chunk in chunks
    ]


def test_pictures_of_the_same_bytes_go_in_one_message() -> None:
    chunks = paths(list(chunked(items(1, 2, 3, 1, 2, 3, 4, 4, 5), size=3)))
    assert sorted(path for chunk in chunks for path in chunk) == sorted(
        ["/1", "/2", "/3"] * 2 + ["/4", "/4", "/5"]
    )
    for path in ("/1", "/2", "/3", "/4", "/5"):
        assert sum(path in chunk for chunk in chunks) == 1
    assert all(len(chunk) <= 4 for chunk in chunks)


@pytest.mark.parametrize("size", [1, 32, MAX_CHUNK])
def test_no_message_is_larger_than_it_may_be(size: int) -> None:
    sent = items(*[1] * 150, *[2] * 40, *range(3, 100), *[100] * 64, *[101] * 65)
    chunks = list(chunked(sent, size))
    assert sum(map(len, chunks)) == len(sent)
    assert max(map(len, chunks)) <= MAX_CHUNK
    assert min(map(len, chunks)) >= 1
    assert list(chunked([], size)) == []
