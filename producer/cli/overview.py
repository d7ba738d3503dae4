"""`lookalike status`: the queues as Redis has them, and the service as it describes itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live

from producer.cli import board
from producer.cli.terminal import Terminal
from producer.cli.trend import Trend
from producer.client import Producer
from producer.depths import deepest
from producer.errors import LookalikeError
from producer.messages import QueueStatus, StatusReply

WATCH_EVERY = 1.0


@dataclass(frozen=True)
class Overview:
    """Everything that there is to see."""

    backlog: int
    queues: Sequence[QueueStatus]
    service: StatusReply | None
    problem: str | None

    @property
    def exit_code(self) -> int:
        """1 when no worker answered."""
        return 0 if self.service is not None else 1


def look(shop: Producer, timeout: float) -> Overview:
    """Look at the queues first, then ask the service; QueueUnavailable if there is no Redis.

    What keeps the service from answering is part of what there is to see.
    """
    backlog, queues = shop.backlog(), shop.queue_status()
    try:
        service = shop.status(timeout)
    except LookalikeError as error:
        return Overview(backlog, queues, None, str(error))
    return Overview(backlog, deepest(queues, service.queues), service, None)


def show(shop: Producer, terminal: Terminal, timeout: float) -> int:
    """Show it once; the exit code."""
    overview = look(shop, timeout)
    if terminal.json:
        terminal.data(as_json(overview))
    else:
        terminal.show(board.draw(overview))
    return overview.exit_code


def watch(shop: Producer, terminal: Terminal, timeout: float) -> None:
    """Show it again and again until interrupted: in place on a terminal, else one block after another.

    An error is shown in its place, and the watch goes on: who watches wants to see the end of it.
    """
    console = Console(highlight=False)
    if terminal.json or not console.is_terminal:
        _print_on(shop, terminal, timeout)
    else:
        _live(shop, console, timeout)


def _print_on(shop: Producer, terminal: Terminal, timeout: float) -> None:
    while True:
        try:
            show(shop, terminal, timeout)
        except LookalikeError as error:
            if terminal.json:
                terminal.data({"problem": str(error)})
            else:
                terminal.show(board.trouble(error))
        time.sleep(WATCH_EVERY)


def _live(shop: Producer, console: Console, timeout: float) -> None:
    """On a screen of its own; what was seen last stays on the terminal when it ends."""
    trend, seen = Trend(), board.draw(Overview(0, (), None, "nothing was seen yet"))
    try:
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while True:
                try:
                    overview = look(shop, timeout)
                    trend.add(time.time(), overview.backlog, overview.queues)
                    seen = board.draw(overview, trend, wide=console.width >= board.WIDE)
                except LookalikeError as error:
                    seen = board.trouble(error)
                live.update(board.framed(seen), refresh=True)
                time.sleep(WATCH_EVERY)
    finally:
        console.print(seen)


def as_json(overview: Overview) -> dict[str, object]:
    """The overview as JSON."""
    service = overview.service
    return {
        "backlog": overview.backlog,
        "queues": {
            queue.name: queue.model_dump(mode="json", exclude={"name"}) for queue in overview.queues
        },
        "service": service.model_dump(mode="json") if service is not None else None,
        "problem": overview.problem,
    }
