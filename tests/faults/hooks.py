"""What fault tests do to a worker before it runs: see `tests.faults.hive`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

DEADLY = (255, 0, 255)
"""The colour of a picture that kills whatever embeds it."""


@contextmanager
def hurried(claim: float = 3.0, grace: float = 3.0, **more: Any) -> Iterator[None]:
    """What the ledger waits for comes sooner; and what `more` asks for: `deadly`, `slow`."""
    with ExitStack() as stack:
        for place, value in (
            ("producer.ledger.CLAIM", claim),
            ("worker.claims.CLAIM", claim),
            ("producer.ledger.GRACE", grace),
            ("worker.departure.GRACE", grace),
            ("worker.app.SWEEP_EVERY", 1.0),
            ("worker.app.WATCH_EVERY", 1.0),
        ):
            stack.enter_context(patch(place, value))
        if more.get("deadly"):
            stack.enter_context(deadly())
        if more.get("slow"):
            stack.enter_context(slow(more["slow"]))
        if more.get("deaf"):
            stack.enter_context(deaf(more["deaf"]))
        yield


@contextmanager
def deaf(how: str) -> Iterator[None]:
    """It takes no more messages: it is `full` of what it has done, or nobody listens (`cancelled`)."""
    from celery.worker.consumer import tasks
    from kombu.transport.virtual.base import QoS

    with ExitStack() as stack:
        stack.enter_context(patch("worker.process.DEAF_AFTER", 1.0))
        stack.enter_context(patch("worker.process.IGNORING_AFTER", 1.0))
        if how == "full":
            stack.enter_context(patch.object(QoS, "can_consume", lambda _: False))
        else:
            start = tasks.Tasks.start

            def started(step: Any, consumer: Any) -> None:
                start(step, consumer)
                consumer.task_consumer.cancel()
                consumer.task_consumer.consume = lambda *_, **__: None

            stack.enter_context(patch.object(tasks.Tasks, "start", started))
        yield


@contextmanager
def slow(seconds: float) -> Iterator[None]:
    """Each batch takes so much longer."""
    from worker.embedding.network import Network

    embed = Network.embed

    def slowly(network: Network, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(seconds)
        return embed(network, pixels)

    with patch.object(Network, "embed", slowly):
        yield


@contextmanager
def deadly() -> Iterator[None]:
    """A picture of one colour kills the process that embeds it; the quarantine's, too."""
    from worker.embedding.network import Network

    embed = Network.embed

    def dies(network: Network, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if any(np.abs(each.mean(axis=(0, 1)) - DEADLY).max() < 8 for each in pixels):
            os.kill(os.getpid(), signal.SIGKILL)
        return embed(network, pixels)

    command = (sys.executable, "-m", "tests.faults.deadly_quarantine")
    with patch.object(Network, "embed", dies), patch("worker.quarantine.COMMAND", command):
        yield


@contextmanager
def hung(seconds: float) -> Iterator[None]:
    """Its work does not end, and its watchdog looks away meanwhile, so that others can see it."""
    with patch("worker.watchdog.EVERY", seconds), slow(seconds):
        yield
