"""From requests to calls of the producer, without a server."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import pytest

from producer import InvalidRequest, QueueFull, RecordingProducer
from producer.gateway import asking
from producer.gateway.bodies import Body
from producer.gateway.documents import MAX_PRODUCTS
from producer.gateway.problems import Problem, Refusal, Refused, refused
from producer.messages import PictureLookup, ProductLookup
from producer.reasons import Reason

URL = "https://cdn.example/1.jpg"


def body(document: object) -> Body:
    return Body(json.dumps(document).encode())


def form(document: object, files: Mapping[str, bytes], **texts: str) -> Body:
    return Body(
        json.dumps(document).encode(),
        multipart=True,
        files={name: (io.BytesIO(data),) for name, data in files.items()},
        texts={name: (text,) for name, text in texts.items()},
    )


def test_products_reach_the_producer_as_they_were_said() -> None:
    shop = RecordingProducer()
    rows = [
        {"product_id": "1", "image": URL, "name": "back", "version": 5.0},
        {"product_id": "2", "image": "gs://bucket/key", "attributes": {"a": [1, True, "x"]}},
    ]
    assert asking.add(shop, body(rows))["accepted"] == 2
    first, second = shop.added
    assert (first.name, first.version, first.category) == ("back", 5, None)
    assert second.attributes == {"a": [1, True, "x"]}


def test_a_form_brings_the_bytes() -> None:
    shop = RecordingProducer()
    asking.add(shop, form({"product_id": "1"}, {"image": b"picture"}))
    asking.ask(shop, form({"limit": 3}, {"image": b"other"}, disliked_image=URL))
    assert set(shop.pictures.values()) == {b"picture", b"other"}
    (question,) = shop.asked
    assert isinstance(question, PictureLookup)
    assert [image.kind for image in question.disliked_images] == ["url"]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"product_id": "1"}, Refusal.MALFORMED),
        ({"product_id": "1", "image": "pictures/1.jpg"}, Refusal.MALFORMED),
        ({"product_id": "1", "image": "upload:image"}, Refusal.MALFORMED),
        ({"product_id": 1, "image": URL}, Refusal.MALFORMED),
        ({"product_id": "1", "image": URL, "price": 5}, Refusal.MALFORMED),
        ({"product_id": "1", "image": URL, "attributes": {"a": {}}}, Refusal.INVALID_REQUEST),
        (
            {"product_id": "1", "image": URL, "attributes": {"a": "x" * 9000}},
            Refusal.INVALID_REQUEST,
        ),
        ([], Refusal.MALFORMED),
        ("text", Refusal.MALFORMED),
        ([{"product_id": "1", "image": URL}] * (MAX_PRODUCTS + 1), Refusal.MALFORMED),
    ],
)
def test_wrong_products_are_refused_whole(document: object, reason: Refusal) -> None:
    shop = RecordingProducer()
    with pytest.raises(Refused) as error:
        asking.add(shop, body(document))
    assert error.value.problem.reason is reason
    assert not shop.added


def test_one_bad_product_among_many_is_named_and_none_is_sent() -> None:
    shop = RecordingProducer()
    good = {"product_id": "1", "image": URL}
    with pytest.raises(InvalidRequest, match="product 2: "):
        asking.add(shop, body([good, good | {"image": "https://a\u2100b/"}]))
    assert not shop.added


def test_a_batch_and_a_single_question_are_told_apart() -> None:
    shop = RecordingProducer()
    asking.ask(shop, body({"product_ids": ["1", "2"], "at_most": {"brand": 2.0}}))
    asking.ask(shop, body({"product_id": ["1"], "where": {"price": {"ge": 1, "lt": 2}}}))
    batch, single = shop.asked
    assert isinstance(batch, ProductLookup)
    assert batch.product_ids == ("1", "2")
    assert batch.selection.at_most == {"brand": 2}
    assert isinstance(single, ProductLookup)
    assert single.product_ids == ("1",)


def test_a_question_to_a_kept_generation_is_told_from_others() -> None:
    asked = {"product_id": "1", "generation": 3.0, "limit": 5, "diversity": 0.5}
    question = asking.of_the_past(body(asked), 60)
    assert question is not None
    assert (question.product_id, question.generation) == ("1", 3)
    assert (question.selection.limit, question.selection.diversity) == (5, 0.5)
    assert asking.of_the_past(body({"product_id": "1"}), 60) is None
    for wrong in ({"generation": 0}, {"product_id": ["1"]}, {"image": URL}):
        with pytest.raises(Refused) as error:
            asking.of_the_past(body(asked | wrong), 60)
        assert error.value.problem.reason is Refusal.MALFORMED


def test_what_a_request_says_does_not_depend_on_its_spelling() -> None:
    said = Body(b'{"a": 1, "b": [2]}').said("POST /x")
    assert said == Body(b'{"b":[2],\n"a":1}').said("POST /x")
    others = (Body(b'{"a": 1, "b": [3]}').said("POST /x"), Body(b'{"a":1,"b":[2]}').said("POST /y"))
    assert said not in others
    assert form({}, {"image": b"1"}).said("x") != form({}, {"image": b"2"}).said("x")
    assert form({}, {}, image="1").said("x") != form({}, {}, image="2").said("x")


def test_every_problem_has_a_document_and_passing_ones_say_when_to_come_again() -> None:
    for refusal in Refusal:
        problem = Refused(Problem.of(refusal, "Do this."))
        assert problem.problem.document["status"] == refusal.status
        assert ("Retry-After" in problem.headers) == (
            refusal.status == 503 or refusal is Refusal.KEY_IN_USE
        )
    for reason in Reason:
        assert Problem.of_lookup(reason, "x").document["reason"] == reason.value
    assert not {each.value for each in Refusal} & {each.value for each in Reason}


def test_the_queues_address_and_settings_are_not_told() -> None:
    full = QueueFull("5 jobs wait: raise LOOKALIKE_MAX_BACKLOG")
    full.accepted = 3
    problem = refused(full).problem
    assert "LOOKALIKE" not in problem.detail
    assert problem.document["accepted"] == 3
