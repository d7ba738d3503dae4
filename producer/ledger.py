"""The ledger: what has been accepted and not yet applied.

Redis hands a message to a worker in two steps and can lose it between them. So a job is written here before
it is published, and struck out only after its change is committed; what stays too long is published again.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from pydantic import ValidationError

from producer import keys
from producer.ids import issued_at, new_id
from producer.messages import ImageItem, IngestChunk, Job, Outcome, Queue, RemoveChunk

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger(__name__)

GRACE = 60.0
"""Seconds that a worker has before the sweeper may publish a job again."""
LONGEST_GRACE = 900.0
RETRY_AFTER = 30.0
"""Seconds before the first retry of what failed for a passing reason; doubled for each that follows."""
JOB_TYPES: Mapping[str, type[Job]] = {job.task: job for job in (IngestChunk, RemoveChunk)}
PAGE = 200

# A job may be delivered twice, to two workers at once. Who is first to strike it out says what became of it;
# the other changes nothing, so that one failure never breeds two retries.
# The horizon is held back to the server's time: a producer whose clock is fast must not make all that was
# accepted since look overtaken.
_CLEAR = """
local ledger, due, starts, applied, outcome = unpack(KEYS)
local id, queue, issued, ended, ttl, next_id, next_job, next_due = unpack(ARGV)
if redis.call('HDEL', ledger, id) == 0 then
    return 0
end
redis.call('ZREM', due, id)
redis.call('HDEL', starts, id)
local time = redis.call('TIME')
local horizon = math.min(tonumber(issued), time[1] + time[2] / 1000000)
redis.call('ZADD', applied, 'GT', horizon, queue)
redis.call('SET', outcome, ended, 'PX', ttl)
if next_id then
    redis.call('HSET', ledger, next_id, next_job)
    redis.call('ZADD', due, next_due, next_id)
end
return 1
"""
_BEGIN = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
    return 0
end
return redis.call('HINCRBY', KEYS[2], ARGV[1], 1)
"""


