"""Threads for what waits for Redis: so many, and no more than so many requests before them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from producer.gateway.problems import Refusal, refuse

R = TypeVar("R")
ANSWER_WITHIN = 20.0
"""Seconds after which a client is told that the queue does not answer; the call goes on, and may succeed."""


class Threads:
    """A few threads, with a queue that has an end."""

    def __init__(self, name: str, count: int, waiting: int) -> None:
        self.name, self.count, self.most = name, count, count + waiting
        self.taken = 0
        """Requests that have a thread, or wait for one."""
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, work: Callable[[], R]) -> R:
        """What `work` returns. Raises what it raises, and Refused when too many wait, or it takes too long."""
        if self.taken >= self.most:
            raise refuse(Refusal.BUSY, "Send the request again in a moment.")
        self.taken += 1
        future = asyncio.get_running_loop().run_in_executor(
            self._pool,
            copy_context().run,
            work,  # which trace it belongs to, and what the log says
        )
        future.add_done_callback(self._ended)
        done, _ = await asyncio.wait([future], timeout=ANSWER_WITHIN)
        if not done:
            raise refuse(
                Refusal.UNAVAILABLE,
                "The queue does not answer. The request may have been accepted all the same: send it again "
                "with the same Idempotency-Key, if it had one.",
            )
        return future.result()

    def close(self) -> None:
        """Let the threads end with what they do."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ended(self, future: asyncio.Future[R]) -> None:
        self.taken -= 1
        if not future.cancelled():
            future.exception()  # somebody has looked: nothing to warn of
