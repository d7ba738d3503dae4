"""What is true of the whole service, as figures: queues, ledger, catalogue, index, workers.

The index role has them. They are looked up when somebody asks, by threads of their own, and are good for two
seconds, counts of a large catalogue for longer. What cannot be looked up at the moment is left out, and
`lookalike_redis_up` or `lookalike_database_up` is 0: no scrape waits for a server that is away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError, ResponseError
from sqlalchemy.orm import Session

from db.errors import DatabaseError_
from db.queries import backfill, catalogue, dead_letters, generations, models
from db.queries.backfill import Progress
from db.session import Database
from producer.depths import depths, lengths
from producer.ledger import Ledger
from producer.messages import QueueStatus
from producer.reasons import Reason
from worker.failures import RebuildFailures
from worker.heartbeat import beating
from worker.status import Count

log = logging.getLogger(__name__)

ROLES = ("embed", "query", "search", "index", "beat")
"""What a whole service has at least one of."""
FRESH = 2.0
"""Seconds that figures are good for."""
PATIENCE = 1.5
"""Seconds that a scrape waits for new ones."""

Look = Callable[[], Iterable[Metric]]


class Part(Collector):
    """Figures of one source, looked up aside."""

    def __init__(
        self, source: str, look: Look, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`look` may raise, and may take as long as it likes."""
        self._source = source
        self._look = look
        self._clock = clock
        self._lock = threading.Lock()
        self._looking: threading.Event | None = None
        self._found: Sequence[Metric] | None = None
        self._until = -1.0

    def collect(self) -> Iterator[Metric]:
        """What there is, or that there is nothing."""
        found = self._current()
        name = f"lookalike_{self._source}_up"
        text = f"1 if the {self._source} answered the index worker a moment ago."
        yield GaugeMetricFamily(name, text, value=float(found is not None))
        yield from found or ()

    def describe(self) -> Iterator[Metric]:
        """Nothing: to register it must look nothing up."""
        return iter(())

    def _current(self) -> Sequence[Metric] | None:
        with self._lock:
            if self._clock() < self._until:
                return self._found
            done = self._looking
            if done is None:
                done = self._looking = threading.Event()
                threading.Thread(
                    target=self._run, args=(done,), name=f"survey-{self._source}", daemon=True
                ).start()
        if not done.wait(PATIENCE):
            return None
        return self._found

    def _run(self, done: threading.Event) -> None:
        found: Sequence[Metric] | None = None
        try:
            found = list(self._look())
        except (RedisError, DatabaseError_, OSError) as error:
            log.debug("no figures of the %s: %s", self._source, error)
        except Exception:
            log.exception("no figures of the %s", self._source)
        with self._lock:
            self._found, self._until, self._looking = found, self._clock() + FRESH, None
        done.set()


def parts(database: Database, redis: Redis) -> tuple[Part, Part]:
    """All there is to know of the service."""
    seen = _Catalogue(database)
    return Part("redis", lambda: _of_redis(redis)), Part("database", seen.figures)


# -- Redis ----------------------------------------------------------------------------------------


def _of_redis(redis: Redis) -> Iterator[Metric]:
    yield from _queues(redis)
    yield _gauge(
        "lookalike_ledger_jobs", "Jobs accepted and not yet applied.", Ledger(redis).size()
    )
    beats = beating(redis)
    alive = dict.fromkeys(ROLES, 0)
    for beat in beats:
        alive[beat.role] = alive.get(beat.role, 0) + 1
    yield _labelled(
        "lookalike_workers", "Processes that sent a heartbeat a moment ago.", "role", alive
    )
    failure = RebuildFailures(redis).last()
    yield _gauge(
        "lookalike_rebuild_failures",
        "Rebuilds of the index that failed since one succeeded.",
        failure.count if failure else 0,
    )
    yield from _memory(redis)


