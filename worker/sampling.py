"""Measures the recall of the live index: now and then a lookup is answered once more, exactly, when nobody waits.

What is measured is the search, from the same view and with the same conditions: the ten nearest products that it
finds beside the true ten. It happens in a thread of lower priority, after the lookup, when the process has nothing
else to do.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import numpy as np

from worker import measures
from worker.courtesy import step_back
from worker.index.search import Ask, nearest
from worker.index.view import View

log = logging.getLogger(__name__)

NEAREST = 10
LONGEST_WAIT, PAUSE = 5.0, 0.05
"""Seconds that a busy process is waited for, and between two looks."""
REST = 100
"""How many times as long as a sample took no other is taken: reading a large catalogue takes a while."""
SAME = 1 + 1e-6
"""Distances that differ by less are the same."""


@dataclass(frozen=True)
class Sample:
    """One question, and the view that it was answered from."""

    view: View
    ask: Ask


class Sampler:
    """Takes a sample at most every so many seconds; none if they are 0."""

    def __init__(self, every: float, is_busy: Callable[[], bool]) -> None:
        self._every = every
        self._is_busy = is_busy
        self._due = time.monotonic()
        self._sample: Sample | None = None
        self._offered = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recall", daemon=True)

    def offer(self, make: Callable[[], Sample]) -> None:
        """Somebody was answered: if a sample is due, take what `make` gives. Called for every lookup."""
        now = time.monotonic()
        if not self._every or now < self._due:
            return
        self._due = now + self._every
        self._sample = make()
        self._offered.set()

    def _run(self) -> None:
        step_back()
        while self._offered.wait() and not self._stopping.is_set():
            self._offered.clear()
            sample, self._sample = self._sample, None
            self._wait_for_peace()
            if sample is not None and not self._stopping.is_set():
                began = time.monotonic()
                self._measure(sample)
                ended = time.monotonic()
                self._due = max(self._due, ended + REST * (ended - began))
            del sample  # it would keep a generation open that is replaced

    def _wait_for_peace(self) -> None:
        until = time.monotonic() + LONGEST_WAIT
        while self._is_busy() and time.monotonic() < until and not self._stopping.wait(PAUSE):
            pass

    def _measure(self, sample: Sample) -> None:
        try:
            measured = recall(sample)
        except Exception:  # it is a figure, and nothing else depends on it
            log.exception("recall was not measured")
            return
        if measured is not None:
            share, path = measured
            measures.RECALL.labels(path).observe(share)

    def __enter__(self) -> Self:
        if self._every:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._offered.set()
        if self._thread.is_alive():
            self._thread.join(LONGEST_WAIT)


def recall(sample: Sample) -> tuple[float, str] | None:
    """The share of the true ten nearest that the search finds, and its path; None where there is nothing to find.

    What is as near as the tenth counts as one of them.
    """
    ask = replace(sample.ask, fetch=NEAREST)
    true = nearest(sample.view, replace(ask, exactly=True))[0].distances[:NEAREST]
    if not len(true):
        return None
    found = nearest(sample.view, ask)[0]
    hits = np.count_nonzero(found.distances[: len(true)] <= true[-1] * SAME)
    return float(hits) / len(true), found.path
