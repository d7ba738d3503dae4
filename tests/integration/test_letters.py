"""Dead letters that are sent again or discarded, from the command line and on both databases."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pytest
from pydantic import SecretStr, ValidationError
from redis import Redis

from db.queries import dead_letters
from db.queries.dead_letters import DeadLetter, NewDeadLetter, Which
from db.session import Database
from producer.browsing import Discard, Discarded, Requeue
from producer.browsing import Requeued as Told
from producer.ids import new_id
from producer.ledger import Ledger
from producer.messages import (
    BytesImage,
    ImageItem,
    ImageRef,
    IngestChunk,
    Outcome,
    PathImage,
    Queue,
    Removal,
    RemoveChunk,
    UrlImage,
)
from producer.reasons import Reason
from tests.fake_worker import FakeWorker, take_all
from tests.integration.test_worker_cli import Terminal
from tests.stack import producer_of, running, save_picture
from worker import letters
from worker.clearing import Clearing
from worker.giving_up import letter_of
from worker.letters import Requeued
from worker.resending import Resender
from worker.settings import WorkerSettings

Asked = TypeVar("Asked", Requeue, Discard)


class Post:
    """A catalogue with dead letters, and the queue that they go back onto."""

    def __init__(self, database: Database, redis_url: str) -> None:
        self.database = database
        self.redis = Redis.from_url(redis_url)
        self.ledger = Ledger(self.redis)
        self.settings = WorkerSettings(redis_url=SecretStr(redis_url), chunk_size=2)

    def give_up(self, *items: ImageItem | Removal, reason: Reason = Reason.NOT_FOUND) -> None:
        """Make dead letters of the items."""
        job = RemoveChunk(
            id=new_id(), accepted_at=0.0, items=(Removal(product_id="any", version=1),)
        )
        with self.database.writing() as session:
            dead_letters.add(
                session, [letter_of(job, item, reason, "because", 1) for item in items]
            )

    @property
    def letters(self) -> list[DeadLetter]:
        """All dead letters, the oldest first."""
        with self.database.reading() as session:
            return dead_letters.list_(session)[::-1]

    def requeue(self, which: Which) -> Requeued:
        """Send those letters again."""
        with Resender(self.settings, 5.0) as resender:
            return letters.requeue(self.database, which, resender, self.settings.chunk_size)

    def sent(self, queue: Queue = Queue.INGEST) -> list[list[str]]:
        """The products of each job that waits."""
        jobs = take_all(self.redis, queue)
        assert all(isinstance(job, IngestChunk | RemoveChunk) for job in jobs)
        return [[item.product_id for item in job.items] for job in jobs]  # type: ignore[attr-defined]


@pytest.fixture
def post(database: Database, empty_valkey_url: str) -> Iterator[Post]:
    """On one database and then on the other."""
    made = Post(database, empty_valkey_url)
    yield made
    made.redis.close()


def item(product: str, version: int = 7, image: ImageRef | None = None) -> ImageItem:
    """A picture of a product."""
    return ImageItem(
        product_id=product,
        image=image or PathImage(path=f"/{product}"),
        attributes={"price": 5},
        version=version,
    )


def test_what_is_sent_again_is_what_was_given_up_and_leaves_the_dead_letters(post: Post) -> None:
    items = [item(f"p{number}", version=number) for number in range(3)]
    removal = Removal(product_id="gone", version=9)
    post.give_up(*items, removal)
    assert post.requeue(Which()) == Requeued(4, (), 0, 0)
    assert post.letters == []
    assert post.ledger.size() == 3
    jobs = [job for queue in (Queue.INGEST, Queue.CONTROL) for job in take_all(post.redis, queue)]
    sent = [each for job in jobs for each in job.items]  # type: ignore[attr-defined]
    assert sent == [*items, removal]


def test_only_those_that_are_chosen_are_sent(post: Post) -> None:
    post.give_up(item("a"), item("b"))
    post.give_up(item("a", 8), reason=Reason.CORRUPT_IMAGE)
    post.requeue(Which(reason=Reason.CORRUPT_IMAGE))
    assert post.sent() == [["a"]]
    post.requeue(Which(product_id="b"))
    assert post.sent() == [["b"]]
    (left,) = post.letters
    post.requeue(Which((left.pk,)))
    assert post.sent() == [["a"]]
    assert post.letters == []


def test_bytes_that_are_gone_are_left_unless_they_are_named(post: Post) -> None:
    post.give_up(item("a", image=BytesImage(key="0" * 64)), reason=Reason.BYTES_EXPIRED)
    assert post.requeue(Which()) == Requeued(0, (), 1, 0)
    (letter,) = post.letters
    assert post.requeue(Which((letter.pk,))) == Requeued(1, (), 0, 0)
    assert post.letters == []


def test_an_address_that_was_signed_is_not_kept_and_cannot_be_sent_again(post: Post) -> None:
    signed = UrlImage(url="https://cdn.example/1.jpg?X-Amz-Signature=abc")
    job = IngestChunk(id=new_id(), accepted_at=0.0, items=(item("a", image=signed),))
    letter = letter_of(job, job.items[0], Reason.NOT_FOUND, f"gone: {signed.url}", 1)
    assert "abc" not in f"{letter}"
    with post.database.writing() as session:
        dead_letters.add(session, [letter])
    assert post.requeue(Which()) == Requeued(0, (), 0, 1)
    assert len(post.letters) == 1


def test_what_this_version_does_not_understand_is_kept(post: Post) -> None:
    post.give_up(item("a"), item("b"))
    with post.database.writing() as session:
        strange = NewDeadLetter(
            new_id(), "c", None, "x", "", 1, {"image": {"kind": "hologram"}}, datetime.now(UTC)
        )
        dead_letters.add(session, [strange])
    done = post.requeue(Which())
    (left,) = post.letters
    assert (done.sent, done.unreadable) == (2, (left.pk,))
    assert left.product_id == "c"


def test_a_crash_between_sending_and_forgetting_loses_nothing(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    post.give_up(item("a"))

    def crash(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as crashed:
        crashed.setattr(letters, "_forget", crash)
        with pytest.raises(KeyboardInterrupt):
            post.requeue(Which())
    assert post.ledger.size() == 1
    assert [letter.product_id for letter in post.letters] == ["a"]


def test_many_are_taken_page_by_page_and_what_fails_meanwhile_is_not_taken_again(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters, "PAGE", 3)
    post.give_up(*(item(f"p{number}") for number in range(8)))
    shares: list[float] = []
    with Resender(post.settings, 5.0) as resender:
        real = resender.send

        def fails_again(items: list[ImageItem]) -> None:
            real(items)
            post.give_up(*items)

        monkeypatch.setattr(resender, "send", fails_again)
        done = letters.requeue(post.database, Which(), resender, 2, shares.append)
    assert done.sent == len(post.letters) == 8
    assert shares[-1] == 1.0
    assert letters.discard(post.database, Which()) == 8
    assert post.letters == []


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def terminal(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sqlite_database: Database,
    empty_valkey_url: str,
) -> Terminal:
    """The operator's, with the environment of a post on SQLite."""
    monkeypatch.setenv("LOOKALIKE_DATABASE_URL", str(sqlite_database._url))
    monkeypatch.setenv("LOOKALIKE_REDIS_URL", empty_valkey_url)
    return Terminal(monkeypatch, capsys)


