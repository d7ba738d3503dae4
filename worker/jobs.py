"""Do jobs to their end, whatever happens while doing them (invariants 1 and 3)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from redis.exceptions import RedisError

from db.errors import DatabaseUnavailable
from db.queries import dead_letters, fences
from db.queries.fences import Fenced
from db.session import Database
from producer import tracing
from producer.ledger import Claim, Ledger, follow_up
from producer.messages import (
    ImageItem,
    IngestChunk,
    ItemFailure,
    Job,
    Outcome,
    Removal,
    RemoveChunk,
)
from producer.reasons import Reason
from worker import measures
from worker.claims import Claims
from worker.errors import DeviceFailed
from worker.giving_up import letter_of

log = logging.getLogger(__name__)

J = TypeVar("J", bound=Job)

MAX_FAILURES = 3
"""Attempts at an item that may end with an error that nobody expected."""
MAX_DEATHS = 3
"""Workers that may die with a job."""
MAX_CHUNK_DEATHS = 20
"""The same of a chunk of pictures. After two, a process of their own dies of them in the place of the worker, so
that what still ends workers is hardly the chunk; yet there must be an end."""
PATIENCE, FIRST_PAUSE, LONGEST_PAUSE = 60.0, 0.5, 10.0
"""Seconds to wait for the database with a job in hand, and between two tries."""


@dataclass(frozen=True)
class Jobs:
    """Where jobs are done: each once, and given up rather than tried for ever."""

    database: Database
    ledger: Ledger
    claims: Claims
    stopping: threading.Event
    stop: Callable[[], None]
    """Ends this process, once what runs has ended."""

    def do(self, job: J, work: Callable[[Claim[J]], object]) -> None:
        """Run `work`, unless the job was applied, or another worker is at it."""
        try:
            claim = self.ledger.begin(job)
        except RedisError as error:
            log.warning("job %s stays in the ledger: %s", job.id, error)
            return
        if claim is not None:
            with self.claims.holding(claim):
                self._do(claim, work)

    def _do(self, claim: Claim[J], work: Callable[[Claim[J]], object]) -> None:
        job = claim.job
        try:
            try:
                self._when_the_database_answers(claim, work)
            except (DatabaseUnavailable, DeviceFailed, Fenced, RedisError):
                raise
            except Exception:
                log.exception("job %s failed", job.id)
                tracing.fail(str(Reason.INTERNAL))
                self._when_the_database_answers(claim, self._try_apart)
        except (DatabaseUnavailable, RedisError) as error:
            log.warning("job %s will be sent again: %s", job.id, error)
            tracing.fail(str(Reason.UNAVAILABLE))
            self.claims.give_back(claim, after=5.0)
        except DeviceFailed:
            log.exception("job %s will be sent again; this process stops", job.id)
            self.claims.give_back(claim, after=5.0)
            self.stop()
        except Fenced as fenced:
            log.warning("what this worker made is dropped: %s", fenced)

    def _when_the_database_answers(
        self, claim: Claim[J], work: Callable[[Claim[J]], object]
    ) -> None:
        """Wait with the job in hand: giving it back at once would only empty the queue into a delay."""
        until = time.monotonic() + PATIENCE
        pause = FIRST_PAUSE
        while True:
            try:
                self._begin(claim, work)
            except DatabaseUnavailable:
                if time.monotonic() > until or self.stopping.wait(pause):
                    raise
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                return

    def _begin(self, claim: Claim[J], work: Callable[[Claim[J]], object]) -> None:
        if claim.token > 1:  # whoever began it before may only be asleep
            with self.database.writing() as session:
                fences.raise_(session, claim.job.id, claim.token)
        most = MAX_CHUNK_DEATHS if isinstance(claim.job, IngestChunk) else MAX_DEATHS
        if claim.deaths < most:
            work(claim)
        else:
            detail = f"{claim.deaths} workers died while they worked on this"
            self._give_up(claim, Reason.WORKER_FAILED, detail)

    def _try_apart(self, claim: Claim[Job]) -> None:
        """After an error that nobody expected: each item for itself, so that one does not cost the others."""
        job = claim.job
        items = _items(job)
        if len(items) == 1 and job.attempt >= MAX_FAILURES:
            detail = "it failed unexpectedly; the worker's log has the trace"
            self._give_up(claim, Reason.INTERNAL, detail)
            return
        apart = [follow_up(job, [item]) for item in items]
        failures = [
            _failure(item, Reason.INTERNAL, "it failed unexpectedly and is tried again", each.id)
            for item, each in zip(items, apart, strict=True)
        ]
        outcome = Outcome(applied=0, failures=tuple(failures))
        if self.ledger.clear(claim, outcome, follow_ups=apart):
            measures.ended(claim, outcome)

    def _give_up(self, claim: Claim[Job], reason: Reason, detail: str) -> None:
        job, items = claim.job, _items(claim.job)
        log.error("job %s is given up: %s", job.id, detail)
        attempts = max(job.attempt, claim.deaths)
        letters = [letter_of(job, item, reason, detail, attempts) for item in items]
        with self.database.writing() as session:
            dead_letters.add(session, letters)
            fences.check(session, job.id, claim.token)
        failures = tuple(_failure(item, reason, detail) for item in items)
        outcome = Outcome(applied=0, failures=failures)
        if self.ledger.clear(claim, outcome):
            measures.ended(claim, outcome)


def _items(job: Job) -> tuple[ImageItem | Removal, ...]:
    assert isinstance(job, IngestChunk | RemoveChunk)
    return job.items


def _name(item: ImageItem | Removal) -> str | None:
    return item.name if isinstance(item, ImageItem) else None


def _failure(
    item: ImageItem | Removal, reason: Reason, detail: str, retried_as: str | None = None
) -> ItemFailure:
    return ItemFailure(
        product_id=item.product_id,
        name=_name(item),
        reason=reason,
        detail=detail,
        retried_as=retried_as,
    )