class Ledger:
    """The ledger on one Redis. `outcome_ttl` is how many seconds the outcome of a job is kept."""

    def __init__(self, redis: Redis, *, outcome_ttl: float = 86_400.0) -> None:
        self._redis = redis
        self._outcome_ttl = max(1, round(outcome_ttl * 1000))
        self._clear = redis.register_script(_CLEAR)
        self._begin = redis.register_script(_BEGIN)

    def accept(self, jobs: Sequence[Job]) -> int:
        """Write new jobs down, all or none; returns how many the ledger holds after it."""
        due = time.time() + GRACE
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(keys.LEDGER, mapping={job.id: _stored(job) for job in jobs})
            pipe.zadd(keys.LEDGER_DUE, {job.id: due for job in jobs})
            pipe.zcard(keys.LEDGER_DUE)
            return int(pipe.execute()[-1])

    def begin(self, job: Job) -> int:
        """Count a start of the job: 1 for the first, 0 if it has been struck out already.

        0 is a late copy, which there is no need to work on. A great number is a job that kills its workers.
        """
        found = self._begin(keys=[keys.LEDGER, keys.LEDGER_STARTS], args=[job.id])
        return cast("int", found)

    def clear(self, job: Job, outcome: Outcome, *, follow_up: Job | None = None) -> bool:
        """Strike a job out and say what became of it, after its change is committed.

        `follow_up` takes over the items that failed for a passing reason. It is written in the same step, so
        that no crash can lose it; the sweeper publishes it when it is due. False, and nothing is written, if
        the job was struck out before: what another worker said of it holds.
        """
        args: list[str | float] = [
            job.id,
            job.queue.value,
            issued_at(job.id) or 0.0,
            outcome.model_dump_json(exclude_defaults=True),
            self._outcome_ttl,
        ]
        if follow_up is not None:
            due = time.time() + _retry_after(follow_up.attempt)
            args += [follow_up.id, _stored(follow_up), due]
        places = [keys.LEDGER, keys.LEDGER_DUE, keys.LEDGER_STARTS, keys.LEDGER_APPLIED]
        return bool(self._clear(keys=[*places, keys.outcome(job.id)], args=args))

    def hold(self, job: Job, seconds: float) -> None:
        """Give the worker that began the job so much time from now; then the sweeper may publish it again."""
        self._postpone({job.id: time.time() + seconds})

    def excuse(self, job: Job, after: float) -> None:
        """Have the job published again after so many seconds, and forget that it was begun.

        For a job that nothing is wrong with, whose worker could not do its part for the moment.
        """
        self._redis.hdel(keys.LEDGER_STARTS, job.id)
        self._postpone({job.id: time.time() + after})

    def follow_up(self, job: IngestChunk, items: Sequence[ImageItem]) -> IngestChunk:
        """A job that tries some of a job's items once more, to be given to `clear`."""
        return IngestChunk(
            id=new_id(), accepted_at=time.time(), attempt=job.attempt + 1, items=tuple(items)
        )

    def overdue(self, now: float | None = None, limit: int = PAGE) -> list[Job]:
        """The jobs to be published again, at most `limit`, each due later from now on.

        A job is overdue when its time has passed and it cannot be waiting in its queue any more: the queue
        is empty, or a job accepted after it has been applied. So a backlog is never published twice.
        """
        now = time.time() if now is None else now
        horizons = self._horizons()
        jobs: list[Job] = []
        for job_id, raw in self._due(now):
            job = _parse(job_id, raw)
            if job is None:
                self._postpone({job_id: now + LONGEST_GRACE})
            elif (issued_at(job.id) or 0.0) < horizons[job.queue]:
                jobs.append(job)
            if len(jobs) == limit:
                break
        self._postpone({job.id: now + _grace(now - job.accepted_at) for job in jobs})
        return jobs

    def size(self) -> int:
        """How many jobs are accepted and not yet applied."""
        return cast("int", self._redis.zcard(keys.LEDGER_DUE))

    def outcomes(self, job_ids: Sequence[str]) -> list[Outcome | None]:
        """What became of each job, in the order asked; None while it is not known, or no longer."""
        if not job_ids:
            return []
        raws = self._redis.mget([keys.outcome(job_id) for job_id in job_ids])
        return [
            None if raw is None else Outcome.model_validate_json(raw)
            for raw in cast("list[bytes | None]", raws)
        ]

    def missing(self, job_ids: Sequence[str]) -> list[str]:
        """Those of the jobs that are neither waiting here nor have an outcome."""
        with self._redis.pipeline(transaction=True) as pipe:
            for job_id in job_ids:
                pipe.hexists(keys.LEDGER, job_id)
                pipe.exists(keys.outcome(job_id))
            known = pipe.execute()
        found = zip(job_ids, known[::2], known[1::2], strict=True)
        return [job_id for job_id, waiting, ended in found if not waiting and not ended]

    def _due(self, now: float) -> Iterator[tuple[str, bytes]]:
        """Ids and stored jobs whose time has passed, the longest overdue first."""
        ids = cast("list[bytes]", self._redis.zrangebyscore(keys.LEDGER_DUE, "-inf", now))
        for start in range(0, len(ids), PAGE):
            page = [raw.decode() for raw in ids[start : start + PAGE]]
            stored = cast("list[bytes | None]", self._redis.hmget(keys.LEDGER, page))
            yield from ((id_, raw) for id_, raw in zip(page, stored, strict=True) if raw)

    def _horizons(self) -> dict[Queue, float]:
        """By queue, the time before which nothing accepted can be waiting in it any more."""
        with self._redis.pipeline(transaction=True) as pipe:
            for queue in Queue:
                pipe.llen(keys.queue(queue.value))
                pipe.zscore(keys.LEDGER_APPLIED, queue.value)
            found = pipe.execute()
        return {
            queue: (applied or 0.0) if waiting else float("inf")
            for queue, waiting, applied in zip(Queue, found[::2], found[1::2], strict=True)
        }

    def _postpone(self, due: Mapping[str, float]) -> None:
        if due:  # xx: what has been struck out meanwhile must not come back
            self._redis.zadd(keys.LEDGER_DUE, dict(due), xx=True)


def _stored(job: Job) -> str:
    return f'{{"task":{json.dumps(job.task)},"message":{job.model_dump_json()}}}'


def _parse(job_id: str, raw: bytes) -> Job | None:
    try:
        value = json.loads(raw)
        return JOB_TYPES[value["task"]].parse(value["message"])
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        log.warning("ledger entry %s is of another version and is left for it: %r", job_id, error)
        return None


def _grace(age: float) -> float:
    """Seconds to the next publication of a job of this age: each wait is as long as all before it."""
    return min(max(age, GRACE), LONGEST_GRACE)


def _retry_after(attempt: int) -> float:
    """Seconds before attempt 2, 3 …: doubling, with jitter so that what failed together comes apart."""
    return RETRY_AFTER * 2.0 ** (attempt - 2) * random.uniform(0.8, 1.2)  # noqa: S311