@pytest.fixture
def shelf(sqlite_database: Database, empty_valkey_url: str) -> Iterator[Post]:
    """Two pictures and a removal that were given up."""
    made = Post(sqlite_database, empty_valkey_url)
    made.give_up(item("a"), item("b"), Removal(product_id="c", version=1))
    yield made
    made.redis.close()


def test_listing_and_showing(terminal: Terminal, shelf: Post) -> None:
    assert terminal.run("dead") == 0
    assert "not_found" in terminal.out
    assert [each["product_id"] for each in terminal.json("dead", "list", "--limit", "2")] == [
        "c",
        "b",
    ]
    assert terminal.json("dead", "list", "--product", "nobody") == []
    first = shelf.letters[0].pk
    assert terminal.run("dead", "show", str(first)) == 0
    assert '"price": 5' in terminal.out
    (shown,) = terminal.json("dead", "show", str(first))
    assert shown["message"]["product_id"] == "a"
    assert terminal.run("dead", "show", "99") == 1
    assert "no dead letter 99" in terminal.err


def test_sending_again(terminal: Terminal, shelf: Post) -> None:
    first = shelf.letters[0].pk
    assert terminal.json("requeue", str(first)) == {
        "sent": 1,
        "unreadable": [],
        "expired": 0,
        "signed": 0,
    }
    assert shelf.sent() == [["a"]]
    assert terminal.run("requeue", "--reason", "not_found") == 0
    assert "Sent 2 again" in terminal.words
    assert terminal.json("requeue", "--all") == {
        "sent": 0,
        "unreadable": [],
        "expired": 0,
        "signed": 0,
    }


