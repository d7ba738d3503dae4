"""Reminds the operator of a pinned generation that is outgrown: the service does not replace it by itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from worker.index.rebuild import IndexState, RebuildLimits, outgrown

log = logging.getLogger(__name__)

REMIND_EVERY = 600.0
"""Seconds between two reminders of one process."""


class PinReminder:
    """Warns at the first look that finds a pinned generation outgrown, and now and then while it stays so."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = -1.0

    def look(self, state: IndexState, limits: RebuildLimits) -> None:
        """Say what is wrong, if anything is and it was not said a moment ago."""
        reason = outgrown(state, limits)
        if reason is None or self._clock() < self._next:
            return
        self._next = self._clock() + REMIND_EVERY
        log.warning(
            "a rollback pinned generation %s, and %s: run `lookalike-worker reindex` to replace it",
            state.generation,
            reason,
        )
