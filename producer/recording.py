"""A producer for a shop's own tests: no Redis, no workers; it records what it is given and answers as told."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from pydantic import BaseModel

from producer import checks
from producer.client import Producer
from producer.comparison import (
    Comparison,
    ComparisonReply,
    Pictured,
    ProductList,
    ProductPage,
    Verdict,
)
from producer.errors import QueueUnavailable
from producer.mailbox import LookupState
from producer.messages import (
    Answer,
    AnswerState,
    AsOf,
    BatchReply,
    Failure,
    ImageItem,
    IngestChunk,
    Job,
    Match,
    Outcome,
    PictureLookup,
    ProductLookup,
    Question,
    Queue,
    QueueStatus,
    RemoveChunk,
    Reply,
    StatusReply,
    StatusRequest,
    TasteLookup,
    ThumbnailReply,
)
from producer.reasons import Reason
from producer.settings import ProducerSettings
from producer.taste import Products, Taste


class RecordingProducer(Producer):
    """A Producer with the same methods, the same checks and the same errors, that stays in this process.

    Give it to the code under test, then read `added`, `removed` and `asked`. A lookup is answered with what
    `answers` was told, and otherwise with no matches. Example::

        shop = RecordingProducer()
        shop.answers("sku-42", ["sku-7", "sku-9"])
        page = product_page(shop, "sku-42")
        assert [item.product_id for item in shop.added] == []
    """

    def __init__(self, *, chunk_size: int = 32, max_backlog: int = 2000) -> None:
        self._recording = _Recording()
        # model_construct: a test must not depend on what the environment says.
        settings = ProducerSettings.model_construct(
            **{name: field.get_default() for name, field in ProducerSettings.model_fields.items()}
            | {"chunk_size": chunk_size, "max_backlog": max_backlog}
        )
        super().__init__(settings, transport=self._recording)

    @property
    def added(self) -> tuple[ImageItem, ...]:
        """Every picture that was added, in order."""
        return tuple(
            item
            for job in self._recording.jobs
            if isinstance(job, IngestChunk)
            for item in job.items
        )

    @property
    def removed(self) -> tuple[str, ...]:
        """Every product id that was removed, in order."""
        return tuple(
            item.product_id
            for job in self._recording.jobs
            if isinstance(job, RemoveChunk)
            for item in job.items
        )

    @property
    def asked(self) -> tuple[ProductLookup | TasteLookup | PictureLookup, ...]:
        """Every lookup that was asked, in order; how its matches were to be picked is in its `selection`."""
        return tuple(
            each
            for each in self._recording.questions
            if isinstance(each, ProductLookup | TasteLookup | PictureLookup)
        )

    @property
    def pictures(self) -> Mapping[str, bytes]:
        """Bytes that were sent beside messages, by their SHA-256."""
        return self._recording.pictures

    def answers(self, product_id: Products | None, matches: Iterable[Match | str]) -> None:
        """Answer lookups of this product, of these together, or with None of any picture, with these matches.

        Ids are enough: an id alone gets distance 0.1, 0.2 … and no category. Matches beyond a lookup's limit
        are left out; its `where` and other options, and what it dislikes, are recorded, and not applied.
        """
        liked = None if product_id is None else Taste.of(product_id, None, None, None).liked
        self._recording.matches[_key(liked)] = tuple(
            Match(product_id=match, name="main", distance=min(2.0, 0.1 * place))
            if isinstance(match, str)
            else match
            for place, match in enumerate(matches, start=1)
        )

    def does_not_know(self, *product_ids: str) -> None:
        """Answer lookups that name one of these products with ProductNotFound."""
        self._recording.unknown.update(checks.product_ids(product_ids))

    def fails(self, reason: Reason, detail: str = "told to fail") -> None:
        """Fail every lookup from now on: PictureRejected or LookupFailed, as the reason says."""
        self._recording.failure = Failure(reason=reason, detail=detail)

    def stays_silent(self) -> None:
        """Leave every question from now on unanswered: `result` raises LookupTimeout."""
        self._recording.silent = True

    def is_full(self, backlog: int | None = None) -> None:
        """Pretend that this many jobs wait, by default as many as are allowed."""
        full = self._settings.max_backlog
        self._recording.waiting = full if backlog is None else backlog

    def is_unavailable(self) -> None:
        """Pretend that Redis cannot be reached: every call raises QueueUnavailable."""
        self._recording.unavailable = True


class _Recording:
    """A Transport that keeps everything and applies every job at once."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.questions: list[Question] = []
        self.pictures: dict[str, bytes] = {}
        self.matches: dict[frozenset[str] | None, tuple[Match, ...]] = {}
        self.unknown: set[str] = set()
        self.failure: Failure | None = None
        self.silent = False
        self.unavailable = False
        self.waiting = 0
        self._answers: dict[str, Answer] = {}

    def backlog(self) -> int:
        """As many as the test says."""
        self._reach()
        return self.waiting

    def store(self, pictures: Mapping[str, bytes], ttl: float) -> None:
        """Keep bytes."""
        self._reach()
        self.pictures.update(pictures)

    def accept(self, jobs: Sequence[Job]) -> int:
        """Keep jobs."""
        self._reach()
        self.jobs += jobs
        return self.waiting

    def ask(self, question: Question) -> None:
        """Keep a question, and answer it as told."""
        self._reach()
        self.questions.append(question)
        self._answers[question.id] = self._answer(question)

    def state_of(self, question_id: str) -> LookupState:
        """The state of a question that was asked here."""
        return self.wait(question_id, 0)[0]

    def wait(self, question_id: str, timeout: float | None) -> tuple[LookupState, Answer | None]:
        """What was answered, without waiting."""
        self._reach()
        answer = self._answers.get(question_id)
        return LookupState(answer.state.value) if answer else LookupState.UNKNOWN, answer

    def outcomes(self, job_ids: Sequence[str]) -> list[Outcome | None]:
        """All items applied."""
        self._reach()
        applied = {
            job.id: Outcome(applied=len(job.items))
            for job in self.jobs
            if isinstance(job, IngestChunk | RemoveChunk)
        }
        return [applied.get(job_id) for job_id in job_ids]

    def missing(self, job_ids: Sequence[str]) -> list[str]:
        """Jobs that were never given."""
        known = {job.id for job in self.jobs}
        return [job_id for job_id in job_ids if job_id not in known]

    def queues(self) -> tuple[QueueStatus, ...]:
        """Nothing waits."""
        self._reach()
        return tuple(QueueStatus(name=queue.value, waiting=0, unacked=0) for queue in Queue)

    def close(self) -> None:
        """Nothing to let go of."""

    def _reach(self) -> None:
        if self.unavailable:
            raise QueueUnavailable

    def _answer(self, question: Question) -> Answer:
        if self.silent:
            return Answer(state=AnswerState.QUEUED)
        if self.failure is not None:
            return Answer(state=AnswerState.FAILED, failure=self.failure)
        return Answer(state=AnswerState.DONE, reply=self._reply(question).model_dump_json())

    def _reply(self, question: Question) -> BaseModel:
        if isinstance(question, ProductLookup):
            return self._of_products(question)
        if isinstance(question, TasteLookup | PictureLookup):
            return self._of_taste(question)
        if isinstance(question, Comparison):
            return ComparisonReply(verdicts=tuple(map(self._verdict, question.pictures)))
        if isinstance(question, ProductList):
            versions = {
                id_: max(item.version for item in pictures.values())
                for id_, pictures in self._products().items()
            }
            return ProductPage(products=tuple(versions.items()), next=None)
        return (
            self._status() if isinstance(question, StatusRequest) else ThumbnailReply(thumbnails=())
        )

    def _products(self) -> dict[str, dict[str, ImageItem]]:
        """What was added and not removed since: products, and their pictures by name."""
        products: dict[str, dict[str, ImageItem]] = {}
        for job in self.jobs:
            if isinstance(job, IngestChunk):
                for item in job.items:
                    products.setdefault(item.product_id, {})[item.name] = item
            elif isinstance(job, RemoveChunk):
                for removal in job.items:
                    products.pop(removal.product_id, None)
        return products

    def _verdict(self, picture: Pictured) -> Verdict:
        known = self._products().get(picture.product_id, {}).get(picture.name)
        if known is None:
            return Verdict.MISSING
        same = (known.image, known.category, known.attributes) == (
            picture.image,
            picture.category,
            picture.attributes,
        )
        return Verdict.SAME if same else Verdict.CHANGED

    def _of_products(self, question: ProductLookup) -> BatchReply:
        limit = question.selection.limit
        known = [each for each in question.product_ids if each not in self.unknown]
        return BatchReply(
            replies=tuple(self._matches((each,), each, limit) for each in known),
            not_found=tuple(each for each in question.product_ids if each in self.unknown),
        )

    def _of_taste(self, question: TasteLookup | PictureLookup) -> Reply | BatchReply:
        named = (*question.liked, *question.disliked)
        if not_found := tuple(each for each in named if each in self.unknown):
            return BatchReply(replies=(), not_found=not_found)
        limit = question.selection.limit
        if isinstance(question, PictureLookup):
            return self._matches(None, None, limit)
        return BatchReply(replies=(self._matches(question.liked, None, limit),))

    def _matches(self, liked: Iterable[str] | None, product_id: str | None, limit: int) -> Reply:
        matches = self.matches.get(_key(liked), ())[:limit]
        return Reply(
            matches=matches,
            product_id=product_id,
            generation=None,
            model_version=None,
            as_of=AsOf(revision=len(self.jobs), at=datetime.fromtimestamp(time.time(), UTC)),
            pending=0,
            path="exact" if matches else "none",
        )

    def _status(self) -> StatusReply:
        products = self._products()
        return StatusReply(
            products=len(products),
            images=sum(map(len, products.values())),
            revision=len(self.jobs),
            pending=0,
            model_version=None,
            model_name=None,
            generation=None,
        )


def _key(liked: Iterable[str] | None) -> frozenset[str] | None:
    """What matches are told, and found, by: the products that are liked, in any order; None for pictures."""
    return None if liked is None else frozenset(liked)
