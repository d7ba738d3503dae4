"""`lookalike status`: the queues as Redis has them, and the service as it describes itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from producer.cli.terminal import Terminal, table, visible
from producer.client import Producer
from producer.errors import ServiceUnresponsive
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
    """Look at the queues first, then ask the service; QueueUnavailable if there is no Redis."""
    backlog, queues = shop.backlog(), shop.queue_status()
    try:
        return Overview(backlog, queues, shop.status(timeout), None)
    except ServiceUnresponsive as error:
        return Overview(backlog, queues, None, str(error))


def show(shop: Producer, terminal: Terminal, timeout: float) -> int:
    """Show it once; the exit code."""
    overview = look(shop, timeout)
    if terminal.json:
        terminal.data(as_json(overview))
    else:
        terminal.show(draw(overview))
    return overview.exit_code


def watch(shop: Producer, terminal: Terminal, timeout: float) -> None:
    """Show it again and again until interrupted: in place on a terminal, else one block after another."""
    console = Console(highlight=False)
    if terminal.json or not console.is_terminal:
        while True:
            show(shop, terminal, timeout)
            time.sleep(WATCH_EVERY)
    with Live(console=console, auto_refresh=False, screen=False) as live:
        while True:
            live.update(draw(look(shop, timeout)), refresh=True)
            time.sleep(WATCH_EVERY)


def as_json(overview: Overview) -> dict[str, object]:
    """The overview as JSON."""
    service = overview.service
    return {
        "backlog": overview.backlog,
        "queues": {queue.name: queue.waiting for queue in overview.queues},
        "service": service.model_dump(mode="json") if service is not None else None,
        "problem": overview.problem,
    }


def draw(overview: Overview) -> RenderableType:
    """The overview as two tables."""
    queues = [(queue.name, f"{queue.waiting:,}") for queue in overview.queues]
    queues.append(("accepted, not applied", f"{overview.backlog:,}"))
    waiting = table(("queue", "waiting"), queues, right=("waiting",))
    if overview.service is None:
        return Group(waiting, Text(visible(overview.problem or ""), style="red"))
    return Group(waiting, table(("service", ""), _facts(overview.service), right=()))


def _facts(service: StatusReply) -> list[tuple[str, str]]:
    facts = [
        ("products", f"{service.products:,}"),
        ("pictures", f"{service.images:,}"),
        ("revision", f"{service.revision:,}"),
        ("changes not in the index", f"{service.pending:,}"),
        ("model", _model(service)),
        ("index", _index(service)),
    ]
    dead = service.dead_letters
    if dead:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(dead.items()))
        facts.append(("dead letters", f"{reasons}; see `lookalike-worker dead`"))
    return facts


def _model(service: StatusReply) -> str:
    if service.model_version is None:
        return "none yet"
    return f"{service.model_name} ({service.model_version[:12]})"


def _index(service: StatusReply) -> str:
    built = service.generation
    if built is None:
        return "none yet: lookups are answered exactly"
    minutes = (datetime.now(UTC) - built.built_at).total_seconds() / 60
    return (
        f"generation {built.number}, {built.images:,} pictures, recall {built.recall:.3f}, "
        f"{max(0, round(minutes)):,} min old"
    )
