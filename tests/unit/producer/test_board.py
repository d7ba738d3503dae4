"""What `lookalike status` makes of what it is told."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from rich.console import Console

from producer import Producer
from producer.cli import board, overview
from producer.cli.overview import Overview, as_json
from producer.cli.terminal import Terminal
from producer.cli.trend import Trend, ago
from producer.depths import deepest
from producer.errors import ServiceUnresponsive
from producer.messages import (
    FreshnessStatus,
    QueueStatus,
    RolloutStatus,
    StatusReply,
    WorkerStatus,
)

NOW = 1_000_000.0
QUEUES = tuple(QueueStatus(name=name, waiting=0, unacked=0) for name in board.TAKEN_BY)


def service(**changes: object) -> StatusReply:
    values: dict[str, object] = {
        "products": 3,
        "images": 4,
        "revision": 5,
        "pending": 6,
        "model_version": "ab" * 32,
        "model_name": "a model",
        "generation": None,
    }
    return StatusReply.model_validate(values | changes)


def worker(role: str, **changes: object) -> WorkerStatus:
    values: dict[str, object] = {"role": role, "host": "h", "pid": 7, "started_at": 1.0}
    return WorkerStatus.model_validate(values | changes)


def drawn(
    reply: StatusReply | None,
    queues: Sequence[QueueStatus] = QUEUES,
    trend: Trend | None = None,
    **options: bool,
) -> str:
    console = Console(width=200, highlight=False)
    with console.capture() as captured:
        console.print(board.draw(Overview(7, queues, reply, "nobody"), trend, **options))
    return captured.get()


def row(text: str, name: str) -> str:
    return " ".join(
        next(line for line in text.splitlines() if line.strip().startswith(name)).split()
    )


def test_queues_with_what_waits_what_is_held_and_the_oldest() -> None:
    queues = (
        QueueStatus(name="ingest", waiting=1204, unacked=3, oldest=131.0),
        QueueStatus(name="query", waiting=0, unacked=0),
        QueueStatus(name="lookup", waiting=2),
    )
    shown = drawn(None, queues)
    assert row(shown, "ingest") == "ingest 1,204 3 2 min"
    assert row(shown, "query") == "query 0 0"
    assert row(shown, "lookup") == "lookup 2 ?"
    assert row(shown, "accepted") == "accepted, not applied 7"
    assert "nobody" in shown


@pytest.mark.parametrize("wide", [False, True])
def test_how_fresh_it_is_and_how_far_a_rollout_is(wide: bool) -> None:
    fresh = FreshnessStatus(p50=0.41, p95=1.92, samples=1000, since=datetime.now(UTC))
    rollout = RolloutStatus(
        model_version="cd" * 32,
        model_name="new",
        images=200,
        embedded=150,
        given_up={"not_found": 3},
        waits_for="no embed worker runs",
    )
    assert rollout.waiting == 47
    shown = drawn(service(freshness=fresh, rollout=rollout), wide=wide)
    assert "0.41 s (p50), 1.92 s (p95) of the last 1,000 changes" in shown
    told = "75%: 150 of 200 embedded, 47 missing, 3 not_found given up"
    assert told in " ".join(shown.split())
    assert "the rollout waits: no embed worker runs" in shown
    assert "not measured yet" in drawn(service())
    assert "rollout" not in drawn(service())


def test_who_is_busy_who_is_idle_and_who_seems_stuck() -> None:
    workers = (
        worker("embed", busy=3, longest=12.0),
        worker("embed", busy=3, longest=420.0, stuck=True, host="gpu-2"),
        worker("search"),
        worker("beat"),
    )
    shown = drawn(service(workers=workers))
    assert row(shown, "embed").endswith("6 messages, oldest 7 min")
    assert row(shown, "search  ").endswith("idle")
    assert row(shown, "beat").endswith("UTC")
    assert "embed on gpu-2 (pid 7) has been at one message for 7 min: it seems to be stuck" in shown


@pytest.mark.parametrize(
    ("queue", "taker", "ignored"),
    [
        ({"oldest": 31.0}, {}, True),
        ({"oldest": 29.0}, {}, False),
        ({"oldest": 31.0, "unacked": 1}, {}, False),
        ({"oldest": 31.0}, {"busy": 1, "longest": 1.0}, False),
        ({"oldest": 31.0}, {"role": "embed"}, False),
        ({"oldest": 31.0}, {"age": 5.0}, False),
        ({"oldest": 31.0, "waiting": 0}, {}, False),
    ],
    ids=["ignored", "for a moment", "held", "busy", "of nobody's", "just started", "empty"],
)
def test_a_queue_that_its_idle_workers_ignore(
    queue: dict[str, object], taker: dict[str, Any], ignored: bool
) -> None:
    values: dict[str, object] = {"name": "lookup", "waiting": 1, "unacked": 0}
    seen = QueueStatus.model_validate(values | queue)
    made: dict[str, Any] = {"role": "search", "age": 3600.0} | taker
    made["started_at"] = time.time() - made.pop("age")
    shown = drawn(service(workers=(worker(**made),)), (seen,))
    assert ("lookup has waited for 31 s, and its workers are idle" in shown) is ignored


def looked(backlogs: Iterable[int]) -> Trend:
    trend = Trend()
    for second, backlog in enumerate(backlogs):
        queue = QueueStatus(name="ingest", waiting=backlog, unacked=0)
        trend.add(NOW + second, backlog, (queue,))
    return trend


def test_a_watch_says_when_the_backlog_will_be_gone() -> None:
    assert looked(range(1000, 800, -10)).outlook == "10.0/s, empty in 81 s"
    assert looked(range(0, 100, 5)).outlook == "grows by 5.0/s"
    assert looked([7] * 20).outlook == ""
    assert looked([9, 7]).outlook == ""
    assert looked([9, 7, 5, 3, 0]).outlook == ""
    assert "10.0/s, empty in 81 s" in drawn(service(), trend=looked(range(1000, 800, -10)))


def test_a_watch_draws_the_last_minute() -> None:
    assert looked([0] * 60).bars("ingest") == ""
    bars = looked(range(600, 0, -10)).bars("ingest")
    assert len(bars) == 12
    assert bars[0] == "█"
    assert list(bars) == sorted(bars, reverse=True)
    assert looked([2] * 60).bars("ingest") == "▃" * 12
    assert len(looked([1] * 500)._looks) <= 62


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s"), (99, "99 s"), (131, "2 min"), (7200, "2 h"), (200_000, "2 days")],
)
def test_spans_of_time(seconds: float, said: str) -> None:
    assert ago(seconds) == said


class Shop:
    """Answers a watch twice; after that it is interrupted."""

    def __init__(self) -> None:
        self.left = 2

    def backlog(self) -> int:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return 7

    def queue_status(self) -> tuple[QueueStatus, ...]:
        return QUEUES

    def status(self, _timeout: float) -> StatusReply:
        if not self.left:
            raise ServiceUnresponsive
        return service()


def test_a_watch_is_in_place_and_leaves_what_was_seen_last(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, height=60, highlight=False)
    monkeypatch.setattr(overview, "Console", lambda **_: console)
    monkeypatch.setattr("producer.cli.overview.time.sleep", lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        overview.watch(cast(Producer, Shop()), Terminal(), 1.0)
    screen, _, left = out.getvalue().rpartition("\x1b[?1049l")
    assert screen.startswith("\x1b[?1049h")
    assert "Ctrl-C ends" in screen
    assert "a model" in screen
    assert "Ctrl-C ends" not in left
    assert str(ServiceUnresponsive()) in " ".join(left.split())
    assert "a model" not in left


def test_as_json_has_all_of_it() -> None:
    shown = as_json(Overview(7, QUEUES, service(), None))
    assert shown["queues"] == {
        queue.name: {"waiting": 0, "unacked": 0, "oldest": None} for queue in QUEUES
    }


def test_what_a_worker_saw_fills_in_for_a_user_who_may_not_look() -> None:
    blind = tuple(QueueStatus(name=each.name, waiting=0) for each in QUEUES)
    assert deepest(blind, QUEUES) == QUEUES
    assert deepest(blind, ()) == blind
    assert deepest(QUEUES, blind) == QUEUES