def _queues(redis: Redis) -> Iterator[Metric]:
    try:
        queues: Sequence[QueueStatus] = depths(redis)
    except ResponseError:  # this user may not look into messages
        queues = lengths(redis)
    yield _labelled(
        "lookalike_queue_waiting_messages",
        "Messages that wait, of every priority.",
        "queue",
        {each.name: each.waiting for each in queues},
    )
    yield _labelled(
        "lookalike_queue_unacked_messages",
        "Messages that a worker has and has not acknowledged.",
        "queue",
        {each.name: each.unacked for each in queues},
    )
    yield _labelled(
        "lookalike_queue_oldest_seconds",
        "Age of the oldest message that waits or is not acknowledged; 0 where there is none.",
        "queue",
        {each.name: each.oldest or 0.0 for each in queues},
    )


def _memory(redis: Redis) -> Iterator[Metric]:
    try:
        info = cast("dict[str, Any]", redis.info("memory"))
    except ResponseError:  # this user may not ask
        return
    used, most = int(info["used_memory"]), int(info.get("maxmemory", 0))
    yield _gauge("lookalike_redis_memory_bytes", "Memory that Redis uses.", used)
    most = most or int(info.get("total_system_memory", 0))
    if most:
        text = "Memory that Redis may use: its maxmemory, or that of its machine."
        yield _gauge("lookalike_redis_memory_limit_bytes", text, most)


# -- SQL ------------------------------------------------------------------------------------------


class _Catalogue:
    """Figures out of SQL; what takes long is counted seldom."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._images: Count[catalogue.Counts] = Count()
        self._progress: Count[Progress] = Count()

    def figures(self) -> list[Metric]:
        with self._database.reading() as session:
            return [*self._of_catalogue(session), *_of_index(session), *self._of_models(session)]

    def _of_catalogue(self, session: Session) -> Iterator[Metric]:
        counts = self._images.of(None, lambda: catalogue.count(session))
        yield _gauge("lookalike_products", "Live products.", counts.products)
        yield _gauge("lookalike_images", "Live pictures.", counts.images)
        revision = catalogue.head(session).revision
        yield _gauge("lookalike_revision", "The newest revision of the catalogue.", revision)
        yield _labelled(
            "lookalike_dead_letters",
            "Items that were given up, until somebody requeues or discards them.",
            "reason",
            # All reasons: what grows from nothing must have been 0 before.
            dict.fromkeys(map(str, Reason), 0) | dead_letters.count_by_reason(session),
        )

    def _of_models(self, session: Session) -> Iterator[Metric]:
        serving = models.serving(session)
        known = InfoMetricFamily(
            "lookalike_model", "The models that serve.", labels=("state", "name", "digest")
        )
        for state, model in (("active", serving.active), ("incoming", serving.incoming)):
            if model is not None:
                known.add_metric((state, model.name, model.digest[:12]), {})
        yield known
        incoming = serving.incoming
        if incoming is None:
            return
        progress = self._progress.of(incoming.pk, lambda: backfill.progress(session, incoming.pk))
        given_up = sum(progress.given_up.values())
        yield _labelled(
            "lookalike_rollout_images",
            "Pictures of the catalogue under the model that is rolled out.",
            "state",
            {"embedded": progress.embedded, "waiting": progress.waiting, "given_up": given_up},
        )


def _of_index(session: Session) -> Iterator[Metric]:
    generation = generations.current(session)
    since = generation.revision if generation else 0
    yield _gauge(
        "lookalike_pending_changes",
        "Pictures that changed since the current generation: the overlay has them.",
        catalogue.count_changes_since(session, since),
    )
    number = generation.number if generation else 0
    yield _gauge("lookalike_index_generation", "The current generation; 0: none yet.", number)
    if generation is None:
        return
    age = (datetime.now(UTC) - generation.created_at).total_seconds()
    yield _gauge("lookalike_index_age_seconds", "Since the current generation was built.", age)
    yield _gauge("lookalike_index_images", "Pictures in it.", generation.images)
    recall = generation.recall
    yield _gauge("lookalike_index_recall_ratio", "Its recall@10, measured as it was built.", recall)
    pinned = generations.pointer(session).pinned
    yield _gauge("lookalike_index_pinned", "1 if a rollback chose it.", pinned)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _labelled(name: str, text: str, label: str, values: dict[str, Any]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for each, value in values.items():
        family.add_metric((each,), float(value))
    return family
