"""A worker that is stopped (SIGSTOP) with a job in hand, and wakes when another has taken it over."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

from db.queries.fences import Fenced
from producer import keys
from producer.messages import ImageItem, IngestChunk, Removal, RemoveChunk
from tests.faults.crashes import in_child
from tests.faults.promise import Scale, Shown
from tests.faults.world import Worker, World, item, wanted
from tests.services import DatabaseFactory, start_postgres, start_valkey

CLAIM = 0.2
"""Seconds of a claim here, so that it runs out by itself."""
LOG = "children.log"
REFUSED, ACCEPTED = 42, 43
"""Exit codes of a worker that woke, and whose commit was refused, or not."""


def show(scale: Scale, folder: Path) -> Shown:
    """Its write is rejected, every time, on both databases."""
    rounds = scale.of(200, 12)
    with ExitStack() as closing:
        server = start_valkey(folder=folder)
        closing.callback(server.stop)
        postgres = start_postgres()
        closing.callback(postgres.stop)
        factories = [
            DatabaseFactory("sqlite", folder),
            DatabaseFactory("postgresql", folder, postgres),
        ]
        worlds = [
            World(folder, server.url, closing.enter_context(factory.migrated()))
            for factory in factories
        ]
        with patch("producer.ledger.CLAIM", CLAIM):
            outcomes = [_round(worlds[number % 2], number) for number in range(rounds)]
        broken = [problem for problems in outcomes for problem in problems]
    refused = sum(not problems for problems in outcomes)
    return Shown(
        f"{refused} of {rounds} late writes rejected, on SQLite and PostgreSQL",
        tuple(broken),
        {"rejected": refused, "rounds": rounds},
    )


def _round(world: World, number: int) -> list[str]:
    """One worker sleeps over its claim, another does the job, the first one wakes."""
    product = f"p{number}"
    removal = number % 4 >= 2
    in_child(lambda: _accept(world, product, removal=removal), world.folder / LOG)
    sleeper = _forked(lambda: _work_and_sleep(world))
    _, status = os.waitpid(sleeper, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        return [f"{product}: the worker did not get as far as its commit"]
    in_child(lambda: _take_over(world), world.folder / LOG)
    os.kill(sleeper, signal.SIGCONT)
    _, status = os.waitpid(sleeper, 0)
    code = os.waitstatus_to_exitcode(status)
    problems = [] if code == REFUSED else [f"{product}: the sleeper ended with {code}"]
    return problems + _check(world, product, removal=removal)


def _accept(world: World, product: str, *, removal: bool) -> None:
    with world.worker() as worker:
        if removal:
            worker.do(worker.accept(item(product)))
        last: ImageItem | Removal = (
            Removal(product_id=product, version=2) if removal else item(product)
        )
        worker.accept(last)


def _work_and_sleep(world: World) -> int:
    """Claim the job, and stop right before the transaction that applies it."""
    with world.worker() as worker:
        (job,) = worker.ledger.overdue(time.time() + 1000)
        claim = worker.ledger.begin(job)
        assert claim is not None
        writing = worker.database.writing

        def stopped() -> object:
            os.kill(os.getpid(), signal.SIGSTOP)
            return writing()

        try:
            with patch.object(worker.database, "writing", stopped):
                if isinstance(job, IngestChunk):
                    worker.ingester.ingest(claim)  # type: ignore[arg-type]
                elif isinstance(job, RemoveChunk):
                    worker._remove(claim)  # type: ignore[arg-type]
        except Fenced:
            return REFUSED
        return ACCEPTED


def _take_over(world: World) -> None:
    """Another worker, when the claim has run out."""
    with world.worker() as worker:
        (job,) = worker.ledger.overdue(time.time() + 2000)
        while worker.ledger.size():
            worker.do(job)


def _check(world: World, product: str, *, removal: bool) -> list[str]:
    report = world.folder / "report"

    def look() -> None:
        with world.worker() as worker:
            report.write_text("\n".join(_contradictions(worker, product, removal=removal)))

    in_child(look, world.folder / LOG)
    return report.read_text().splitlines()


def _contradictions(worker: Worker, product: str, *, removal: bool) -> list[str]:
    vector = worker.vectors().get(f"{product}/main")
    problems = []
    if vector != (None if removal else wanted(product)):
        problems.append(f"{product} is not as the other worker left it")
    if worker.ledger.size() or worker.redis.exists(keys.LEDGER_STARTS):
        problems.append(f"{product}: the ledger is not tidy")
    return problems


def _forked(work: Callable[[], int]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child
