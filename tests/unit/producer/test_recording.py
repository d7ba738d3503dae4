"""The test double: the same surface, the same checks, no Redis."""

from __future__ import annotations

import inspect
import socket
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from producer import (
    InvalidRequest,
    LookupFailed,
    LookupState,
    LookupTimeout,
    Match,
    PictureRejected,
    Producer,
    ProductNotFound,
    QueueFull,
    QueueUnavailable,
    Reason,
    RecordingProducer,
    UnknownJob,
    UnknownLookup,
)
from producer.ids import new_id
from producer.receipts import Receipt


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a recording must not connect")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("LOOKALIKE_REDIS_URL", "not even an address")


def test_what_is_added_and_removed_is_recorded() -> None:
    with RecordingProducer() as shop:
        receipt = shop.add("1", b"x", category="dress", price=5)
        shop.add_many(
            {"product_id": str(n), "image": "https://cdn.example/a.jpg"} for n in range(40)
        )
        shop.remove("7", "8")
    assert receipt.wait(0).applied == 1
    assert [item.product_id for item in shop.added[:3]] == ["1", "0", "1"]
    assert shop.added[0].attributes == {"price": 5}
    assert shop.removed == ("7", "8")
    assert list(shop.pictures.values()) == [b"x"]


def test_lookups_are_answered_as_told() -> None:
    shop = RecordingProducer()
    near = Match(product_id="2", name="back", distance=0.25, category="dress")
    shop.answers("1", [near, "3"])
    shop.answers(None, ["4"])
    lookup = shop.find_similar("1", limit=5, where={"category": "dress"})
    assert lookup.state is LookupState.DONE
    assert lookup.result().matches[0] == near
    assert [match.product_id for match in lookup.result().matches] == ["2", "3"]
    assert shop.find_similar("unheard of").result().matches == ()
    assert shop.find_similar(image=b"x").result().matches[0].product_id == "4"
    assert len(shop.find_similar("1", limit=1).result().matches) == 1
    assert shop.asked[0].selection.where == {"category": "dress"}
    assert shop.lookup(lookup.id).result() == lookup.result()


def test_several_together_are_answered_as_told() -> None:
    shop = RecordingProducer()
    shop.answers("1", ["one"])
    shop.answers(["1", "2"], ["both"])
    shop.answers(None, ["picture"])

    def found(*products: str, **more: Any) -> list[str]:
        reply = shop.find_similar(list(products), **more).result()
        return [match.product_id for match in reply.matches]

    assert found("1") == found("1", disliked="2") == ["one"]
    assert found("1", "2") == found("2", "1", disliked=["3"], at_most={"brand": 1}) == ["both"]
    assert found("1", "3") == []
    assert found("1", "2", image=b"x") == found("1", disliked_image=b"x") == ["picture"]
    assert [type(each).__name__ for each in shop.asked] == (
        ["ProductLookup", *["TasteLookup"] * 4, *["PictureLookup"] * 2]
    )
    assert shop.asked[3].selection.at_most == {"brand": 1}
    assert shop.find_similar("1").result().product_id == "1"
    assert shop.find_similar(["1", "2"]).result().product_id is None


def test_a_product_that_is_not_there_is_named_wherever_it_stands() -> None:
    shop = RecordingProducer()
    shop.does_not_know("7", "8")
    asked: list[dict[str, Any]] = [
        {"product_id": ["1", "7"]},
        {"product_id": ["7", "8"]},
        {"product_id": "1", "disliked": ["7", "8"]},
        {"image": b"x", "disliked": "7"},
        {"product_id": "7", "image": b"x"},
    ]
    for arguments in asked:
        lookup = shop.find_similar(**arguments)
        with pytest.raises(ProductNotFound) as caught:
            lookup.result()
        assert caught.value.product_id == "7"
        assert "7" in shop.batch(lookup.id).result().not_found


def test_a_batch_read_as_one_lookup_says_how_to_read_it() -> None:
    shop = RecordingProducer()
    shop.does_not_know("7")
    for ids in (["1", "2"], ["1", "7"]):
        lookup = shop.find_similar_many(ids)
        with pytest.raises(InvalidRequest, match=r"is a batch: read it with batch\("):
            shop.lookup(lookup.id).result()


