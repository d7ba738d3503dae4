"""Receipts: what `add` and `remove` give back, to wait for a job that was accepted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from producer.errors import JobTimeout, UnknownJob
from producer.messages import ItemFailure, Outcome

if TYPE_CHECKING:
    from producer.transport import Transport

_PAGE = 500
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.25


@dataclass(frozen=True)
class Receipt:
    """A job that was accepted: it will be applied, or given up with a reason, also if nobody waits."""

    id: str
    items: int
    """Pictures, or products to remove, in the job."""
    transport: Transport = field(repr=False, compare=False)

    def wait(self, timeout: float | None = None) -> Outcome:
        """What became of every item, once known: retries of items that failed for a passing reason included.

        Raises JobTimeout after `timeout` seconds, and UnknownJob if nobody remembers the job any more.
        """
        tracker = Tracker(self.transport, [self])
        tracker.wait(timeout)
        return tracker.outcome


class Tracker:
    """Follows many jobs, and the jobs that retry some of their items, to their ends."""

    def __init__(self, transport: Transport, receipts: Iterable[Receipt] = ()) -> None:
        self._transport = transport
        self._open: dict[str, int] = {}
        self._applied = 0
        self._failures: list[ItemFailure] = []
        self._forgotten = 0
        self.watch(receipts)

    def watch(self, receipts: Iterable[Receipt]) -> None:
        """Follow these jobs too."""
        self._open.update((receipt.id, receipt.items) for receipt in receipts)

    @property
    def outcome(self) -> Outcome:
        """What is known so far, of all jobs together."""
        return Outcome(applied=self._applied, failures=tuple(self._failures))

    @property
    def done(self) -> int:
        """Items that are applied or given up."""
        return self._applied + len(self._failures) + self._forgotten

    @property
    def open(self) -> int:
        """Items that are neither applied nor given up yet."""
        return sum(self._open.values())

    def poll(self) -> int:
        """Ask once for news of every open job; returns how many items have ended."""
        before = self.done
        for page in _pages(list(self._open)):
            for job_id, outcome in zip(page, self._transport.outcomes(page), strict=True):
                if outcome is not None:
                    self._close(job_id, outcome)
        return self.done - before

    def wait(
        self, timeout: float | None = None, progress: Callable[[int], object] | None = None
    ) -> None:
        """Poll until every job has ended; `progress` is called with the items done so far.

        Raises JobTimeout after `timeout` seconds, and UnknownJob if nobody remembers some of the jobs.
        """
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        pause = _FIRST_PAUSE
        while True:
            moved = self.poll()
            if progress is not None and moved:
                progress(self.done)
            left = deadline - time.monotonic()
            if not self._open:
                break
            if left <= 0:
                raise JobTimeout(
                    f"{self.open} of {self.open + self.done} items are accepted and not applied after "
                    f"{timeout:g} s: wait longer, nothing is lost, or check `lookalike status`"
                )
            pause = _FIRST_PAUSE if moved else min(pause * 1.5, _LONGEST_PAUSE)
            if pause == _LONGEST_PAUSE:
                self._forget()
            time.sleep(min(pause, max(left, 0)))
        if self._forgotten:
            raise UnknownJob(
                f"{self._forgotten} items ended too long ago to be remembered, or their ids are wrong"
            )

    def _close(self, job_id: str, outcome: Outcome) -> None:
        self._open.pop(job_id)
        self._applied += outcome.applied
        for failure in outcome.failures:
            if failure.retried_as is None:
                self._failures.append(failure)
            else:
                self._open[failure.retried_as] = self._open.get(failure.retried_as, 0) + 1

    def _forget(self) -> None:
        for page in _pages(list(self._open)):
            for job_id in self._transport.missing(page):
                self._forgotten += self._open.pop(job_id)


def _pages(ids: list[str]) -> Iterator[list[str]]:
    return (ids[start : start + _PAGE] for start in range(0, len(ids), _PAGE))
