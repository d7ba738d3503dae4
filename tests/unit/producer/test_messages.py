"""The wire contract: what is written is read back, and nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from producer import messages
from producer.ids import new_id
from producer.messages import (
    BytesImage,
    ImageItem,
    IngestChunk,
    Match,
    Message,
    PathImage,
    PictureLookup,
    ProductLookup,
    Queue,
    Range,
    RemoveChunk,
    TasteLookup,
    UrlImage,
)

printable = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), min_size=1, max_size=20
)
scalars = (
    st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | printable
)
images = (
    st.builds(PathImage, path=printable)
    | st.builds(UrlImage, url=printable.map("https://host/".__add__))
    | st.builds(BytesImage, key=st.text("0123456789abcdef", min_size=64, max_size=64))
)
items = st.builds(
    ImageItem,
    product_id=printable,
    name=printable,
    image=images,
    category=st.none() | printable,
    attributes=st.dictionaries(printable, scalars | st.lists(scalars, max_size=3), max_size=4),
    version=st.integers(0, 2**63 - 1),
)
chunks = st.builds(
    IngestChunk,
    id=st.builds(new_id),
    accepted_at=st.floats(0, 1e10),
    attempt=st.integers(1, 5),
    items=st.lists(items, min_size=1, max_size=3).map(tuple),
)


def lookup(**changes: Any) -> dict[str, Any]:
    return {"id": new_id(), "expires_at": 1.0, "product_ids": ["a"], **changes}


@given(chunks)
def test_a_chunk_survives_the_wire(chunk: IngestChunk) -> None:
    body = json.loads(json.dumps(chunk.model_dump(mode="json")))
    assert IngestChunk.parse(body) == chunk
    assert IngestChunk.parse(json.loads(chunk.model_dump_json())) == chunk


@pytest.mark.parametrize(
    "wrong",
    [
        {"v": 2},
        {"extra": 1},
        {"limit": 10},
        {"selection": {"limit": 0}},
        {"selection": {"limit": 1001}},
        {"selection": {"limit": "10"}},
        {"selection": {"limit": True}},
        {"selection": {"limit": 1, "more": 1}},
        {"selection": {"min_similarity": 1.1}},
        {"selection": {"min_similarity": float("nan")}},
        {"selection": {"collapse": -0.1}},
        {"selection": {"collapse": True}},
        {"selection": {"diversity": 1.1}},
        {"selection": {"diversity": None}},
        {"selection": {"at_most": {"brand": 0}}},
        {"selection": {"at_most": {"brand": 1.5}}},
        {"selection": {"at_most": {"": 1}}},
        {"selection": {"at_most": {"a\x00": 1}}},
        {"selection": {"at_most": {str(number): 1 for number in range(9)}}},
        {"product_ids": []},
        {"product_ids": [1]},
        {"product_ids": [""]},
        {"product_ids": ["x" * 256]},
        {"product_ids": ["a\x00"]},
        {"product_ids": ["a"] * 257},
        {"selection": {"where": {"price": {}}}},
        {"selection": {"where": {"price": {"lt": None}}}},
        {"selection": {"where": {"price": {"lt": float("nan")}}}},
        {"selection": {"where": {"price": {"lt": 1, "near": 2}}}},
        {"selection": {"where": {"size": []}}},
        {"selection": {"where": {"size": float("inf")}}},
        {"selection": {"where": {"size": "\x00"}}},
        {"selection": {"where": {"": 1}}},
        {"id": "1"},
    ],
)
def test_a_message_that_is_not_exactly_right_is_refused(wrong: dict[str, Any]) -> None:
    assert ProductLookup.parse(lookup()).selection.limit == 10
    with pytest.raises(ValidationError):
        ProductLookup.parse(lookup(**wrong))


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (TasteLookup, {}),
        (TasteLookup, {"liked": [""]}),
        (TasteLookup, {"liked": ["a"] * 65}),
        (TasteLookup, {"liked": ["a"], "disliked": ["b"] * 65}),
        (PictureLookup, {}),
        (PictureLookup, {"liked": ["a"]}),
        (PictureLookup, {"disliked_images": [{"kind": "path", "path": "/a"}]}),
        (PictureLookup, {"images": [{"kind": "path", "path": "/a"}] * 9}),
    ],
)
def test_a_taste_needs_something_to_look_like(
    kind: type[TasteLookup | PictureLookup], wrong: dict[str, Any]
) -> None:
    envelope = {"id": new_id(), "expires_at": 1.0}
    picture = {"kind": "path", "path": "/a"}
    assert TasteLookup.parse({**envelope, "liked": ["a"]}).disliked == ()
    assert PictureLookup.parse({**envelope, "images": [picture]}).images == (PathImage(path="/a"),)
    PictureLookup.parse({**envelope, "liked": ["a"], "disliked_images": [picture]})
    with pytest.raises(ValidationError):
        kind.parse({**envelope, **wrong})


@pytest.mark.parametrize(
    "attributes",
    [
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": {"b": 1}},
        {"a": [[1]]},
        {"a": "\x00"},
        {"a": "\ud800"},
        {"a\x00": 1},
        {str(number): number for number in range(65)},
    ],
)
def test_attributes_that_no_database_could_hold_are_refused(attributes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ImageItem(product_id="a", image=PathImage(path="/a"), attributes=attributes, version=1)


def test_every_message_has_a_task_of_its_own_and_a_queue() -> None:
    kinds = [
        kind
        for kind in vars(messages).values()
        if isinstance(kind, type) and issubclass(kind, Message) and "task" in vars(kind)
    ]
    assert len(kinds) == len({kind.task for kind in kinds}) == 10
    assert all(kind.task.startswith("lookalike.") for kind in kinds)
    assert {kind.queue for kind in kinds} == set(Queue)


def test_removals_and_lookups_never_wait_behind_pictures() -> None:
    assert Queue.INGEST not in {
        kind.queue for kind in (RemoveChunk, ProductLookup, TasteLookup, PictureLookup)
    }


def test_a_range_needs_a_bound() -> None:
    for bounds in ({}, {"lt": None}):
        with pytest.raises(ValidationError):
            Range(**bounds)
    assert Range(lt=5.0, ge=None).lt == 5.0


def test_similarity_is_the_cosine_of_unit_vectors_at_that_distance() -> None:
    def similarity(distance: float) -> float:
        return Match(product_id="a", name="main", distance=distance).similarity

    assert similarity(0.0) == 1.0
    assert similarity(2**0.5) == pytest.approx(0.0)
    assert similarity(2.0) == -1.0
