"""What `lookalike status` shows of the catalogue, the index, the queues and who works."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from redis import Redis
from redis.exceptions import ResponseError
from sqlalchemy.orm import Session

from db.queries import backfill, catalogue, dead_letters, generations, models
from db.queries.backfill import Progress
from db.session import Database
from producer.depths import depths
from producer.messages import (
    GenerationStatus,
    QueueStatus,
    RolloutStatus,
    StatusReply,
    WorkerStatus,
)
from worker.failures import RebuildFailures
from worker.freshness import freshness
from worker.heartbeat import Beating, beating
from worker.rollout import hindrance

T = TypeVar("T")

CALM = 10.0
"""How many times as long as it took to count something the count is good for: a watch asks every second."""


class Count(Generic[T]):
    """Something that takes the longer to count, the larger the catalogue is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of: object = None
        self._value: T | None = None
        self._good_until = 0.0
        self._lock = threading.Lock()

    def of(self, what: object, count: Callable[[], T]) -> T:
        """The count of this; counted now, unless that was done a moment ago."""
        with self._lock:
            began = self._clock()
            if self._value is None or what != self._of or began >= self._good_until:
                self._of, self._value = what, count()
                ended = self._clock()
                self._good_until = ended + CALM * (ended - began)
            return self._value


class Status:
    """Tells how the service is; one per process, for all of its threads."""

    def __init__(self, database: Database, redis: Redis) -> None:
        self._database = database
        self._redis = redis
        self._images: Count[catalogue.Counts] = Count()
        self._progress: Count[Progress] = Count()

    def reply(self) -> StatusReply:
        """The catalogue as of one snapshot, and who is at work. Raises DatabaseUnavailable, RedisError."""
        beats, queues = beating(self._redis), _queues(self._redis)
        failure, fresh = RebuildFailures(self._redis).last(), freshness(self._redis)
        with self._database.reading() as session:
            counts = self._images.of(None, lambda: catalogue.count(session))
            generation = generations.current(session)
            model = models.active(session)
            since = generation.revision if generation else 0
            return StatusReply(
                products=counts.products,
                images=counts.images,
                revision=catalogue.head(session).revision,
                pending=catalogue.count_changes_since(session, since),
                model_version=model.digest if model else None,
                model_name=model.name if model else None,
                generation=_generation(session, generation),
                dead_letters=dead_letters.count_by_reason(session),
                workers=tuple(_worker(beat) for beat in beats),
                rebuild_failure=failure.reason if failure else None,
                queues=queues,
                freshness=fresh,
                rollout=self._rollout(session, beats),
            )

    def _rollout(self, session: Session, beats: list[Beating]) -> RolloutStatus | None:
        serving = models.serving(session)
        model = serving.incoming
        if model is None:
            return None
        progress = self._progress.of(model.pk, lambda: backfill.progress(session, model.pk))
        return RolloutStatus(
            model_version=model.digest,
            model_name=model.name,
            images=progress.images,
            embedded=progress.embedded,
            given_up=progress.given_up,
            without_missing=serving.without_missing,
            waits_for=hindrance(progress, serving, {beat.role for beat in beats}),
        )


def _queues(redis: Redis) -> tuple[QueueStatus, ...]:
    """None where the user of Redis may not look, or the server knows no scripts."""
    try:
        return depths(redis)
    except ResponseError:
        return ()


def _worker(beat: Beating) -> WorkerStatus:
    return WorkerStatus(
        role=beat.role,
        host=beat.host,
        pid=beat.pid,
        started_at=beat.started_at,
        busy=beat.busy,
        longest=beat.longest,
        stuck=beat.stuck,
    )


def _generation(
    session: Session, generation: generations.Generation | None
) -> GenerationStatus | None:
    if generation is None:
        return None
    return GenerationStatus(
        number=generation.number,
        revision=generation.revision,
        images=generation.images,
        built_at=generation.created_at,
        recall=generation.recall,
        pinned=generations.pointer(session).pinned,
    )