def test_what_goes_wrong_can_be_rehearsed() -> None:
    shop = RecordingProducer()
    shop.does_not_know("1")
    with pytest.raises(ProductNotFound):
        shop.find_similar("1").result()
    assert shop.find_similar_many(["1", "2"]).result().not_found == ("1",)
    shop.fails(Reason.CORRUPT_IMAGE)
    with pytest.raises(PictureRejected):
        shop.find_similar(image=b"x").result()
    shop.fails(Reason.UNAVAILABLE)
    with pytest.raises(LookupFailed):
        shop.find_similar("1").result()
    shop.stays_silent()
    with pytest.raises(LookupTimeout):
        shop.find_similar("1").result(0)
    with pytest.raises(UnknownLookup):
        shop.lookup("nonsense").result()
    shop.is_full()
    with pytest.raises(QueueFull) as caught:
        shop.add("1", b"x", when_full="raise")
    assert caught.value.accepted == 0
    with pytest.raises(QueueFull, match="LOOKALIKE_MAX_BACKLOG"):
        shop.add("1", b"x", timeout=0)
    shop.remove("1")  # not held up by pictures
    shop.is_unavailable()
    with pytest.raises(QueueUnavailable):
        shop.add("1", b"x")


def test_decimals_become_floats_and_other_values_are_told_what_to_be() -> None:
    shop = RecordingProducer()
    shop.add("1", b"x", price=Decimal("49.90"), sizes=[Decimal(1), "M"])  # type: ignore[list-item]
    assert shop.added[0].attributes == {"price": 49.9, "sizes": [1.0, "M"]}
    shop.add_many([{"product_id": "2", "image": b"x", "price": Decimal("5.5")}])
    assert shop.added[1].attributes == {"price": 5.5}
    row = {"product_id": "3", "image": b"x", "since": date(2026, 1, 2)}
    with pytest.raises(
        InvalidRequest, match=r"'since' is a date: pass a string, number or boolean"
    ):
        shop.add_many([row])
    for wrong in ("NaN", "sNaN", "1e999"):
        with pytest.raises(InvalidRequest, match="'price' must be a finite number"):
            shop.add("4", b"x", price=Decimal(wrong))


def test_a_batch_has_a_length_and_gives_the_reply_about_a_product() -> None:
    shop = RecordingProducer()
    shop.answers("1", ["2"])
    shop.does_not_know("nowhere")
    batch = shop.find_similar_many(["1", "nowhere", "3"]).result()
    assert len(batch) == 2
    reply = batch.of("1")
    assert reply is not None
    assert [match.product_id for match in reply.matches] == ["2"]
    assert batch.of("nowhere") is None
    assert dict(batch) == {"replies": batch.replies, "not_found": ("nowhere",)}
    assert type(batch).model_validate_json(batch.model_dump_json()) == batch


def test_an_id_that_may_have_expired_elsewhere_says_so() -> None:
    shop = RecordingProducer()
    with pytest.raises(
        UnknownLookup, match=r"asked here, or it has expired .*LOOKALIKE_LOOKUP_TTL"
    ):
        shop.lookup("01890a5d-ac96-774b-bcce-b302099a8057").result()
    for fresh in (new_id(), "nonsense"):
        with pytest.raises(UnknownLookup, match="was asked here: check the id"):
            shop.lookup(fresh).result()


def test_a_job_that_nobody_knows_is_told_apart() -> None:
    shop = RecordingProducer()
    with pytest.raises(UnknownJob):
        Receipt("01890a5d-ac96-774b-bcce-b302099a8057", 1, shop._transport).wait(5)


