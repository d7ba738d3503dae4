"""What many who look at once cost."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from producer.errors import QueueUnavailable
from producer.gateway import browsing
from producer.gateway.browsing import Browsing
from producer.gateway.gateway import Gateway
from producer.gateway.problems import Refusal, refuse
from producer.messages import QueueStatus


class Slow:
    """A gateway whose Redis takes its time, and may then be away."""

    def __init__(self) -> None:
        self.questions = self
        self.looks = 0
        self.away = False
        self.answers = asyncio.Event()

    async def queues(self) -> tuple[int, tuple[QueueStatus, ...]]:
        """How the queues are, once it answers."""
        self.looks += 1
        await self.answers.wait()
        if self.away:
            raise QueueUnavailable("it is away")
        return 7, ()

    async def reply(self, *_: object) -> object:
        """That no worker answers."""
        raise refuse(Refusal.NO_WORKER, "nobody")


async def asked(browsing: Browsing, slow: Slow, number: int) -> list[Any]:
    slow.answers.clear()
    asking = [asyncio.create_task(browsing.status()) for _ in range(number)]
    await asyncio.sleep(0)
    asking[0].cancel()  # whoever goes away takes it from nobody
    await asyncio.sleep(0)
    slow.answers.set()
    return (await asyncio.gather(*asking, return_exceptions=True))[1:]


def test_all_who_ask_how_it_is_wait_for_one_look_also_when_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(browsing, "STATUS_FRESH", 3600.0)

    async def all_() -> None:
        slow = Slow()
        looking = Browsing(cast("Gateway", slow))
        slow.away = True
        refused = await asked(looking, slow, 10)
        assert {type(each) for each in refused} == {QueueUnavailable}
        assert slow.looks == 1
        slow.away = False
        told = await asked(looking, slow, 10)
        assert {json.loads(each.body)["backlog"] for each in told} == {7}
        assert slow.looks == 2
        assert (await looking.status()).status_code == 200
        assert slow.looks == 2

    asyncio.run(all_())
