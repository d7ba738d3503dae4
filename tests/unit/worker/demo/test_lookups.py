"""Lookups of the demo: what they measure, and what they complain about."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.reasons import Reason
from producer.recording import RecordingProducer
from producer.rows import Row
from tests.unit.worker.demo.factories import match, reply
from worker.demo.complaints import Complaints
from worker.demo.lookups import Answered, Refused, by_picture, by_product, precision


def answered(about: str, *categories: str) -> Answered:
    return Answered(about, reply(*(match("x", category) for category in categories)), 1.0)


def row(product_id: str, category: str | None) -> Row:
    return Row(product_id, b"", category=category)


def test_products_are_asked_one_at_a_time_and_timed() -> None:
    shop, complaints, done = RecordingProducer(), Complaints(), list[int]()
    shop.answers("a", ["b"])
    shop.answers("b", ["a"])
    found = by_product(shop, ["a", "b"], complaints, done.append)
    assert [each.about for each in found] == ["a", "b"]
    assert all(each.milliseconds > 0 for each in found)
    assert done == [1, 2]
    assert complaints.lines == ()


def test_pictures_are_sent_as_bytes(tmp_path: Path) -> None:
    shop, picture = RecordingProducer(), tmp_path / "new.png"
    picture.write_bytes(b"a picture")
    shop.answers(None, ["a"])
    (found,) = by_picture(shop, [Row("new", picture)], Complaints(), lambda _: None)
    assert isinstance(found, Answered)
    assert found.reply.matches[0].product_id == "a"
    assert list(shop.pictures.values()) == [b"a picture"]


def test_a_wrong_answer_is_a_complaint_and_the_rest_goes_on() -> None:
    shop, complaints = RecordingProducer(), Complaints()
    shop.answers("itself", ["itself"])
    shop.answers("fine", ["other"])
    shop.does_not_know("unknown")
    found = by_product(shop, ["itself", "nothing", "unknown", "fine"], complaints, lambda _: None)
    assert [each.about for each in found] == ["itself", "nothing", "fine"]
    assert len(complaints.lines) == 3
    assert "itself was found to look like itself" in complaints.lines
    assert "lookup of nothing: no matches" in complaints.lines
    assert "unknown" in complaints.lines[2]


def test_a_failed_lookup_is_a_complaint() -> None:
    shop, complaints = RecordingProducer(), Complaints()
    shop.fails(Reason.INTERNAL, "broken")
    assert by_product(shop, ["a"], complaints, lambda _: None) == []
    assert complaints.lines == ("lookup of a: broken (internal)",)


def test_a_picture_that_cannot_be_used_is_no_complaint(tmp_path: Path) -> None:
    shop, complaints, picture = RecordingProducer(), Complaints(), tmp_path / "broken.png"
    picture.write_bytes(b"not a picture")
    shop.fails(Reason.CORRUPT_IMAGE, "cut off")
    found = by_picture(shop, [Row("broken", picture)], complaints, lambda _: None)
    assert found == [Refused("broken", "cut off")]
    assert complaints.lines == ()


def test_precision_is_the_share_of_the_same_category() -> None:
    rows = [row("a", "dress"), row("b", "dress"), row("c", "shoe")]
    found = [
        answered("a", "dress", "dress"),
        answered("b", "dress", "shoe"),
        answered("c", "dress", "dress", "dress", "shoe"),
    ]
    judged = precision(rows, found)
    assert judged is not None
    assert judged.by_category == pytest.approx({"dress": 0.75, "shoe": 0.25})
    assert judged.mean == pytest.approx((1 + 0.5 + 0.25) / 3)


def test_without_categories_or_answers_there_is_no_precision() -> None:
    assert precision([row("a", None)], [answered("a", "dress")]) is None
    assert precision([row("a", "dress")], []) is None
    assert precision([row("a", "dress")], [answered("a")]) is None
