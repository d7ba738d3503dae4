"""What a question is about, and which message asks it."""

from __future__ import annotations

import io
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from producer import InvalidRequest, RecordingProducer
from producer.messages import (
    BytesImage,
    PathImage,
    PictureLookup,
    ProductLookup,
    Selection,
    TasteLookup,
    UrlImage,
)

A, B, X = (
    PathImage(path="/a.jpg"),
    PathImage(path="/b.jpg"),
    BytesImage(key=sha256(b"x").hexdigest()),
)


def asked(*products: Any, **more: Any) -> ProductLookup | TasteLookup | PictureLookup:
    shop = RecordingProducer()
    shop.find_similar(*products, **more)
    return shop.asked[0]


@pytest.mark.parametrize("product", ["1", ["1"], ("1",), ["1", "1"], {"1"}, iter(["1"])])
def test_one_product_is_asked_about_by_itself(product: Any) -> None:
    question = asked(product, limit=3, where={"a": 1}, collapse=0)
    assert isinstance(question, ProductLookup)
    assert question.product_ids == ("1",)
    assert question.selection == Selection(limit=3, where={"a": 1}, collapse=0.0)


@pytest.mark.parametrize(
    ("products", "disliked", "sides"),
    [
        (["1", "2"], (), (("1", "2"), ())),
        (("2", "1", "2"), [], (("2", "1"), ())),
        ("1", "2", (("1",), ("2",))),
        (["1"], ("2", "3", "2"), (("1",), ("2", "3"))),
        (map(str, range(64)), map(str, range(64, 128)), None),
    ],
)
def test_several_products_are_a_taste(products: Any, disliked: Any, sides: Any) -> None:
    question = asked(products, disliked=disliked, diversity=0.5)
    assert isinstance(question, TasteLookup)
    assert sides is None or (question.liked, question.disliked) == sides
    assert question.selection == Selection(diversity=0.5)


@pytest.mark.parametrize(
    ("arguments", "asks"),
    [
        ({"image": "/a.jpg"}, {"images": (A,)}),
        ({"image": Path("/a.jpg")}, {"images": (A,)}),
        ({"image": b"x"}, {"images": (X,)}),
        ({"image": io.BytesIO(b"x")}, {"images": (X,)}),
        ({"image": ["/a.jpg", b"x", "/a.jpg"]}, {"images": (A, X)}),
        (
            {"image": ("https://cdn.example/a.jpg",)},
            {"images": (UrlImage(url="https://cdn.example/a.jpg"),)},
        ),
        ({"product_id": "1", "image": b"x"}, {"images": (X,), "liked": ("1",)}),
        ({"product_id": "1", "disliked_image": b"x"}, {"disliked_images": (X,), "liked": ("1",)}),
        (
            {"product_id": ["1"], "image": "/a.jpg", "disliked": "2", "disliked_image": ["/b.jpg"]},
            {"images": (A,), "disliked_images": (B,), "liked": ("1",), "disliked": ("2",)},
        ),
    ],
)
def test_any_picture_makes_it_a_question_with_pictures(
    arguments: dict[str, Any], asks: dict[str, Any]
) -> None:
    question = asked(**arguments, at_most={"brand": 1})
    assert isinstance(question, PictureLookup)
    sides = ("images", "disliked_images", "liked", "disliked")
    assert {side: getattr(question, side) for side in sides} == dict.fromkeys(sides, ()) | asks
    assert question.selection == Selection(at_most={"brand": 1})


def test_the_bytes_of_every_picture_travel_beside_the_question() -> None:
    shop = RecordingProducer()
    shop.find_similar("1", image=[b"x", "/a.jpg"], disliked_image=(io.BytesIO(b"y"), b"z"))
    assert sorted(shop.pictures.values()) == [b"x", b"y", b"z"]
    assert all(sha256(data).hexdigest() == key for key, data in shop.pictures.items())


@pytest.mark.parametrize(
    "wrong", [{"product_id": 5}, {"limit": 0}, {"disliked": [""]}, {"disliked_image": [b"x"] * 9}]
)
def test_no_file_is_read_for_a_question_that_is_refused_anyway(wrong: dict[str, Any]) -> None:
    file = io.BytesIO(b"x")
    with pytest.raises(InvalidRequest):
        asked(image=[file], **wrong)
    assert file.tell() == 0


def test_an_option_that_there_is_not_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="at_least"):
        asked("1", at_least=0.5)
