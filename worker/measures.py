"""What a process of the service counts, for Prometheus; `docs/alerts.md` and `monitoring/` say what it is for.

All instruments of a process are here, in one registry: names begin with `lookalike_`, shares go from 0 to 1, and
labels have few values, none of which a shop or a client chooses. What is true of the whole service is in
`worker.survey`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from prometheus_client import Counter, Histogram
from pydantic import BaseModel

from producer.ids import issued_at
from producer.ledger import Claim
from producer.messages import (
    Answer,
    AnswerState,
    BatchReply,
    Job,
    Outcome,
    PictureLookup,
    ProductLookup,
    Question,
    RemoveChunk,
    Reply,
    Selection,
    TasteLookup,
)
from producer.metering import QUICK, new_registry

REGISTRY: Final = new_registry()
"""Of this process."""
SLOW = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
"""Bounds in seconds for what waits in queues that may be long."""
DISTANCES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 2.0)
"""Bounds of distances between unit vectors: 0 the same, √2 unrelated."""
DRIFT_SAMPLES = 200
MOST_OBSERVED = 16
"""Replies of a batch whose distances are noted."""
MIXED, NOTHING = "mixed", "none"
"""The path of several replies that were found in different ways, and of no reply."""

STAGE = Histogram(
    "lookalike_stage_seconds",
    "Stages of ingest and of lookups by picture. fetch: one picture; decode: the new pictures of a chunk, or that "
    "of a question; wait: from being handed to the network to being taken into a batch; model: one batch; "
    "commit: the transaction of a chunk.",
    ("stage",),
    buckets=QUICK,
    registry=REGISTRY,
)
BATCH = Histogram(
    "lookalike_batch_pictures",
    "Pictures that the network saw at once.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    registry=REGISTRY,
)
COMMITTED = Histogram(
    "lookalike_committed_seconds",
    "From accepting a job to committing it, for each item that was applied; a retry counts anew.",
    buckets=SLOW,
    registry=REGISTRY,
)
SEARCHABLE = Histogram(
    "lookalike_searchable_seconds",
    "From accepting a job to this process's being able to find what it brought, for each commit.",
    buckets=SLOW,
    registry=REGISTRY,
)
APPLIED = Counter(
    "lookalike_items_applied",
    "Items of jobs whose change is committed, or was superseded by a newer one.",
    ("kind",),
    registry=REGISTRY,
)
FAILED = Counter(
    "lookalike_items_failed",
    "Items that failed, by reason; those that will be tried again count, too, each time.",
    ("reason",),
    registry=REGISTRY,
)
GIVEN_UP = Counter(
    "lookalike_items_given_up",
    "Items that became dead letters, by reason.",
    ("reason",),
    registry=REGISTRY,
)
LOOKUP = Histogram(
    "lookalike_lookup_seconds",
    "From a worker's beginning of a lookup to its reply, by kind and by how it was found.",
    ("kind", "path"),
    buckets=QUICK,
    registry=REGISTRY,
)
QUEUED = Histogram(
    "lookalike_lookup_queued_seconds",
    "From asking for a lookup to a worker's beginning of it, by kind.",
    ("kind",),
    buckets=QUICK,
    registry=REGISTRY,
)
FAILURES = Counter(
    "lookalike_lookup_failures",
    "Lookups without a reply, by kind and reason; `expired` began too late.",
    ("kind", "reason"),
    registry=REGISTRY,
)
QUESTION = Histogram(
    "lookalike_question_seconds",
    "The same as lookalike_lookup_seconds of questions that are no lookups, failed ones included.",
    ("question",),
    buckets=QUICK,
    registry=REGISTRY,
)
REBUILD = Histogram(
    "lookalike_rebuild_seconds",
    "Rebuilds of the index by how they ended: built, needless, stopped (this process was, or another was first), "
    "failed.",
    ("outcome",),
    buckets=(1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0),
    registry=REGISTRY,
)
RECALL = Histogram(
    "lookalike_sampled_recall_ratio",
    "Of lookups that were answered once more exactly: the share of the true ten nearest products that the live "
    "index finds, by how it searched. Its sum over its count is recall@10.",
    ("path",),
    buckets=(0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    registry=REGISTRY,
)
DISTANCE = Histogram(
    "lookalike_match_distance",
    "Distance of the nearest and of the tenth match, of lookups without conditions.",
    ("rank",),
    buckets=DISTANCES,
    registry=REGISTRY,
)


# -- stages and jobs ------------------------------------------------------------------------------


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time a stage, unless it fails."""
    began = time.perf_counter()
    yield
    STAGE.labels(name).observe(time.perf_counter() - began)


def batch(pictures: int, waits: Iterable[float]) -> None:
    """The network is given so many pictures, which have waited so long."""
    BATCH.observe(pictures)
    waited = STAGE.labels("wait")
    for seconds in waits:
        waited.observe(seconds)


