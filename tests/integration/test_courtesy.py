"""What floods leaves a processor to whoever asks, while they ask."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import cast

import pytest
from redis import Redis

from producer import keys
from worker import courtesy
from worker.courtesy import Courtesy, Visitors, aside, keep_to, processors

pytestmark = pytest.mark.skipif(len(processors()) < 2, reason="needs two processors, on Linux")


def wait_until(done: Callable[[], bool]) -> None:
    """For ten seconds at most."""
    deadline = time.monotonic() + 10.0
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_processor_is_left_alone_while_somebody_asks(
    empty_valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courtesy, "EVERY", 0.01)
    everything = processors()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    with Redis.from_url(empty_valkey_url) as redis:
        visitors = Visitors(redis)
        try:
            with Courtesy(visitors):
                visitors.note()
                wait_until(lambda: len(os.sched_getaffinity(child.pid)) < len(everything))
                for thread in (0, other.native_id or 0, child.pid):
                    assert os.sched_getaffinity(thread) == everything - {min(everything)}
                redis.delete(keys.ASKED)
                wait_until(lambda: os.sched_getaffinity(child.pid) == everything)
                assert os.sched_getaffinity(0) == everything
        finally:
            keep_to(everything)
            stop.set()
            other.join()
            child.communicate(b"\n")


def test_a_lookup_is_noted_now_and_then_and_forgotten_soon(empty_valkey_url: str) -> None:
    with Redis.from_url(empty_valkey_url) as redis:
        visitors = Visitors(redis)
        assert not visitors.present()
        visitors.note()
        assert visitors.present()
        left = cast("int", redis.pttl(keys.ASKED))
        assert 0 < left <= 1000 * courtesy.STAYS
        redis.delete(keys.ASKED)
        visitors.note()  # too soon to say it again
        assert not visitors.present()


def test_who_asks_does_not_suffer_when_redis_is_away() -> None:
    with Redis(port=1) as away:
        Visitors(away).note()


def test_what_is_done_aside_has_a_lower_priority_and_its_result_and_errors_come_back() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = niceness()
    assert aside(niceness) == max(before, courtesy.NICENESS)
    assert niceness() == before
    with pytest.raises(ZeroDivisionError):
        aside(lambda: 1 // 0)