def test_it_has_every_method_of_the_producer() -> None:
    for name, method in inspect.getmembers(Producer, inspect.isfunction):
        if not name.startswith("_"):
            double = getattr(RecordingProducer, name)
            assert inspect.signature(double) == inspect.signature(method)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda shop: shop.find_similar("1", limit=0), "limit must be .* from 1 to 1000, not 0"),
        (lambda shop: shop.find_similar("1", limit=-1), "not -1"),
        (lambda shop: shop.find_similar("1", limit=10**9), "not 1000000000"),
        (lambda shop: shop.find_similar("1", limit=True), "not True"),
        (lambda shop: shop.find_similar("1", limit="5"), "whole number"),
        (lambda shop: shop.find_similar(), "nothing to look like: give a product id or image="),
        (lambda shop: shop.find_similar([], image=[]), "nothing to look like"),
        (lambda shop: shop.find_similar(disliked="1"), "nothing to look like"),
        (lambda shop: shop.find_similar(disliked_image=b"x"), "nothing to look like"),
        (lambda shop: shop.find_similar("1", disliked=["2", "1"]), "'1' is both liked and dis"),
        (lambda shop: shop.find_similar(image=b"x", disliked_image=b"x"), "same picture is both"),
        (lambda shop: shop.find_similar(["1", 2]), r"pass str\(2\)"),
        (lambda shop: shop.find_similar({"1": 2}), "must be a string, not dict"),
        (lambda shop: shop.find_similar("1", disliked=[""]), "1 to 255 characters"),
        (lambda shop: shop.find_similar(map(str, range(65))), "64 products can be liked .* not 65"),
        (lambda shop: shop.find_similar("a", disliked=map(str, range(65))), "can be disliked"),
        (lambda shop: shop.find_similar(image=[b"x"] * 9), "8 pictures can be liked .* not 9"),
        (lambda shop: shop.find_similar("1", disliked_image=[b"x"] * 9), "can be disliked"),
        (lambda shop: shop.find_similar(image=["/a", 5]), "a picture must be .* not int"),
        (lambda shop: shop.find_similar(image={"/a"}), "a picture must be .* not set"),
        (lambda shop: shop.find_similar("1", min_similarity=80), r"\(0.8 is 80%\) .* not 80"),
        (lambda shop: shop.find_similar_many(["1"], diversity=2), "diversity must be"),
        (lambda shop: shop.find_similar_many(map(str, range(26)), 1000), "at most 25,600"),
        (lambda shop: shop.find_similar(42), r"pass str\(42\)"),
        (lambda shop: shop.find_similar(""), "1 to 255 characters, not 0"),
        (lambda shop: shop.find_similar("a\x00"), "NUL"),
        (lambda shop: shop.find_similar("1", where={"a": None}), "condition on 'a'"),
        (lambda shop: shop.find_similar_many([]), "at least one"),
        (lambda shop: shop.find_similar_many("abc"), "not one string"),
        (lambda shop: shop.find_similar_many(5), "list of strings"),
        (lambda shop: shop.find_similar_many(["a"] * 257), "at most 256"),
        (lambda shop: shop.remove(), "at least one"),
        (lambda shop: shop.remove("a", version=-1), "version"),
        (lambda shop: shop.lookup(""), "id is a string"),
        (lambda shop: shop.add("a" * 256, b"x"), "not 256"),
        (lambda shop: shop.add("a", b"x", category=5), "category"),
        (lambda shop: shop.add("a", b"x", name=""), "name"),
        (lambda shop: shop.add("a", b"x", price=float("nan")), "'price' must be a finite number"),
        (lambda shop: shop.add("a", b"x", version=2**63), "version"),
        (lambda shop: shop.add("a", b"x", when_full="hope"), "'wait' or 'raise', not 'hope'"),
        (lambda shop: shop.add_many([5]), "row 1: a row must be"),
        (lambda shop: shop.thumbnails([("", "main")]), "at least 1 character"),
    ],
)
def test_what_no_worker_could_serve_is_refused_before_anything_is_sent(ask: Any, says: str) -> None:
    shop = RecordingProducer()
    with pytest.raises(InvalidRequest, match=says):
        ask(shop)
    assert not shop._recording.questions
    assert not shop._recording.jobs


def test_a_wrong_row_is_named_and_those_before_it_are_accepted() -> None:
    shop = RecordingProducer(chunk_size=2)
    rows: list[Any] = [{"product_id": str(number), "image": b"x"} for number in range(3)]
    with pytest.raises(InvalidRequest, match=r"row 4: image missing.*the 3 rows before it were"):
        shop.add_many([*rows, {"product_id": "3"}, *rows])
    assert [item.product_id for item in shop.added] == ["0", "1", "2"]


def test_an_error_of_the_rows_themselves_passes_through() -> None:
    def rows() -> Any:
        yield {"product_id": "1", "image": b"x"}
        raise KeyError("the shop's own")

    shop = RecordingProducer()
    with pytest.raises(KeyError):
        shop.add_many(rows())
    assert len(shop.added) == 1


def test_chunks_are_as_large_as_set_and_closed_early_by_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop = RecordingProducer(chunk_size=4)
    seen: list[int] = []
    rows = [{"product_id": str(number), "image": "/a.jpg"} for number in range(10)]
    receipts = shop.add_many(rows, progress=seen.append)
    assert [receipt.items for receipt in receipts] == [4, 4, 2]
    assert seen == [10]
    monkeypatch.setattr("producer.chunks.CHUNK_BYTES", 10)
    large = [{"product_id": str(number), "image": bytes([number]) * 6} for number in range(4)]
    assert [receipt.items for receipt in shop.add_many(large)] == [2, 2]


def test_versions_grow_in_the_order_of_the_calls() -> None:
    shop = RecordingProducer()
    shop.add_many({"product_id": str(number), "image": "/a.jpg"} for number in range(100))
    shop.add("1", b"x", version=5)
    versions = [item.version for item in shop.added]
    assert versions[:100] == sorted(set(versions[:100]))
    assert versions[100] == 5
