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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from pydantic import ValidationError

from producer import keys
from producer.ids import issued_at, new_id
from producer.messages import ImageItem, IngestChunk, Job, Outcome, Queue, Removal, RemoveChunk
from producer.signing import Signer

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
_COUNTS = (keys.LEDGER_STARTS, keys.LEDGER_EXCUSED)

CLAIM = 30.0
"""Seconds that a claim lasts unless it is renewed: then its worker is taken for dead."""

J = TypeVar("J", bound=Job)
J_co = TypeVar("J_co", bound=Job, covariant=True)

# Times are the server's: workers whose clocks differ must agree on whether a claim has run out.
_NOW = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
"""
_BEGIN = (
    _NOW
    + """
local ledger, due, leases, starts, excused = unpack(KEYS)
local id, ttl = unpack(ARGV)
if redis.call('HEXISTS', ledger, id) == 0 or now < tonumber(redis.call('ZSCORE', leases, id) or 0) then
    return {0, 0}
end
redis.call('ZADD', leases, now + ttl, id)
redis.call('ZADD', due, 'XX', now + ttl, id)
return {redis.call('HINCRBY', starts, id, 1), tonumber(redis.call('HGET', excused, id) or 0)}
"""
)
_RENEW = (
    _NOW
    + """
local due, leases, starts = unpack(KEYS)
local id, token, ttl = unpack(ARGV)
if redis.call('HGET', starts, id) ~= token then
    return 0
end
redis.call('ZADD', leases, now + ttl, id)
redis.call('ZADD', due, 'XX', now + ttl, id)
return 1
"""
)
_GIVE_BACK = (
    _NOW
    + """
local due, leases, starts, excused = unpack(KEYS)
local id, token, after = unpack(ARGV)
if redis.call('HGET', starts, id) ~= token then
    return 0
end
redis.call('ZREM', leases, id)
redis.call('HINCRBY', excused, id, 1)
redis.call('ZADD', due, 'XX', now + after, id)
return 1
"""
)
# Whoever holds the claim says what became of the job; a late one changes nothing, so that one failure never
# breeds two retries. The horizon is held back to the server's time: a producer whose clock is fast must not make
# all that was accepted since look overtaken.
_CLEAR = (
    _NOW
    + """
local ledger, due, leases, starts, excused, applied, outcome = unpack(KEYS)
local id, token, queue, issued, ended, ttl = unpack(ARGV)
if redis.call('HGET', starts, id) ~= token or redis.call('HDEL', ledger, id) == 0 then
    return 0
end
for _, key in ipairs({due, leases}) do
    redis.call('ZREM', key, id)
end
for _, key in ipairs({starts, excused}) do
    redis.call('HDEL', key, id)
end
redis.call('ZADD', applied, 'GT', math.min(tonumber(issued), now), queue)
redis.call('SET', outcome, ended, 'PX', ttl)
for each = 7, #ARGV, 3 do
    redis.call('HSET', ledger, ARGV[each], ARGV[each + 1])
    redis.call('ZADD', due, now + ARGV[each + 2], ARGV[each])
