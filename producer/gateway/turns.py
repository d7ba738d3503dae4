"""Turns: how many questions of pages are on the queue at once, which the removals of shops share with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from producer.gateway.mailboxes import Mailboxes
from producer.gateway.problems import Refusal, refuse

AT_ONCE = 32
"""Questions that a gateway has on the queue at most: those beyond wait here, and not in front of a removal."""
PAST_AT_ONCE = 8
"""The same of lookups in kept generations, each of which may take seconds."""
PAST_FOR = 30.0
"""Seconds after which one that has no answer is not counted any more."""


class Turns:
    """Of one gateway. Belongs to one event loop."""

    def __init__(self, mailboxes: Mailboxes) -> None:
        self._mailboxes = mailboxes
        self._free = asyncio.Semaphore(AT_ONCE)
        self._past: set[str] = set()

    @asynccontextmanager
    async def one(self, patience: float) -> AsyncIterator[None]:
        """A turn for the block. Raises Refused when none comes within so many seconds."""
        try:
            async with asyncio.timeout(patience):
                await self._free.acquire()
        except TimeoutError:
            raise refuse(Refusal.BUSY, "Send the request again in a moment.") from None
        try:
            yield
        finally:
            self._free.release()

    def look_for_room(self) -> None:
        """Raise Refused when so many lookups in kept generations are on their way that another has to wait."""
        if len(self._past) >= PAST_AT_ONCE:
            detail = (
                "Other lookups in kept generations are still being answered: ask again in a moment."
            )
            raise refuse(Refusal.BUSY, detail)

    async def count(self, lookup_id: str) -> None:
        """Count one of those until it is answered."""
        self._past.add(lookup_id)
        try:
            await self._mailboxes.wait(lookup_id, PAST_FOR)
        finally:
            self._past.discard(lookup_id)
