"""A gateway whose event loop does not turn is stuck; one that has not begun is not."""

from __future__ import annotations

import asyncio
import threading

import pytest

from producer.gateway import watching
from producer.gateway.watching import live


def test_an_event_loop_that_does_not_turn_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "TURNS_WITHIN", 0.1)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        release.wait(20)

    try:
        assert live(loop).well
        loop.call_soon_threadsafe(hold)
        assert held.wait(20)
        verdict = live(loop)
        assert not verdict.well
        assert verdict.document["state"] == "stuck"
        release.set()
        monkeypatch.setattr(watching, "TURNS_WITHIN", 20.0)
        assert live(loop).well
    finally:
        release.set()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert live(loop).document["state"] == live(None).document["state"] == "starting"
