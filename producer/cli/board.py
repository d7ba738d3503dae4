"""How `lookalike status` looks: tables, with what is wrong below them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.align import Align
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from producer.cli.terminal import table, visible
from producer.cli.trend import Trend, ago
from producer.messages import QueueStatus, RolloutStatus, StatusReply, WorkerStatus

if TYPE_CHECKING:
    from producer.cli.overview import Overview

ROLES = ("embed", "query", "search", "index", "beat")
"""What a whole service has at least one of."""
TAKEN_BY = {
    "ingest": "embed",
    "query": "query",
    "lookup": "search",
    "index": "index",
    "control": "index",
}
LATE = 30.0
"""Seconds that a message may wait for a worker that has nothing to do."""
WIDE = 165
"""Columns of a terminal from which on tables stand side by side."""
BAR = 20
PINNED = "pinned by a rollback; `lookalike-worker reindex` goes on from here"


def draw(overview: Overview, trend: Trend | None = None, *, wide: bool = False) -> RenderableType:
    """The overview as tables; with the last minute, where somebody watched."""
    queues = _queues(overview.queues, overview.backlog, trend)
    service = overview.service
    if service is None:
        return Group(queues, trouble(overview.problem))
    facts = table(("service", ""), _facts(service), right=())
    workers = _workers(service.workers)
    warnings = [*_warnings(service, overview.queues)]
    if not wide:
        return Group(queues, facts, workers, *warnings)
    grid = Table.grid(padding=(0, 4))
    grid.add_row(Group(queues, workers), facts)
    return Group(grid, *warnings)


def framed(seen: RenderableType) -> RenderableType:
    """What is watched, with the time above it."""
    title = Text.assemble(
        ("Lookalike ", "bold"),
        (f"{datetime.now().astimezone():%H:%M:%S}", "cyan"),
        ("  Ctrl-C ends", "dim"),
    )
    return Align.left(Group(title, Text(), seen))


def trouble(problem: object) -> RenderableType:
    """What is wrong."""
    return Text(visible(str(problem)), style="red")


# -- queues ---------------------------------------------------------------------------------------


def _queues(queues: Sequence[QueueStatus], backlog: int, trend: Trend | None) -> RenderableType:
    rows = [(queue.name, *_depths(queue), *_bars(trend, queue.name)) for queue in queues]
    outlook = (trend.outlook,) if trend is not None else ()
    rows.append(("accepted, not applied", f"{backlog:,}", "", "", *outlook))
    columns = ("queue", "waiting", "un-acked", "oldest")
    last = ("last minute",) if trend is not None else ()
    return table((*columns, *last), rows, right=columns[1:])


def _depths(queue: QueueStatus) -> tuple[str, str, str]:
    unacked = "?" if queue.unacked is None else f"{queue.unacked:,}"
    return f"{queue.waiting:,}", unacked, "" if queue.oldest is None else ago(queue.oldest)


def _bars(trend: Trend | None, queue: str) -> tuple[str, ...]:
    return () if trend is None else (trend.bars(queue),)


# -- the service ----------------------------------------------------------------------------------


def _facts(service: StatusReply) -> list[tuple[str, str]]:
    facts = [
        ("products", f"{service.products:,}"),
        ("pictures", f"{service.images:,}"),
        ("revision", f"{service.revision:,}"),
        ("model", _model(service)),
        ("index", _index(service)),
        ("changes not in the index", f"{service.pending:,}, answered from the overlay"),
        ("searchable after", _freshness(service)),
    ]
    if service.rollout is not None:
        facts.append(("rollout", _rollout(service.rollout)))
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


def _freshness(service: StatusReply) -> str:
    found = service.freshness
    if found is None:
        return "not measured yet"
    changes = "change" if found.samples == 1 else f"{found.samples:,} changes"
    return f"{found.p50:,.2f} s (p50), {found.p95:,.2f} s (p95) of the last {changes}"


def _rollout(rollout: RolloutStatus) -> str:
    name = f"{rollout.model_name} ({rollout.model_version[:12]})"
    share = rollout.embedded / max(1, rollout.images)
    bar = f"{'━' * int(share * BAR):╌<{BAR}}"
    given_up = "".join(f", {n:,} {reason} given up" for reason, n in rollout.given_up.items())
    return (
        f"{name} {bar} {int(100 * share)}%: {rollout.embedded:,} of {rollout.images:,} embedded, "
        f"{rollout.waiting:,} missing{given_up}"
    )


# -- workers --------------------------------------------------------------------------------------


def _workers(workers: Sequence[WorkerStatus]) -> RenderableType:
    rows = []
    for role in sorted({each.role for each in workers}):
        alike = [each for each in workers if each.role == role]
        oldest = datetime.fromtimestamp(min(each.started_at for each in alike), UTC)
        hosts = ", ".join(sorted({each.host for each in alike}))
        rows.append((role, len(alike), hosts, f"{oldest:%Y-%m-%d %H:%M} UTC", _doing(alike)))
    return table(("worker", "count", "hosts", "oldest since", "doing"), rows, right=("count",))


def _doing(workers: Sequence[WorkerStatus]) -> str:
    busy = sum(each.busy for each in workers)
    longest = max((each.longest for each in workers if each.longest is not None), default=None)
    if not busy or longest is None:
        return "" if workers[0].role == "beat" else "idle"
    return f"{busy:,} {'message' if busy == 1 else 'messages'}, oldest {ago(longest)}"


# -- what is wrong --------------------------------------------------------------------------------


def _warnings(service: StatusReply, queues: Sequence[QueueStatus]) -> Iterator[RenderableType]:
    if service.rebuild_failure is not None:
        yield trouble(f"the last rebuild failed: {service.rebuild_failure}")
    if service.generation is not None and service.generation.pinned:
        yield _warning(f"index generation {service.generation.number} is {PINNED}")
    if service.rollout is not None and service.rollout.waits_for is not None:
        yield _warning(f"the rollout waits: {service.rollout.waits_for}")
    there = {each.role for each in service.workers}
    if absent := [role for role in ROLES if role not in there]:
        yield _warning(
            f"no worker of: {', '.join(absent)}; `lookalike-worker up` starts one of each"
        )
    for each in service.workers:
        if each.stuck:
            yield _warning(
                f"{each.role} on {each.host} (pid {each.pid}) has been at one message for "
                f"{ago(each.longest or 0.0)}: it seems to be stuck"
            )
    for queue in queues:
        if _is_ignored(queue, service.workers):
            yield _warning(
                f"{queue.name} has waited for {ago(queue.oldest or 0.0)}, and its workers are idle"
            )


def _is_ignored(queue: QueueStatus, workers: Sequence[WorkerStatus]) -> bool:
    """Whether it waits although somebody of its role is there, and nobody of it has anything to do."""
    takers = [each for each in workers if each.role == TAKEN_BY.get(queue.name)]
    waits = bool(queue.waiting) and not queue.unacked and (queue.oldest or 0.0) > LATE
    now = time.time()
    settled = all(now - each.started_at > LATE for each in takers)
    return waits and bool(takers) and settled and not any(each.busy for each in takers)


def _warning(text: str) -> Text:
    return Text(visible(text), style="yellow")
