"""Join pictures that arrive together into batches for the one thread that runs the network."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from producer import logs
from worker import measures

Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float32]

_PATIENCE = 1.0
"""Seconds after which a large request goes first, so that a stream of small ones cannot hold it up for ever."""
_log = logging.getLogger(__name__)


class BatcherClosed(RuntimeError):
    """The batcher was closed: the worker is stopping."""


@dataclass(eq=False)
class _Request:
    """Pictures of one `submit`, embedded piece by piece."""

    pixels: Pixels
    since: float
    """When it came, by the monotonic clock."""
    about: str = field(default_factory=logs.current)
    """The job or lookup that it is for."""
    future: Future[Vectors] = field(default_factory=Future)
    taken: int = 0
    done: list[Vectors] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        return len(self.pixels) - self.taken

    def take(self, room: int) -> Pixels:
        """The next pictures, at most `room`."""
        start, self.taken = self.taken, min(self.taken + room, len(self.pixels))
        return self.pixels[start : self.taken]

    def give(self, vectors: Vectors) -> None:
        """Add the rows of what was taken last; the last of all settles the future."""
        self.done.append(vectors)
        if sum(map(len, self.done)) == len(self.pixels) and not self.future.done():
            self.future.set_result(np.concatenate(self.done))

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


_Pieces = Sequence[tuple[_Request, Pixels]]


class MicroBatcher:
    """One thread that calls `embed`, on batches joined from the requests that wait. Thread-safe.

    A batch starts as soon as `max_batch` pictures wait, or `max_wait` seconds after the first of them came;
    while the network is busy, requests gather, so that only an idle service ever waits. Small requests go ahead
    of large ones: a shopper's picture is not held up by a chunk of the catalogue for more than one batch.
    """

    def __init__(
        self,
        embed: Callable[[Pixels], Vectors],
        *,
        max_batch: int = 64,
        max_wait: float = 0.003,
        capacity: int = 1024,
    ) -> None:
        """`embed` maps uint8 [n, S, S, 3] to float32 [n, d]; `capacity` counts pictures that may wait."""
        self._embed = embed
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._capacity = max(capacity, max_batch)
        self._requests: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._began: float | None = None
        self._thread = threading.Thread(target=self._run, name="embedder", daemon=True)
        self._thread.start()

    def submit(self, pixels: Pixels) -> Future[Vectors]:
        """Queue uint8 [n, S, S, 3]; the future gives float32 [n, d] in the same order.

        A row is NaN for a picture on which the network fails. When it fails on a blank picture as well, no picture
        is to blame and the future raises its error. Waits while `capacity` pictures are queued;
        raises BatcherClosed after `close`.
        """
        request = _Request(pixels, time.monotonic())
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._fits(len(pixels)))
            if self._closed:
                raise BatcherClosed("the worker is stopping")
            if len(pixels) == 0:
                request.future.set_result(np.empty((0, 0), np.float32))
                return request.future
            self._requests.append(request)
            self._changed.notify_all()
        return request.future

    def embed(self, pixels: Pixels) -> Vectors:
        """Submit and wait."""
        return self.submit(pixels).result()

    def close(self) -> None:
        """Embed what is queued, then stop the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def busy_for(self) -> float:
        """Seconds since the batch in hand was begun; 0 when there is none."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    @property
    def _waiting(self) -> int:
        return sum(request.waiting for request in self._requests)

    def _fits(self, pictures: int) -> bool:
        # A request beyond the capacity is let in when nothing else waits, or it never would be.
        return not self._requests or self._waiting + pictures <= self._capacity

    def _run(self) -> None:
        while pieces := self._next():
            self._began = time.monotonic()
            self._process(pieces)
            self._began = None

    def _next(self) -> _Pieces:
        """Wait for a batch; nothing when closed and drained."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._requests)
            full_at = time.monotonic() + self._max_wait
            self._changed.wait_for(
                lambda: self._closed or self._waiting >= self._max_batch,
                max(0.0, full_at - time.monotonic()),
            )
            pieces = self._take()
            self._changed.notify_all()
            return pieces

    def _take(self) -> _Pieces:
        """Fill a batch: what has waited too long, then the smallest, in the order they came among equals."""
        now = time.monotonic()
        fresh = now - _PATIENCE
        pieces: list[tuple[_Request, Pixels]] = []
        waits: list[float] = []
        room = self._max_batch
        for request in sorted(self._requests, key=lambda each: (each.since > fresh, each.waiting)):
            if room == 0:
                break
            if not request.taken:
                waits.append(now - request.since)
            piece = request.take(room)
            room -= len(piece)
            pieces.append((request, piece))
        self._requests = deque(each for each in self._requests if each.waiting)
        if pieces:
            measures.batch(self._max_batch - room, waits)
        return pieces

    def _process(self, pieces: _Pieces) -> None:
        try:
            with logs.about(logs.ids([each.about for each, _ in pieces])), measures.stage("model"):
                vectors = self._vectors(pieces)
        except BaseException as error:
            for request, _ in pieces:
                request.fail(error)
                self._forget(request)
            return
        start = 0
        for request, piece in pieces:
            request.give(vectors[start : start + len(piece)])
            start += len(piece)

    def _forget(self, request: _Request) -> None:
        """Do not embed the rest of a request that has failed."""
        with self._changed:
            self._requests = deque(each for each in self._requests if each is not request)
            self._changed.notify_all()

    def _vectors(self, pieces: _Pieces) -> Vectors:
        batch = np.concatenate([piece for _, piece in pieces])
        try:
            return self._embed(batch)
        except Exception as error:
            _log.warning("a batch of %d failed and is tried one by one: %r", len(batch), error)
        return self._one_by_one(batch)

    def _one_by_one(self, batch: Pixels) -> Vectors:
        # Does it fail on nothing but black, too? Then no picture is to blame, and this raises.
        blank = self._embed(np.zeros_like(batch[:1]))
        nothing = np.full_like(blank, np.nan)
        return np.concatenate([self._or(batch[at : at + 1], nothing) for at in range(len(batch))])

    def _or(self, picture: Pixels, nothing: Vectors) -> Vectors:
        try:
            return self._embed(picture)
        except Exception as error:
            _log.warning("the network failed on one picture: %r", error)
            return nothing
