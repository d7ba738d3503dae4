"""Keeps the claims of this process on its jobs from running out while it works."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from redis.exceptions import RedisError

from producer.ledger import CLAIM, Claim, Ledger
from producer.messages import Job

log = logging.getLogger(__name__)


class Claims:
    """Renews each claim three times in the time that it lasts, from a thread of its own.

    A claim that is lost is no reason to stop: what is committed under it is refused by its token, if another
    worker has begun the job.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._held: dict[str, Claim[Job]] = {}
        self._returning: list[Claim[Job]] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="claims", daemon=True)

    @contextmanager
    def holding(self, claim: Claim[Job]) -> Iterator[None]:
        """Renew the claim while the block runs."""
        with self._lock:
            self._held[claim.job.id] = claim
        try:
            yield
        finally:
            with self._lock:
                self._held.pop(claim.job.id, None)

    def give_back(self, claim: Claim[Job], after: float = 0.0) -> bool:
        """Have the job published again after so many seconds, for no fault of its own; later if Redis is away.

        False if it was not given back now.
        """
        try:
            return self._ledger.give_back(claim, after)
        except RedisError as error:
            log.warning("job %s will be given back when Redis answers: %s", claim.job.id, error)
            with self._lock:
                self._returning.append(claim)
            return False

    @property
    def held(self) -> list[Claim[Job]]:
        """The claims that work goes on under now."""
        with self._lock:
            return list(self._held.values())

    def _keep(self) -> None:
        while not self._stop.wait(CLAIM / 3):
            self.tend()

    def tend(self) -> None:
        """Renew what is held, and give back what could not be given back before."""
        for claim in self.held:
            self._renew(claim)
        with self._lock:
            returning, self._returning = self._returning, []
        for claim in returning:
            self.give_back(claim)

    def _renew(self, claim: Claim[Job]) -> None:
        try:
            if not self._ledger.renew(claim):
                log.warning("job %s is another worker's by now, or has ended", claim.job.id)
        except RedisError as error:
            log.warning("the claim on job %s could not be renewed: %s", claim.job.id, error)

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
