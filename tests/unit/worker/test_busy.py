"""What a process is at, and for how long."""

from __future__ import annotations

import pytest

from producer.messages import SweepLedger, WatchIndex
from worker.busy import Busy


def test_messages_are_counted_while_they_are_worked_on() -> None:
    now = [0.0]
    busy = Busy(lambda: now[0])
    first, second = WatchIndex(), SweepLedger()
    with busy.working(first):
        now[0] = 10.0
        with busy.working(second), busy.working(second):
            assert busy.messages == [first, second, second]
            assert busy.longer_than(5.0) == [first]
            assert busy.longer_than(10.0) == []
    assert busy.messages == []


def test_what_fails_is_not_worked_on_any_more() -> None:
    busy = Busy()
    with pytest.raises(ZeroDivisionError), busy.working(WatchIndex()):
        _ = 1 // 0
    assert busy.messages == []
