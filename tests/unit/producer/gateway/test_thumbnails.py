"""What a gateway keeps of small pictures."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any, cast

import pytest

from producer.gateway import thumbnails
from producer.gateway.questions import Questions
from producer.gateway.thumbnails import Thumbnails
from producer.messages import ThumbnailReply


class Nothing:
    """A service whose products have no pictures."""

    async def reply(self, *_: object, **__: object) -> ThumbnailReply:
        """That there is none of them."""
        return ThumbnailReply(thumbnails=())


def test_it_keeps_no_more_than_it_may_of_names_that_somebody_makes_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = 1 << 20
    monkeypatch.setattr(thumbnails, "KEPT_BYTES", most)

    async def ask(kept: Thumbnails) -> None:
        for start in range(0, 4000, 500):
            names = [f"{number:04}".ljust(255, "😀") for number in range(start, start + 500)]
            await asyncio.gather(*(kept._get((name, name[::-1])) for name in names))

    async def size() -> int:
        kept = Thumbnails(cast("Questions", cast("Any", Nothing())))
        await asyncio.sleep(0)
        before, _ = tracemalloc.get_traced_memory()
        await ask(kept)
        after, _ = tracemalloc.get_traced_memory()
        assert kept._kept
        return after - before

    tracemalloc.start()
    try:
        assert asyncio.run(size()) < 2 * most
    finally:
        tracemalloc.stop()
