"""`lookalike status`: the queues as Redis has them, and the service as it describes itself."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from producer.cli.terminal import Terminal, table, visible
from producer.client import Producer
from producer.errors import LookalikeError
from producer.messages import QueueStatus, StatusReply, WorkerStatus

WATCH_EVERY = 1.0
ROLES = ("embed", "query", "search", "index", "beat")
"""What a whole service has at least one of."""
PINNED = "pinned by a rollback; `lookalike-worker reindex` goes on from here"


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
        return Overview(backlog, queues, shop.status(timeout), None)
    except LookalikeError as error:
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
    """Show it again and again until interrupted: in place on a terminal, else one block after another.

    An error is shown in its place, and the watch goes on: who watches wants to see the end of it.
    """
    console = Console(highlight=False)
    if terminal.json or not console.is_terminal:
        while True:
            try:
                show(shop, terminal, timeout)
            except LookalikeError as error:
                terminal.data({"problem": str(error)}) if terminal.json else terminal.show(
                    _red(error)
                )
            time.sleep(WATCH_EVERY)
    with Live(console=console, auto_refresh=False, screen=False) as live:
        while True:
            try:
                seen = draw(look(shop, timeout))
            except LookalikeError as error:
                seen = _red(error)
            live.update(seen, refresh=True)
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
    """The overview as tables, with what is wrong below them."""
    queues = [(queue.name, f"{queue.waiting:,}") for queue in overview.queues]
    queues.append(("accepted, not applied", f"{overview.backlog:,}"))
    waiting = table(("queue", "waiting"), queues, right=("waiting",))
    if overview.service is None:
        return Group(waiting, _red(overview.problem))
    service = overview.service
    facts = table(("service", ""), _facts(service), right=())
    return Group(waiting, facts, _workers(service.workers), *_warnings(service))


def _workers(workers: Sequence[WorkerStatus]) -> RenderableType:
    rows = []
    for role in sorted({each.role for each in workers}):
        alike = [each for each in workers if each.role == role]
        oldest = datetime.fromtimestamp(min(each.started_at for each in alike), UTC)
        hosts = ", ".join(sorted({each.host for each in alike}))
        rows.append((role, len(alike), hosts, f"{oldest:%Y-%m-%d %H:%M} UTC"))
    return table(("worker", "count", "hosts", "oldest since"), rows, right=("count",))


def _warnings(service: StatusReply) -> Iterator[RenderableType]:
    if service.rebuild_failure is not None:
        yield _red(f"the last rebuild failed: {service.rebuild_failure}")
    if service.generation is not None and service.generation.pinned:
        text = f"index generation {service.generation.number} is {PINNED}"
        yield Text(text, style="yellow")
    there = {each.role for each in service.workers}
    if absent := [role for role in ROLES if role not in there]:
        text = f"no worker of: {', '.join(absent)}; `lookalike-worker up` starts one of each"
        yield Text(text, style="yellow")


def _red(problem: object) -> Text:
    return Text(visible(str(problem)), style="red")


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