end
return 1
"""
)


@dataclass(frozen=True)
class Claim(Generic[J_co]):
    """The right to work on a job, until it runs out."""

    job: J_co
    token: int
    """Fencing token: greater than that of every claim on the job before."""
    deaths: int
    """Claims before this one that ended with neither a result nor an excuse: their workers died of something."""


class Ledger:
    """The ledger on one Redis. `outcome_ttl` is how many seconds the outcome of a job is kept.

    With a `signer` what is written down is signed, and nothing else is published again.
    """

    def __init__(
        self, redis: Redis, *, outcome_ttl: float = 86_400.0, signer: Signer | None = None
    ) -> None:
        self._redis = redis
        self._signer = signer
        self._outcome_ttl = max(1, round(outcome_ttl * 1000))
        self._begin = redis.register_script(_BEGIN)
        self._renew = redis.register_script(_RENEW)
        self._give_back = redis.register_script(_GIVE_BACK)
        self._clear = redis.register_script(_CLEAR)

    def accept(self, jobs: Sequence[Job]) -> int:
        """Write new jobs down, all or none; returns how many the ledger holds after it."""
        due = time.time() + GRACE
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(keys.LEDGER, mapping={job.id: self._stored(job) for job in jobs})
            pipe.zadd(keys.LEDGER_DUE, {job.id: due for job in jobs})
            pipe.zcard(keys.LEDGER_DUE)
            return int(pipe.execute()[-1])

    def begin(self, job: J) -> Claim[J] | None:
        """Claim the job for `CLAIM` seconds from now, by the server's clock.

        None if there is nothing to do: the job has been struck out (this is a late copy of its message), or
        another worker is at it. Should that one die, the sweeper publishes the job again.
        """
        places = [keys.LEDGER, keys.LEDGER_DUE, keys.LEDGER_LEASES, *_COUNTS]
        found = cast("list[int]", self._begin(keys=places, args=[job.id, CLAIM]))
        token, excused = found
        return Claim(job, token, token - 1 - excused) if token else None

    def renew(self, claim: Claim[Job]) -> bool:
        """Keep the claim for `CLAIM` seconds from now; False if the job has ended, or is another's by now."""
        places = [keys.LEDGER_DUE, keys.LEDGER_LEASES, keys.LEDGER_STARTS]
        return bool(self._renew(keys=places, args=[claim.job.id, claim.token, CLAIM]))

    def give_back(self, claim: Claim[Job], after: float) -> bool:
        """Have the job published again after so many seconds, and count no death.

        For a job that nothing is wrong with, whose worker could not do its part for the moment. False if it has
        ended, or is another's by now.
        """
        places = [keys.LEDGER_DUE, keys.LEDGER_LEASES, *_COUNTS]
        return bool(self._give_back(keys=places, args=[claim.job.id, claim.token, after]))

    def clear(self, claim: Claim[Job], outcome: Outcome, *, follow_ups: Sequence[Job] = ()) -> bool:
        """Strike the job out and say what became of it, after its change is committed.

        `follow_ups` take over the items that failed for a passing reason. They are written in the same step, so
        that no crash can lose them; the sweeper publishes them when they are due. False, and nothing is written,
        if another worker has the job by now, or has struck it out: what that one says of it holds.
        """
        job = claim.job
        args: list[str | float] = [
            job.id,
            claim.token,
            job.queue.value,
            issued_at(job.id) or 0.0,
            outcome.model_dump_json(exclude_defaults=True),
            self._outcome_ttl,
        ]
        for each in follow_ups:
            args += [each.id, self._stored(each), _retry_after(each.attempt)]
        places = [keys.LEDGER, keys.LEDGER_DUE, keys.LEDGER_LEASES, *_COUNTS, keys.LEDGER_APPLIED]
        return bool(self._clear(keys=[*places, keys.outcome(job.id)], args=args))

    def overdue(self, now: float | None = None, limit: int = PAGE) -> list[Job]:
        """The jobs to be published again, at most `limit`, each due later from now on.

        A job is overdue when its time has passed and it cannot be waiting in its queue any more: the queue
        is empty, or a job accepted after it has been applied. So a backlog is never published twice.
        """
        now = time.time() if now is None else now
        horizons = self._horizons()
        jobs: list[Job] = []
        for job_id, raw in self._due(now):
            job = self._parse(job_id, raw)
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

    def _stored(self, job: Job) -> str:
        message = job.model_dump_json()
        if self._signer is None:
            return f'{{"task":{json.dumps(job.task)},"message":{message}}}'
        signature = self._signer.sign(job.task, json.loads(message))
        return f'{{"task":{json.dumps(job.task)},"message":{message},"signature":"{signature}"}}'

    def _parse(self, job_id: str, raw: bytes) -> Job | None:
        try:
            value = json.loads(raw)
            task, message = value["task"], value["message"]
            if self._signer and not self._signer.believes(task, message, value.get("signature")):
                log.error(
                    "ledger entry %s is not signed with a key of ours: it is left alone", job_id
                )
                return None
            return JOB_TYPES[task].parse(message)
        except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
            problem = type(error).__name__
            log.warning(
                "ledger entry %s is of another version and is left for it: %s", job_id, problem
            )
            return None

    def _postpone(self, due: Mapping[str, float]) -> None:
        if due:  # xx: what has been struck out meanwhile must not come back
            self._redis.zadd(keys.LEDGER_DUE, dict(due), xx=True)


def follow_up(job: J, items: Sequence[ImageItem | Removal]) -> J:
    """A job that tries some of a job's items once more, to be given to `clear`."""
    return job.model_copy(
        update={
            "id": new_id(),
            "accepted_at": time.time(),
            "attempt": job.attempt + 1,
            "items": tuple(items),
        }
    )


def _grace(age: float) -> float:
    """Seconds to the next publication of a job of this age: each wait is as long as all before it."""
    return min(max(age, GRACE), LONGEST_GRACE)


def _retry_after(attempt: int) -> float:
    """Seconds before attempt 2, 3 …: doubling, with jitter so that what failed together comes apart."""
    return RETRY_AFTER * 2.0 ** (attempt - 2) * random.uniform(0.8, 1.2)  # noqa: S311
