"""Small pictures for pages: many asked for at once are one question, and those asked for often are kept."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections import OrderedDict
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from producer.gateway.lookbook import etag_of, is_known
from producer.gateway.problems import Refusal, refuse
from producer.gateway.questions import Questions
from producer.messages import ThumbnailReply, ThumbnailRequest

GATHER = 0.004
"""Seconds in which requests become one question: a page asks for all of its pictures at once."""
TOGETHER = 64
"""Pictures of one question."""
KEPT_FOR, MISSED_FOR = 60.0, 5.0
"""Seconds for which a picture is kept, and that there is none."""
KEPT_BYTES = 64 << 20
OVERHEAD = 600
"""Bytes that are counted for each, beside its JPEG and its names."""
HEADERS = {
    "Cache-Control": "private, max-age=60, stale-while-revalidate=86400",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Authorization",
    "X-Content-Type-Options": "nosniff",
}

Key = tuple[str, str]


@dataclass(frozen=True)
class Kept:
    """A picture, or that there is none, until it has to be asked for again."""

    jpeg: bytes | None
    etag: str
    until: float


class Thumbnails:
    """Belongs to one event loop."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions
        self._kept: OrderedDict[Key, Kept] = OrderedDict()
        self._bytes = 0
        self._asked: dict[Key, asyncio.Future[Kept]] = {}
        """What is waited for."""
        self._wanted: list[Key] = []
        """What of that is not asked yet."""
        self._asking: set[asyncio.Task[None]] = set()

    async def response(self, request: Request, product_id: str, name: str) -> Response:
        """A picture, or that the client has it already. Raises Refused when there is none."""
        kept = await self._get((product_id, name))
        if kept.jpeg is None:
            detail = "Is the product in the catalogue, and its picture of this name?"
            raise refuse(Refusal.NO_PICTURE, detail)
        headers = HEADERS | {"ETag": kept.etag}
        if is_known(request, kept.etag):
            return Response(status_code=304, headers=headers)
        return Response(kept.jpeg, headers=headers, media_type="image/jpeg")

    async def _get(self, key: Key) -> Kept:
        loop = asyncio.get_running_loop()
        kept = self._kept.get(key)
        if kept is not None and kept.until > loop.time():
            self._kept.move_to_end(key)
            return kept
        if key not in self._asked:
            if not self._wanted:
                loop.call_later(GATHER, self._ask)
            self._wanted.append(key)
            self._asked[key] = loop.create_future()
            self._asked[key].add_done_callback(_seen)
        # Somebody else may wait for it, too: whoever goes away takes it from nobody.
        return await asyncio.shield(self._asked[key])

    def _ask(self) -> None:
        wanted, self._wanted = self._wanted, []
        for start in range(0, len(wanted), TOGETHER):
            task = asyncio.create_task(self._fetch(wanted[start : start + TOGETHER]))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _fetch(self, keys: list[Key]) -> None:
        futures = {key: self._asked[key] for key in keys}
        try:
            reply = await self._questions.reply(
                ThumbnailRequest, ThumbnailReply, images=tuple(keys)
            )
            found = {(each.product_id, each.name): each.jpeg for each in reply.thumbnails}
            for key, future in futures.items():
                if not future.done():
                    future.set_result(self._keep(key, found.get(key)))
        except Exception as error:
            for future in futures.values():
                if not future.done():
                    future.set_exception(error)
        finally:
            for key in keys:
                del self._asked[key]

    def _keep(self, key: Key, encoded: str | None) -> Kept:
        jpeg = None if encoded is None else base64.b64decode(encoded)
        lasts = MISSED_FOR if jpeg is None else KEPT_FOR
        kept = Kept(jpeg, etag_of(jpeg or b""), asyncio.get_running_loop().time() + lasts)
        before = self._kept.pop(key, None)
        self._kept[key] = kept
        self._bytes += _size(key, kept) - (_size(key, before) if before else 0)
        while self._bytes > KEPT_BYTES:
            self._bytes -= _size(*self._kept.popitem(last=False))
        return kept


def _size(key: Key, kept: Kept) -> int:
    """Bytes, about. A client makes up names as long as they may be, of which it knows that they are not there."""
    return OVERHEAD + sum(map(sys.getsizeof, key)) + len(kept.jpeg or b"")


def _seen(future: asyncio.Future[Kept]) -> None:
    """Whoever waited may have gone away: nothing to warn of."""
    if not future.cancelled():
        future.exception()
