"""Do jobs to their end, whatever happens while doing them (invariants 1 and 3)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from db.errors import DatabaseUnavailable
from db.queries import dead_letters
from db.queries.dead_letters import NewDeadLetter
from db.session import Database
from producer.ids import new_id
from producer.ledger import Ledger
from producer.messages import (
    ImageItem,
    IngestChunk,
    ItemFailure,
    Job,
    Outcome,
    Reason,
    Removal,
    RemoveChunk,
)
from worker.errors import DeviceFailed

log = logging.getLogger(__name__)

J = TypeVar("J", bound=Job)

MAX_STARTS = 3
"""How often a job is begun; one that never ended is given up then."""
HOLD = 120.0
"""Seconds that a begun job has before it counts as lost with its worker: longer than its slowest fetches."""
PATIENCE, FIRST_PAUSE, LONGEST_PAUSE = 60.0, 0.5, 10.0
"""Seconds to wait for the database with a job in hand, and between two tries."""
ENDED_BADLY = "three times, the worker died or failed while it worked on this"


@dataclass(frozen=True)
class Jobs:
    """Where jobs are done: each once, and given up rather than tried for ever."""

    database: Database
    ledger: Ledger
    send: Callable[[Job], None]
    stopping: threading.Event
    stop: Callable[[], None]
    """Ends this process, once what runs has ended."""

    def do(self, job: J, work: Callable[[J], object]) -> None:
        """Run `work`, unless an earlier copy of the message was applied.

        A chunk that was begun and never ended is split, so that what is wrong with one picture does not
        cost the others; a single item is given up after `MAX_STARTS`.
        """
        starts = self.ledger.begin(job)
        if starts == 0:
            return
        self.ledger.hold(job, HOLD)
        if starts > 1 and isinstance(job, IngestChunk) and len(job.items) > 1:
            self._split(job)
        elif starts > MAX_STARTS:
            self._give_up(job)
        else:
            self._run(job, work)

    def _run(self, job: J, work: Callable[[J], object]) -> None:
        try:
            self._when_the_database_answers(job, work)
        except DatabaseUnavailable as error:
            log.warning("job %s will be sent again: %s", job.id, error)
            self.ledger.excuse(job, after=5.0)
        except DeviceFailed:
            log.exception("job %s will be sent again; this process stops", job.id)
            self.ledger.excuse(job, after=30.0)
            self.stop()

    def _when_the_database_answers(self, job: J, work: Callable[[J], object]) -> None:
        """Wait with the job in hand: giving it back at once would only empty the queue into a delay."""
        until = time.monotonic() + PATIENCE
        pause = FIRST_PAUSE
        while True:
            try:
                work(job)
            except DatabaseUnavailable:
                if time.monotonic() > until or self.stopping.wait(pause):
                    raise
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                return

    def _split(self, chunk: IngestChunk) -> None:
        log.warning("job %s did not end: its %d pictures go one by one", chunk.id, len(chunk.items))
        singles = [chunk.model_copy(update={"id": new_id(), "items": (i,)}) for i in chunk.items]
        self.ledger.accept(singles)
        for single in singles:
            self.send(single)
        failures = [
            _failure(item, single.id) for item, single in zip(chunk.items, singles, strict=True)
        ]
        self.ledger.clear(chunk, Outcome(applied=0, failures=tuple(failures)))

    def _give_up(self, job: Job) -> None:
        log.error("job %s is given up: %s", job.id, ENDED_BADLY)
        items = job.items if isinstance(job, IngestChunk | RemoveChunk) else ()
        letters = [
            NewDeadLetter(
                job_id=job.id,
                product_id=item.product_id,
                name=_name(item),
                reason=Reason.WORKER_FAILED,
                detail=ENDED_BADLY,
                attempts=MAX_STARTS,
                message=item.model_dump(mode="json"),
                created_at=datetime.now(UTC),
            )
            for item in items
        ]
        with self.database.writing() as session:
            dead_letters.add(session, letters)
        failures = tuple(_failure(item) for item in items)
        self.ledger.clear(job, Outcome(applied=0, failures=failures))


def _name(item: ImageItem | Removal) -> str | None:
    return item.name if isinstance(item, ImageItem) else None


def _failure(item: ImageItem | Removal, retried_as: str | None = None) -> ItemFailure:
    return ItemFailure(
        product_id=item.product_id,
        name=_name(item),
        reason=Reason.WORKER_FAILED,
        detail=ENDED_BADLY,
        retried_as=retried_as,
    )
