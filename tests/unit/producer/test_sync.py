"""Comparing a shop's catalogue with what the double remembers."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer import InvalidRequest, RecordingProducer, Row, ServiceUnresponsive
from producer.comparison import MAX_COMPARED
from producer.messages import RemoveChunk
from producer.sync import BadRow


def rows(*ids: str, **more: object) -> list[dict[str, object]]:
    """A catalogue."""
    return [{"product_id": id_, "image": f"/pictures/{id_}.jpg", **more} for id_ in ids]


def test_only_what_differs_is_sent() -> None:
    shop = RecordingProducer()
    shop.add_many(rows("a", "b"))
    compared: list[int] = []
    synced = shop.sync([*rows("a", "c"), *rows("b", category="dress")], progress=compared.append)
    assert (synced.compared, synced.same, synced.missing, synced.changed) == (3, 1, 1, 1)
    assert (synced.sent, synced.others, synced.removed) == (2, 0, 0)
    assert [item.product_id for item in shop.added[2:]] == ["c", "b"]
    assert compared == [3]
    again = shop.sync([*rows("a", "c"), *rows("b", category="dress")])
    assert (again.same, again.sent, again.receipts) == (3, 0, ())


def test_what_the_shop_does_not_have_is_removed_only_when_asked() -> None:
    shop = RecordingProducer()
    shop.add_many(rows("a", "b", "c"))
    synced = shop.sync(rows("a"))
    assert (synced.others, synced.removed, shop.removed) == (2, 0, ())
    synced = shop.sync(rows("a"), delete=True)
    assert (synced.others, synced.removed, shop.removed) == (2, 2, ("b", "c"))
    assert shop.sync(rows("a")).others == 0


def test_a_removal_is_no_newer_than_what_it_removes() -> None:
    """So that what is added meanwhile stays, and what a shop numbers by itself can be added again."""
    shop = RecordingProducer()
    shop.add("old", "/old.jpg", version=3)
    shop.add("old", "/back.jpg", name="back", version=4)
    shop.add("older", "/older.jpg", version=2)
    assert shop.sync(rows("a"), delete=True).removed == 2
    removals = [
        (item.product_id, item.version)
        for job in shop._recording.jobs
        if isinstance(job, RemoveChunk)
        for item in job.items
    ]
    assert removals == [("old", 4), ("older", 2)]


def test_nothing_is_sent_in_a_dry_run() -> None:
    shop = RecordingProducer()
    shop.add_many(rows("old"))
    synced = shop.sync(rows("a", "b"), delete=True, dry_run=True)
    assert (synced.missing, synced.others, synced.removed) == (2, 1, 0)
    assert len(shop.added) == 1
    assert shop.removed == ()


def test_an_empty_catalogue_removes_nothing() -> None:
    shop = RecordingProducer()
    shop.add_many(rows("a"))
    with pytest.raises(InvalidRequest, match="there are no rows"):
        shop.sync([], delete=True)
    assert shop.sync([]).others == 1


def test_a_bad_row_is_named_and_those_before_it_are_sent() -> None:
    shop = RecordingProducer()
    with pytest.raises(BadRow, match=r"^row 601: a product id"):
        shop.sync([*rows(*(f"p{i}" for i in range(600))), {"product_id": "", "image": "/x.jpg"}])
    assert len(shop.added) == MAX_COMPARED


def test_bytes_are_compared_by_their_digest_and_files_when_asked(tmp_path: Path) -> None:
    shop = RecordingProducer()
    file = tmp_path / "a.jpg"
    file.write_bytes(b"one")
    asked = []

    def digests(*, checksum: bool = False) -> list[str | None]:
        shop.sync([Row("a", file), Row("b", b"two"), Row("c", "/nowhere.jpg")], checksum=checksum)
        asked.append(shop._recording.questions[-2])
        return [picture.sha256 for picture in asked[-1].pictures]  # type: ignore[attr-defined]

    plain, checked = digests(), digests(checksum=True)
    assert [each is None for each in plain] == [True, False, True]
    assert [each is None for each in checked] == [False, False, True]
    assert plain[1] == checked[1]


def test_a_service_that_does_not_answer_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.client.ANSWERED_IN", 0.01)
    shop = RecordingProducer()
    shop.stays_silent()
    with pytest.raises(ServiceUnresponsive):
        shop.sync(rows("a"))
    assert shop.added == ()