def test_waiting_for_what_is_sent_again(terminal: Terminal, shelf: Post) -> None:
    worker = FakeWorker(shelf.redis)
    with worker.working():
        done = terminal.json("requeue", "--product", "a", "--wait", "--timeout", "20")
        assert (done["applied"], done["failures"], done["waiting"]) == (1, [], 0)
        worker.outcome = lambda job: Outcome(
            applied=0,
            failures=(
                {"product_id": "b", "name": "main", "reason": Reason.NOT_FOUND, "detail": "still"},  # type: ignore[arg-type]
            ),
        )
        failed = terminal.json("requeue", "--product", "b", "--wait", "--timeout", "20", code=1)
    assert [each["product_id"] for each in failed["failures"]] == ["b"]


def test_discarding_asks_first(
    terminal: Terminal, shelf: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert terminal.run("discard", "--all") == 2
    assert "--yes" in terminal.err
    assert len(shelf.letters) == 3
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: True)
    assert terminal.run("discard", "--product", "a") == 0
    assert [letter.product_id for letter in shelf.letters] == ["b", "c"]
    assert terminal.json("discard", "--all", "--yes") == {"discarded": 2}
    assert terminal.json("discard", "--all") == {"discarded": 0}


@pytest.mark.parametrize("command", ["requeue", "discard"])
@pytest.mark.parametrize("chosen", [(), ("1", "--all"), ("--all", "--reason", "not_found")])
def test_it_must_be_said_which(terminal: Terminal, command: str, chosen: tuple[str, ...]) -> None:
    assert terminal.run(command, *chosen) == 2
    assert "--all" in terminal.err


def test_a_picture_that_comes_later_is_found_after_all(tmp_path: Path) -> None:
    with running(tmp_path / "data") as stack, producer_of(stack) as shop:
        outcome = shop.add("late", tmp_path / "late.jpg").wait(60)
        assert [failure.reason for failure in outcome.failures] == [Reason.NOT_FOUND]
        save_picture(tmp_path / "late.jpg", 1)
        database = Database(stack.settings.database)
        with Resender(stack.settings, 60.0) as resender:
            assert letters.requeue(database, Which(), resender, 32).sent == 1
            assert resender.wait(lambda _: None) == 0
            assert resender.applied == 1
        database.close()
        assert shop.find_similar("late").result(60).matches == ()


# -- for somebody in front of a page --------------------------------------------------------------


def chosen(kind: type[Asked], **which: object) -> Asked:
    return kind.model_validate({"id": new_id(), "expires_at": 1e12, **which})


def test_a_page_requeues_what_it_names_and_is_told_what_is_left(post: Post) -> None:
    clearing = Clearing(post.database, post.settings)
    post.give_up(item("a"), item("b"), item("c"))
    post.give_up(item("d"), reason=Reason.CORRUPT_IMAGE)
    post.give_up(item("e", image=BytesImage(key="0" * 64)), reason=Reason.BYTES_EXPIRED)
    named = tuple(letter.pk for letter in post.letters[:2])
    assert clearing.requeue(chosen(Requeue, ids=named)) == Told(requeued=2, left=0)
    assert clearing.requeue(chosen(Requeue, ids=named)) == Told(requeued=0, left=0)
    by_reason = chosen(Requeue, reason=Reason.CORRUPT_IMAGE)
    assert clearing.requeue(by_reason) == Told(requeued=1, left=0)
    assert clearing.requeue(chosen(Requeue, every=True)) == Told(requeued=1, left=1)
    assert post.sent() == [["a", "b"], ["d"], ["c"]]
    assert clearing.discard(chosen(Discard, every=True)) == Discarded(discarded=1, left=0)
    assert post.letters == []


def test_what_does_not_fit_on_the_queue_stays_a_dead_letter(post: Post) -> None:
    full = post.settings.model_copy(update={"max_backlog": 1})
    post.give_up(item("a"), item("b"), item("c"))
    clearing = Clearing(post.database, full, budget=0.1)
    assert clearing.requeue(chosen(Requeue, every=True)) == Told(requeued=2, left=1)
    assert [letter.product_id for letter in post.letters] == ["c"]


def test_what_does_not_fit_into_the_time_stays_too(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters, "PAGE", 2)
    post.give_up(*(item(f"p{number}") for number in range(5)))
    clearing = Clearing(post.database, post.settings, budget=-1.0)
    assert clearing.discard(chosen(Discard, every=True)) == Discarded(discarded=2, left=3)
    clearing = Clearing(post.database, post.settings, budget=0.0)
    assert clearing.requeue(chosen(Requeue, every=True)) == Told(requeued=2, left=1)


@pytest.mark.parametrize("which", [{}, {"ids": ()}, {"ids": (1,), "every": True}])
def test_which_of_them_is_said_in_one_way(which: dict[str, object]) -> None:
    for kind in (Requeue, Discard):
        with pytest.raises(ValidationError, match="say which"):
            kind.model_validate({"id": new_id(), "expires_at": 1e12, **which})
