"""How long it takes from a job's acceptance until a lookup can find what it brought.

Who commits a change notes its revision and when its job was accepted. Whoever answers lookups remembers when its
view of the index came to which revision, and a little later a thread of its own puts the two together: no lookup
waits for it, and without Redis nothing is lost but samples.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, cast

from redis import Redis
from redis.exceptions import RedisError

from producer import keys
from producer.messages import FreshnessStatus

log = logging.getLogger(__name__)

KEPT = 1000
"""Commits that are remembered, and samples."""
COMMIT_LIFE, SAMPLE_LIFE = 3600, 86_400
"""Seconds for which they are, at least where there is nothing newer."""
EVERY = 1.0
"""Seconds between two times that a process measures."""
SETTLED = 1.0
"""Seconds until a change that was seen has surely been noted, too."""
MOST_SEEN = 10_000


class Commits:
    """Notes what is committed."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def note(self, revision: int, accepted_at: float) -> None:
        """A change of this revision is committed, of a job that was accepted then (epoch seconds)."""
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                pipe.zadd(keys.COMMITS, {f"{revision}:{accepted_at}": revision})
                pipe.zremrangebyrank(keys.COMMITS, 0, -KEPT - 1)
                pipe.expire(keys.COMMITS, COMMIT_LIFE)
                pipe.execute()
        except RedisError as error:
            log.debug("a commit is not noted: %s", error)


@dataclass(frozen=True)
class _Seen:
    revision: int
    at: float


class Sightings:
    """Measures how long it took for what this process's view of the index comes to have."""

    def __init__(
        self,
        redis: Redis,
        observe: Callable[[float], object] | None = None,
        *,
        every: float = EVERY,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._clock = clock
        self._observe = observe
        self._every = every
        self._seen: deque[_Seen] = deque(maxlen=MOST_SEEN)
        self._from: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="freshness", daemon=True)

    def see(self, revision: int) -> None:
        """The view has all changes up to this revision from now on."""
        self._seen.append(_Seen(revision, self._clock()))

    def measure(self, *, until: float) -> list[float]:
        """Measure what was seen until then (epoch seconds); the seconds of each commit. Raises RedisError."""
        seen = list(self._settled(until))
        if not seen:
            return []
        after, self._from = self._from, seen[-1].revision
        if after is None or self._from < after:  # what was there before, or a backup is restored
            after = seen[0].revision
        if self._from <= after:
            return []
        found = cast(
            "list[tuple[bytes, float]]",
            self._redis.zrange(
                keys.COMMITS, f"({after}", self._from, byscore=True, withscores=True
            ),
        )
        samples = list(_samples(seen, found))
        self._keep(samples)
        return samples

    def _settled(self, until: float) -> Iterator[_Seen]:
        while self._seen and self._seen[0].at <= until:
            yield self._seen.popleft()

    def _keep(self, samples: Sequence[float]) -> None:
        if not samples:
            return
        now = time.time()
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.lpush(keys.FRESHNESS, *(f"{now:.0f}:{each:.3f}" for each in samples))
            pipe.ltrim(keys.FRESHNESS, 0, KEPT - 1)
            pipe.expire(keys.FRESHNESS, SAMPLE_LIFE)
            pipe.execute()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            try:
                samples = self.measure(until=time.time() - SETTLED)
            except RedisError as error:
                log.debug("freshness is not measured: %s", error)
                continue
            if self._observe is not None:
                for each in samples:
                    self._observe(each)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()


def freshness(redis: Redis) -> FreshnessStatus | None:
    """Of the last commits, as each process that answers saw them; None without any. Raises RedisError."""
    kept = cast("list[bytes]", redis.lrange(keys.FRESHNESS, 0, KEPT - 1))
    if not kept:
        return None
    seconds = sorted(float(each.partition(b":")[2]) for each in kept)
    since = float(kept[-1].partition(b":")[0])
    return FreshnessStatus(
        p50=_percentile(seconds, 50),
        p95=_percentile(seconds, 95),
        samples=len(seconds),
        since=datetime.fromtimestamp(since, UTC),
    )


def _samples(seen: Sequence[_Seen], commits: Sequence[tuple[bytes, float]]) -> Iterator[float]:
    """From the acceptance of each commit's job to the first sight of its revision; both are ascending."""
    sights = iter(seen)
    sight = next(sights)
    for member, revision in commits:
        while sight.revision < revision:
            sight = next(sights)
        # Clocks of different hosts may put the end before the beginning.
        yield max(0.0, sight.at - float(member.partition(b":")[2]))


def _percentile(ascending: Sequence[float], percent: int) -> float:
    """By nearest rank."""
    return ascending[max(0, math.ceil(percent / 100 * len(ascending)) - 1)]
