"""A worker inside the test: takes messages off the real queue and answers as the test says."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar, cast

from pydantic import BaseModel
from redis import Redis

from producer import keys
from producer.comparison import (
    Comparison,
    ComparisonReply,
    Pictured,
    ProductList,
    ProductPage,
    Verdict,
)
from producer.ledger import JOB_TYPES, Claim, Ledger
from producer.mailbox import Mailbox
from producer.messages import (
    Answer,
    AnswerState,
    AsOf,
    BatchReply,
    BytesImage,
    Failure,
    GenerationStatus,
    Job,
    Match,
    Message,
    Outcome,
    PictureLookup,
    ProductLookup,
    Question,
    Queue,
    Reply,
    StatusReply,
    StatusRequest,
    TasteLookup,
    Thumbnail,
    ThumbnailReply,
    ThumbnailRequest,
    WorkerStatus,
)
from producer.reasons import Reason

TYPES: dict[str, type[Message]] = {
    **JOB_TYPES,
    **{
        each.task: each
        for each in (
            ProductLookup,
            TasteLookup,
            PictureLookup,
            StatusRequest,
            ThumbnailRequest,
            Comparison,
            ProductList,
        )
    },
}
J = TypeVar("J", bound=Job)
TINY_JPEG = b"\xff\xd8\xff\xe0\x00\x02\xff\xc0\x00\x0b\x08\x00\x1c\x00\x1c\x01\x01\x11\x00\xff\xd9"


def take(redis: Redis, queue: Queue) -> Message | None:
    """The oldest message of a queue, parsed as a worker would; None if the queue is empty."""
    raw = cast("bytes | None", redis.rpop(keys.queue(queue.value)))
    if raw is None:
        return None
    envelope = json.loads(raw)
    arguments, _, _ = json.loads(base64.b64decode(envelope["body"]))
    return TYPES[envelope["headers"]["task"]].parse(arguments[0])


def take_all(redis: Redis, queue: Queue) -> list[Message]:
    """Every message of a queue, the oldest first."""
    return list(iter(lambda: take(redis, queue), None))


def match(product_id: str, distance: float = 0.5, **more: object) -> Match:
    """A match."""
    return Match.model_validate(
        {"product_id": product_id, "name": "main", "distance": distance, **more}
    )


def reply(product_id: str | None, matches: Sequence[Match] = ()) -> Reply:
    """A reply of index generation 3."""
    return Reply(
        matches=tuple(matches),
        product_id=product_id,
        generation=3,
        model_version="ab" * 32,
        as_of=AsOf(revision=12, at=datetime(2026, 1, 2, tzinfo=UTC)),
        pending=1,
        path="annoy+overlay",
    )


def claimed(ledger: Ledger, job: J) -> Claim[J]:
    """The claim on a job that waits in the ledger and that nobody is at."""
    claim = ledger.begin(job)
    assert claim is not None
    return claim


class FakeWorker:
    """Knows the products that it was given with their matches; applies every job."""

    def __init__(self, redis: Redis, products: dict[str, list[Match]] | None = None) -> None:
        self.redis = redis
        self.products = products or {}
        self.ledger = Ledger(redis)
        self.mailbox = Mailbox(redis, 60)
        self.workers: tuple[WorkerStatus, ...] = ()
        self.generation: GenerationStatus | None = None
        self.rebuild_failure: str | None = None
        self.failure: Failure | None = None
        self.verdict: Callable[[Pictured], Verdict] = lambda _: Verdict.MISSING
        self.outcome: Callable[[Message], Outcome] = lambda job: Outcome(
            applied=len(job.items)  # type: ignore[attr-defined]
        )

    def step(self) -> bool:
        """Handle one message of any queue; False if there is none."""
        for queue in Queue:
            message = take(self.redis, queue)
            if message is not None:
                self._handle(message)
                return True
        return False

    @contextmanager
    def working(self) -> Iterator[None]:
        """Work in a thread while the block runs."""
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                if not self.step():
                    stop.wait(0.002)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _handle(self, message: Message) -> None:
        if not isinstance(message, Question):
            assert isinstance(message, Job)
            self.ledger.clear(claimed(self.ledger, message), self.outcome(message))
        elif self.mailbox.running(message.id):
            self.mailbox.post(message.id, self._answer(message))

    def _answer(self, question: Question) -> Answer:
        if self.failure is not None:
            return Answer(state=AnswerState.FAILED, failure=self.failure)
        if isinstance(question, PictureLookup) and not self._are_pictures(question):
            failure = Failure(reason=Reason.UNSUPPORTED_FORMAT, detail="this is no picture")
            return Answer(state=AnswerState.FAILED, failure=failure)
        return Answer(state=AnswerState.DONE, reply=self._reply(question).model_dump_json())

    def _reply(self, question: Question) -> BaseModel:
        if isinstance(question, ProductLookup):
            return self._batch(question)
        if isinstance(question, TasteLookup | PictureLookup):
            return self._taste(question)
        if isinstance(question, Comparison):
            return ComparisonReply(verdicts=tuple(map(self.verdict, question.pictures)))
        if isinstance(question, ProductList):
            return ProductPage(products=tuple((id_, 5) for id_ in self.products), next=None)
        if isinstance(question, ThumbnailRequest):
            jpeg = base64.b64encode(TINY_JPEG).decode()
            return ThumbnailReply(
                thumbnails=tuple(
                    Thumbnail(product_id=product, name=name, jpeg=jpeg)
                    for product, name in question.images
                )
            )
        return StatusReply(
            products=len(self.products),
            images=len(self.products),
            revision=12,
            pending=1,
            model_version="ab" * 32,
            model_name="a model",
            generation=self.generation,
            dead_letters={"not_found": 2},
            workers=self.workers,
            rebuild_failure=self.rebuild_failure,
        )

    def _batch(self, question: ProductLookup) -> BatchReply:
        limit = question.selection.limit
        known = [each for each in question.product_ids if each in self.products]
        return BatchReply(
            replies=tuple(reply(each, self.products[each][:limit]) for each in known),
            not_found=tuple(each for each in question.product_ids if each not in self.products),
        )

    def _taste(self, question: TasteLookup | PictureLookup) -> Reply | BatchReply:
        named = (*question.liked, *question.disliked)
        if not_found := tuple(each for each in named if each not in self.products):
            return BatchReply(replies=(), not_found=not_found)
        if isinstance(question, PictureLookup):
            return reply(None, [match("by-picture")])
        found = {each.product_id: each for liked in question.liked for each in self.products[liked]}
        matches = [each for id_, each in found.items() if id_ not in named]
        return BatchReply(replies=(reply(None, matches[: question.selection.limit]),))

    def _are_pictures(self, question: PictureLookup) -> bool:
        sent = [
            cast("bytes", self.redis.get(keys.picture(image.key)))
            for image in (*question.images, *question.disliked_images)
            if isinstance(image, BytesImage)
        ]
        return all(data.startswith(b"\xff\xd8") for data in sent)
