"""Says, once, that nothing moves: whoever waits should not have to guess whether anybody works."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from producer.cli.terminal import Terminal
from producer.client import Producer
from producer.errors import LookalikeError

AFTER = 10.0
"""Seconds without any movement."""


@contextmanager
def watched(shop: Producer, terminal: Terminal) -> Iterator[None]:
    """While the block runs, note it on stderr when jobs wait and none has been applied for a while."""
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(shop, terminal, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch(shop: Producer, terminal: Terminal, stop: threading.Event) -> None:
    before, since = 0, time.monotonic()
    while not stop.wait(AFTER / 10):
        try:
            waiting = shop.backlog()
        except LookalikeError:
            return  # the block meets it too, and says it
        if waiting < before or not waiting:
            since = time.monotonic()
        elif time.monotonic() - since >= AFTER:
            terminal.note(f"nothing was applied for {AFTER:g} s; see `lookalike status`")
            return
        before = waiting
