"""Mailboxes watched from the event loop: one look in all of them at a time, however many wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from producer import keys
from producer.errors import QueueUnavailable
from producer.mailbox import FIRST_PAUSE, is_open, pause_after
from producer.settings import ProducerSettings
from producer.transport import client, unavailable

log = logging.getLogger(__name__)

SOCKET_TIMEOUT = 5.0
TOGETHER = 0.0005
"""Seconds by which a look may come early, to be one with another."""
AT_ONCE = 500


@dataclass(eq=False)
class _Look:
    """Somebody who waits for a mailbox to hold something else than what was seen."""

    place: str
    seen: bytes | object | None
    began: float
    due: float
    found: asyncio.Future[bytes | None]


_NOTHING = object()


class Mailboxes:
    """Looks into mailboxes for all who wait, by one connection, and less often the longer one waits.

    What is found are bytes: `producer.mailbox.parse` says what they mean. Raises QueueUnavailable.
    """

    def __init__(self, settings: ProducerSettings) -> None:
        self._url = settings.redis_url.get_secret_value()
        # One new connection for one that was lost: whoever waits is told, and asks again.
        retry = Retry(NoBackoff(), 1)
        self._redis: Redis = client(
            Redis.from_url, settings, retry=retry, socket_timeout=SOCKET_TIMEOUT
        )
        self._looks: set[_Look] = set()
        self._rested: asyncio.Future[None] | None = None
        self._closing = False

    async def look(self, lookup_id: str) -> bytes | None:
        """What lies in the mailbox now; None if there is none."""
        return await self._change(lookup_id, _NOTHING)

    async def change(self, lookup_id: str, seen: bytes | None, timeout: float) -> bytes | None:
        """What lies there once it is not `seen` any more, or `seen` after `timeout` seconds."""
        if self._closing or timeout <= 0:
            return seen
        try:
            async with asyncio.timeout(timeout):
                return await self._change(lookup_id, seen)
        except TimeoutError:
            return seen

    async def wait(self, lookup_id: str, timeout: float) -> bytes | None:
        """What lies there once it is an answer, or after `timeout` seconds."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        raw = await self.look(lookup_id)
        while is_open(raw) and not self._closing and (left := deadline - clock()) > 0:
            raw = await self.change(lookup_id, raw, left)
        return raw

    async def run(self) -> None:
        """Look whenever a look is due, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            now = clock() + TOGETHER
            if due := [each for each in self._looks if each.due <= now][:AT_ONCE]:
                await self._look_into(due)
            else:
                await self._rest()

    def close_soon(self) -> None:
        """Let everybody who waits go with what they have seen."""
        self._closing = True
        for each in self._looks:
            if each.seen is not _NOTHING and not each.found.done():
                each.found.set_result(each.seen)  # type: ignore[arg-type]

    async def clear(self, question_id: str) -> None:
        """Empty a mailbox whose answer was read by the only one who knows of it: else pages would fill Redis."""
        with suppress(RedisError, OSError):  # it expires by itself, only later
            await self._redis.set(keys.mailbox(question_id), b"", px=1)

    @property
    def closing(self) -> bool:
        """Whether nobody may wait any more."""
        return self._closing

    @property
    def watchers(self) -> int:
        """How many wait."""
        return len(self._looks)

    async def close(self) -> None:
        """Let go of the connection."""
        await self._redis.aclose()

    async def _change(self, lookup_id: str, seen: bytes | object | None) -> bytes | None:
        now = asyncio.get_running_loop().time()
        due = now if seen is _NOTHING else now + FIRST_PAUSE
        with self._looking(_Look(keys.mailbox(lookup_id), seen, now, due, self._future())) as look:
            return await look.found

    @contextmanager
    def _looking(self, look: _Look) -> Iterator[_Look]:
        self._looks.add(look)
        self._rouse()
        try:
            yield look
        finally:
            self._looks.discard(look)

    async def _look_into(self, due: list[_Look]) -> None:
        places = list(dict.fromkeys(each.place for each in due))
        try:
            found = dict(zip(places, await self._redis.mget(places), strict=True))
        except (RedisError, OSError) as error:
            self._fail(due, unavailable(error, self._url))
            return
        now = asyncio.get_running_loop().time()
        for each in due:
            raw = found[each.place]
            if raw == each.seen:
                each.due = now + pause_after(now - each.began)
            elif not each.found.done():
                each.found.set_result(raw)
                self._looks.discard(each)

    def _fail(self, due: list[_Look], error: QueueUnavailable) -> None:
        log.warning("%s", error)
        for each in due:
            self._looks.discard(each)
            if not each.found.done():
                each.found.set_exception(error)

    async def _rest(self) -> None:
        """Until the next look is due, or somebody comes."""
        self._rested = self._future()
        due = min((each.due for each in self._looks), default=None)
        loop = asyncio.get_running_loop()
        timer = None if due is None else loop.call_at(due, self._rouse)
        try:
            await self._rested
        finally:
            if timer is not None:
                timer.cancel()

    def _rouse(self) -> None:
        if self._rested is not None and not self._rested.done():
            self._rested.set_result(None)

    @staticmethod
    def _future() -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()
