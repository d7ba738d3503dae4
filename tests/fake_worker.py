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
from producer.browsing import (
    Browse,
    CataloguePage,
    Categories,
    CategoryCount,
    CategoryList,
    Discard,
    Discarded,
    Failed,
    FailureList,
    FailurePage,
    GenerationList,
    Generations,
    KeptGeneration,
    PastLookup,
    Requeue,
    Requeued,
    Shown,
)
from producer.comparison import (
    Comparison,
    ComparisonReply,
    Pictured,
    ProductList,
    ProductPage,
    Verdict,
)
from producer.judging import JudgeMatch, Judgement, JudgementList, Judgements
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
            Browse,
            CategoryList,
            GenerationList,
            PastLookup,
            FailureList,
            Requeue,
            Discard,
            JudgeMatch,
            JudgementList,
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
        self.without_picture: frozenset[str] = frozenset()
        self.failures: list[Failed] = []
        self.judged: list[Judgement] = []
        self.questions: list[Question] = []
        """All that were answered."""
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
        self.questions.append(question)
        if self.failure is not None:
            return Answer(state=AnswerState.FAILED, failure=self.failure)
        if isinstance(question, PictureLookup) and not self._are_pictures(question):
            failure = Failure(reason=Reason.UNSUPPORTED_FORMAT, detail="this is no picture")
            return Answer(state=AnswerState.FAILED, failure=failure)
        return Answer(state=AnswerState.DONE, reply=self._reply(question).model_dump_json())

    def _reply(self, question: Question) -> BaseModel:  # noqa: PLR0911
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
                    if product not in self.without_picture
                )
            )
        if (shown := self._shown(question)) is not None:
            return shown
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

    def _shown(self, question: Question) -> BaseModel | None:  # noqa: PLR0911
        """What somebody looks at, or changes, in front of a page."""
        if isinstance(question, Browse):
            return self._page(question)
        if isinstance(question, CategoryList):
            count = CategoryCount(category=None, products=len(self.products))
            return Categories(total=len(self.products), categories=(count,))
        if isinstance(question, GenerationList):
            return Generations(generations=(kept_generation(),))
        if isinstance(question, PastLookup):
            replies = [reply(question.product_id, self.products.get(question.product_id, []))]
            return BatchReply(replies=tuple(replies))
        if isinstance(question, FailureList):
            return self._failures(question)
        if isinstance(question, Requeue | Discard):
            return self._cleared(question)
        if isinstance(question, JudgementList):
            found = [each for each in self.judged if each.product_id == question.product_id]
            return Judgements(judgements=tuple(found))
        if isinstance(question, JudgeMatch):
            return self._judgement(question)
        return None

    def _page(self, question: Browse) -> CataloguePage:
        ids = sorted(
            each
            for each in self.products
            if each.startswith(question.prefix) and each > (question.after or "")
        )
        shown = [
            Shown(product_id=each, name="main", category=None, attributes={})
            for each in ids[: question.limit]
        ]
        return CataloguePage(products=tuple(shown), more=len(ids) > question.limit)

    def _failures(self, question: FailureList) -> FailurePage:
        found = [each for each in self.failures if each.id < (question.before or 2**63)]
        shown = found[: question.limit]
        return FailurePage(failures=tuple(shown), more=len(found) > question.limit)

    def _cleared(self, question: Requeue | Discard) -> BaseModel:
        kept = [each for each in self.failures if not _is_chosen(each, question)]
        count = len(self.failures) - len(kept)
        self.failures = kept
        if isinstance(question, Requeue):
            return Requeued(requeued=count, left=0)
        return Discarded(discarded=count, left=0)

    def _judgement(self, question: JudgeMatch) -> Judgement:
        made = Judgement(
            **question.model_dump(include={*Judgement.model_fields}),
            at=datetime(2026, 1, 2, tzinfo=UTC),
        )
        key = (made.product_id, made.match, made.judge)
        self.judged = [e for e in self.judged if (e.product_id, e.match, e.judge) != key]
        if made.verdict is not None:
            self.judged.append(made)
        return made

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


def failed(number: int, reason: Reason = Reason.NOT_FOUND) -> Failed:
    """An item that was given up."""
    return Failed(
        id=number,
        product_id=f"p{number}",
        name="main",
        reason=reason.value,
        detail="it is gone",
        attempts=1,
        at=datetime(2026, 1, 2, tzinfo=UTC),
    )


def kept_generation(number: int = 3) -> KeptGeneration:
    """A generation that answers lookups."""
    return KeptGeneration(
        number=number,
        model_name="a model",
        model_version="ab" * 32,
        images=10,
        revision=12,
        recall=0.99,
        built_at=datetime(2026, 1, 2, tzinfo=UTC),
        current=True,
    )


def _is_chosen(failed: Failed, question: Requeue | Discard) -> bool:
    return question.every or failed.id in question.ids or failed.reason == question.reason
