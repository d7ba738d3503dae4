"""What a process says of itself: stuck is told from idle, and away from stuck."""

from __future__ import annotations

import threading

import pytest
from redis import Redis

from producer.messages import Reindex, SweepLedger
from worker import beat, heartbeat, lookout
from worker.beat import STANDS_STILL_AFTER, Clock
from worker.busy import Busy
from worker.heartbeat import Heartbeat, beating
from worker.lookout import NAMES, Lookout
from worker.settings import WorkerSettings
from worker.vitals import Vitals
from worker.watchdog import Sign, Watchdog


class Process:
    """A process, as far as its vitals go."""

    def __init__(self) -> None:
        self.now = 0.0
        self.busy = Busy(lambda: self.now)
        self.stopping = threading.Event()
        self.redis = "ok"
        self.complaints: list[str] = []
        self.vitals = Vitals("search", {"redis": lambda: self.redis}, self.busy, self.stopping)
        self.vitals.complaints = lambda: self.complaints

    def figures(self) -> dict[str, float]:
        return {
            "/".join([sample.name, *sample.labels.values()]): sample.value
            for family in self.vitals.collect()
            for sample in family.samples
        }


@pytest.fixture
def process() -> Process:
    return Process()


def test_it_is_starting_idle_working_and_stopping(process: Process) -> None:
    assert process.vitals.live().document["state"] == "starting"
    assert not process.vitals.ready().well
    process.vitals.consumes()
    assert process.vitals.live().document["state"] == "idle"
    assert process.vitals.ready().document == {
        "role": "search",
        "state": "consuming",
        "redis": "ok",
    }
    with process.busy.working(SweepLedger()):
        process.now += 7
        assert process.vitals.live().document["state"] == "working"
        assert process.vitals.ready().well
    process.stopping.set()
    assert process.vitals.live().well
    assert process.vitals.live().document["state"] == "stopping"
    assert not process.vitals.ready().well


def test_only_a_complaint_is_no_life(process: Process) -> None:
    process.vitals.consumes()
    process.redis = "Redis cannot be used"
    assert process.vitals.live().well
    assert not process.vitals.ready().well
    process.complaints = ["work does not end"]
    assert not process.vitals.live().well
    assert process.vitals.live().document["state"] == "stuck"
    assert process.vitals.live().document["complaints"] == ["work does not end"]
    assert not process.vitals.is_well()


def test_it_tells_how_long_it_is_at_what(process: Process) -> None:
    process.vitals.consumes()
    with process.busy.working(Reindex(reason="a")):
        process.now += 5
        with process.busy.working(SweepLedger()), process.busy.working(SweepLedger()):
            process.now += 2
            assert process.vitals.live().document["working_on"] == [
                {"task": "lookalike.reindex", "seconds": 7.0},
                {"task": "lookalike.sweep_ledger", "seconds": 2.0},
                {"task": "lookalike.sweep_ledger", "seconds": 2.0},
            ]
            assert process.figures() == {
                "lookalike_stuck": 0,
                "lookalike_consuming": 1,
                "lookalike_working_seconds/reindex": 7,
                "lookalike_working_seconds/sweep_ledger": 2,
            }


def test_a_watchdog_complains_of_what_lasts_and_of_what_may_not_be() -> None:
    shows = {"now": False}
    at_once = Sign("may not be", lambda: shows["now"], 0.0, 5)
    patient = Sign("may be for a while", lambda: True, 10.0, 4)
    watchdog = Watchdog([at_once, patient], lambda _: None)
    assert watchdog.complaints == []
    shows["now"] = True
    assert watchdog.complaints == ["may not be"]
    for _ in range(11):
        watchdog._lasts_too_long(patient)
    assert watchdog.complaints == ["may not be", "may be for a while"]


def test_what_is_stuck_sends_no_heartbeat(
    empty_valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "EVERY", 0.01)
    well, looked = threading.Event(), threading.Semaphore(0)

    def is_well() -> bool:
        looked.release()
        return well.is_set()

    with Redis.from_url(empty_valkey_url) as redis, Heartbeat(redis, "embed", is_well) as beats:
        beats.start()
        for _ in range(3):
            assert looked.acquire(timeout=20)
        assert beating(redis) == []
        well.set()
        for _ in range(3):
            assert looked.acquire(timeout=20)
        assert [each.role for each in beating(redis)] == ["embed"]


def test_a_clock_that_stands_still_is_stuck_unless_redis_is_away(
    empty_valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("worker.beat.time.monotonic", lambda: now)
    with Redis.from_url(empty_valkey_url) as redis:
        vitals = Vitals("beat", {})
        beat._look_after(vitals, redis)
        assert vitals.live().document["state"] == "idle"
        now += STANDS_STILL_AFTER + 1
        assert "nothing was sent for 61 s" in vitals.complaints()
        Clock.ticked = now
        assert vitals.is_well()
    now += STANDS_STILL_AFTER + 1
    with Redis(port=1) as away:
        vitals.complaints = lambda: beat._complaints(away)
        assert vitals.is_well()


# -- where `up` has its processes watched ----------------------------------------------------------


def test_each_process_has_a_port_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookout, "_problem", lambda *_: "")
    found = Lookout.of(WorkerSettings())
    assert list(found.ports) == list(NAMES)
    assert list(found.ports.values()) == [8391, 8392, 8393, 8394, 8395, 8396]
    assert "http://127.0.0.1:8391/metrics" in found.shown
    assert Lookout.of(WorkerSettings(metrics_port=9100)).ports["beat"] == 9104


def test_a_port_that_is_taken_is_a_reason_to_do_without(valkey_url: str) -> None:
    port = int(valkey_url.rpartition(":")[2].partition("/")[0])
    found = Lookout.of(WorkerSettings(metrics_port=port))
    assert not found.ports
    assert f"port {port} of 127.0.0.1" in found.shown
    assert "LOOKALIKE_METRICS_PORT" in found.shown
    assert not Lookout.of(WorkerSettings(metrics_port=0)).ports
    assert "cannot be had" in Lookout.of(WorkerSettings(metrics_host="192.0.2.1")).shown
    assert "is none" in Lookout.of(WorkerSettings(metrics_port=65_533)).shown