def ended(claim: Claim[Job], outcome: Outcome) -> None:
    """A job was struck out of the ledger, with this outcome."""
    job = claim.job
    age = max(0.0, time.time() - job.accepted_at)
    APPLIED.labels("remove" if isinstance(job, RemoveChunk) else "add").inc(outcome.applied)
    for _ in range(outcome.applied):
        COMMITTED.observe(age)
    for failure in outcome.failures:
        FAILED.labels(failure.reason.value).inc()
        if failure.retried_as is None:
            GIVEN_UP.labels(failure.reason.value).inc()


def searchable(seconds: float) -> None:
    """What was committed at once is found so long after it was accepted."""
    SEARCHABLE.observe(max(0.0, seconds))


# -- questions ------------------------------------------------------------------------------------


def begun(question: Question) -> float:
    """A question is begun; when, for `answered`."""
    kind = kind_of(question)
    asked = issued_at(question.id) if kind is not None else None
    if kind is not None and asked is not None:
        QUEUED.labels(kind).observe(max(0.0, time.time() - asked))
    return time.perf_counter()


def answered(question: Question, began: float, reply: BaseModel | None, answer: Answer) -> None:
    """It was answered: with this reply, or with none."""
    seconds, kind = time.perf_counter() - began, kind_of(question)
    if kind is None:
        QUESTION.labels(question.task.removeprefix("lookalike.")).observe(seconds)
    elif answer.state is AnswerState.DONE:
        LOOKUP.labels(kind, path_of(reply)).observe(seconds)
        _note_distances(question, reply)
    else:
        reason = answer.failure.reason.value if answer.failure else answer.state.value
        FAILURES.labels(kind, reason).inc()


def kind_of(question: Question) -> str | None:
    """What a lookup asks about: product, batch, taste or picture; None of what is no lookup."""
    if isinstance(question, ProductLookup):
        return "product" if len(question.product_ids) == 1 else "batch"
    if isinstance(question, TasteLookup):
        return "taste"
    return "picture" if isinstance(question, PictureLookup) else None


def path_of(reply: BaseModel | None) -> str:
    """How the reply was found, or all replies of a batch."""
    if isinstance(reply, Reply):
        return reply.path
    if not isinstance(reply, BatchReply) or not reply.replies:
        return NOTHING
    paths = {each.path for each in reply.replies}
    return paths.pop() if len(paths) == 1 else MIXED


# -- the index ------------------------------------------------------------------------------------


@dataclass
class Ending:
    """How a rebuild ended: built, needless, stopped; failed, unless something else is said."""

    outcome: str = "failed"


@contextmanager
def rebuilding() -> Iterator[Ending]:
    """Time a rebuild, however it ends."""
    ending, began = Ending(), time.perf_counter()
    try:
        yield ending
    finally:
        REBUILD.labels(ending.outcome).observe(time.perf_counter() - began)


class Drift:
    """Whether answers move away from questions: the mean distance of the nearest match in the last lookups, over
    what it was when the generation became current. 1 is no drift; a generation that finds worse ones shows, too.

    Where so many lookups had not been answered by then, that mean is what it was as soon as they had.
    """

    def __init__(self, samples: int = DRIFT_SAMPLES) -> None:
        """The last so many lookups count."""
        self._recent: deque[float] = deque(maxlen=samples)
        self._lock = threading.Lock()
        self._model: str | None = None
        self._generation: int | None = None
        self._before: float | None = None

    def note(self, model: str | None, generation: int | None, nearest: float) -> None:
        """A lookup was answered. Distances under different models cannot be compared."""
        with self._lock:
            if model != self._model:
                self._recent.clear()
            if (model, generation) != (self._model, self._generation):
                self._model, self._generation = model, generation
                self._before = self._mean
            self._recent.append(nearest)
            if self._before is None:
                self._before = self._mean

    @property
    def ratio(self) -> float | None:
        """None while there are not enough lookups to say."""
        with self._lock:
            now = self._mean
            return now / self._before if now is not None and self._before else None

    @property
    def _mean(self) -> float | None:
        return fmean(self._recent) if len(self._recent) == self._recent.maxlen else None


DRIFT = Drift()
"""Of this process."""


def _note_distances(question: Question, reply: BaseModel | None) -> None:
    if not _is_plain(question):
        return
    replies = reply.replies if isinstance(reply, BatchReply) else (reply,)
    for each in replies[:MOST_OBSERVED]:
        if not isinstance(each, Reply) or not each.matches:
            continue
        DISTANCE.labels("1").observe(each.matches[0].distance)
        DRIFT.note(each.model_version, each.generation, each.matches[0].distance)
        if len(each.matches) >= 10:
            DISTANCE.labels("10").observe(each.matches[9].distance)


def _is_plain(question: Question) -> bool:
    """Whether it asks about one product, or one picture, without conditions: distances can be compared then."""
    if isinstance(question, PictureLookup):
        one = len(question.images) == 1
        others = question.disliked_images or question.liked or question.disliked
        return one and not others and _takes_the_nearest(question.selection)
    return isinstance(question, ProductLookup) and _takes_the_nearest(question.selection)


def _takes_the_nearest(selection: Selection) -> bool:
    chooses = selection.where or selection.collapse is not None or selection.at_most
    return not (chooses or selection.min_similarity is not None or selection.diversity)
