"""What a service does, in pieces: one act that may die in each of its steps, and what must be true after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, cast

from pydantic import SecretStr
from sqlalchemy import update

from db.models import DeadLetter
from db.queries import fences, judgements
from db.queries.dead_letters import Which
from producer.client import Producer
from producer.ids import new_id
from producer.judging import JudgeMatch
from producer.messages import Job, Queue, Removal
from producer.reasons import Reason
from tests.fake_worker import take
from tests.faults.world import Worker, World, item, wanted
from worker import judging, letters
from worker.busy import Busy
from worker.departure import Departure
from worker.jobs import MAX_DEATHS
from worker.resending import Resender
from worker.settings import WorkerSettings
from worker.sweep import sweep

RETURNED = "returned"
"""A file that is made when the act has ended: only then is anything promised of what it was to add."""


@dataclass(frozen=True)
class Episode:
    """One act. `settle` is what the service does by itself afterwards, in another process."""

    name: str
    prepare: Callable[[World], None]
    act: Callable[[World], None]
    settle: Callable[[World], None]
    check: Callable[[World], list[str]]
    """Contradictions, in words."""
    only: str = ""
    """Die at points of this name only: the others of the act are another episode's."""


def settle_jobs(world: World) -> None:
    """The sweeper and the workers."""
    world.fixed.touch()
    with world.worker() as worker:
        worker.settle()


def check_jobs(*live: str, dead: dict[str, Reason] | None = None) -> Callable[[World], list[str]]:
    """These products are there, once, with their vectors; those are dead letters, once; nothing is left over."""

    def check(world: World) -> list[str]:
        with world.worker() as worker:
            found = worker.vectors()
            given_up = Counter((each.product_id, each.reason) for each in worker.letters())
            left = worker.ledger.size()
            bookkeeping = cast("list[bytes]", worker.redis.keys("lookalike:ledger:*"))
        truth = {f"{id_}/main": wanted(id_) for id_ in live}
        expected = Counter({(id_, str(reason)): 1 for id_, reason in (dead or {}).items()})
        problems = [f"{left} jobs are left in the ledger"] if left else []
        problems += [
            f"{key!r} was not tidied" for key in bookkeeping if not key.endswith(b":applied")
        ]
        problems += [f"lost: {each}" for each in truth.keys() - found.keys()]
        problems += [f"should not be there: {each}" for each in found.keys() - truth.keys()]
        wrong = [each for each in truth.keys() & found.keys() if truth[each] != found[each]]
        problems += [f"wrong vector: {each}" for each in wrong]
        if given_up != expected:
            problems.append(f"dead letters {dict(given_up)} instead of {dict(expected)}")
        return problems

    return check


# -- a shop's process -----------------------------------------------------------------------------


def _add(world: World) -> None:
    with Producer(world.settings) as shop:
        shop.add_many([{"product_id": f"p{i}", "image": f"/p{i}"} for i in range(4)])
        shop.remove("p0")
    (world.folder / RETURNED).touch()


def _check_added(world: World) -> list[str]:
    """After the call all of it; before it any whole chunk may be there, and nothing else."""
    live = ("p1", "p2", "p3")
    if (world.folder / RETURNED).exists():
        return check_jobs(*live)(world)
    with world.worker() as worker:
        found = {each.removesuffix("/main") for each in worker.vectors()}
    halves = [found & {"p2", "p3"}]
    return [f"a part of a chunk: {half}" for half in halves if len(half) == 1] + (
        ["not settled"] if check_jobs(*found)(world) else []
    )


# -- a worker's process ---------------------------------------------------------------------------


def _accept(*ids: str) -> Callable[[World], None]:
    def prepare(world: World) -> None:
        with world.worker() as worker:
            worker.send(worker.accept(*(item(each) for each in ids)))

    return prepare


def _drain(world: World) -> None:
    with world.worker() as worker:
        worker.drain()


def _begun_by_another(world: World) -> None:
    with world.worker() as worker:
        job = worker.accept(item("a"), item("b"))
        assert worker.ledger.begin(job) is not None
        worker.let_claims_run_out()
        worker.send(job)


def _taken(worker: Worker) -> Job:
    job = take(worker.redis, Queue.INGEST)
    assert isinstance(job, Job)
    return job


def _renew(world: World) -> None:
    with world.worker() as worker:
        claim = worker.ledger.begin(_taken(worker))
        assert claim is not None
        with worker.claims.holding(claim):
            worker.claims.tend()


def _present_and_unwanted(world: World) -> None:
    with world.worker() as worker:
        worker.do(worker.accept(item("a"), item("b")))
        worker.send(worker.accept(Removal(product_id="a", version=2)))


def _deadly(world: World) -> None:
    with world.worker() as worker:
        job = worker.accept(Removal(product_id="deadly", version=2))
        for _ in range(MAX_DEATHS):
            worker.ledger.begin(job)
            worker.let_claims_run_out()
        worker.send(job)


def _give_back(world: World) -> None:
    with world.worker() as worker:
        claim = worker.ledger.begin(_taken(worker))
        assert claim is not None
        departure = Departure(Busy(), worker.claims, worker.send, 1.0, worker.jobs.stopping)
        with worker.claims.holding(claim):
            departure._give_back(())


def _lost_by_the_queue(world: World) -> None:
    with world.worker() as worker:
        worker.accept(item("a"))
        worker.accept(item("b"))


def _sweep(world: World) -> None:
    with world.worker() as worker:
        sweep(worker.ledger, worker.send, datetime.now(UTC).timestamp() + 1000)


def _nothing(_: World) -> None:
    """There is nothing to prepare."""


def _asleep(world: World) -> None:
    """A worker that was taken over wakes, in the middle of its commit."""
    with world.worker() as worker:
        job = _taken(worker)
        first = worker.ledger.begin(job)
        worker.let_claims_run_out()
        worker.do(job)
        assert first is not None
        try:
            worker.ingester.ingest(first)  # type: ignore[arg-type]
        except fences.Fenced:
            return
        raise AssertionError("a late writer was not refused")


# -- an operator ----------------------------------------------------------------------------------


def _given_up(world: World) -> None:
    with world.worker() as worker:
        for each in ("late", "later"):
            worker.do(worker.accept(item(each, path=f"/missing/{each}")))
        # Their pictures are there by now.
        with worker.database.writing() as session:
            for letter in worker.letters():
                message = item(str(letter.product_id)).model_dump(mode="json")
                session.execute(
                    update(DeadLetter).where(DeadLetter.pk == letter.pk).values(message=message)
                )


def _requeue(world: World) -> None:
    settings = WorkerSettings(redis_url=SecretStr(world.redis_url), chunk_size=1)
    with world.worker() as worker, Resender(settings, 5.0) as resender:
        letters.requeue(worker.database, Which(), resender, 1)


def _requeued(world: World) -> None:
    """The operator sees that it did not end, and does it again."""
    _requeue(world)
    settle_jobs(world)


def _discard(world: World) -> None:
    with world.worker() as worker:
        letters.discard(worker.database, Which())


# -- a merchandiser -------------------------------------------------------------------------------


def _vote(world: World, verdict: Literal["up", "down"] | None) -> None:
    with world.worker() as worker:
        asked = {"id": new_id(), "expires_at": 1e12, "verdict": verdict}
        vote = JudgeMatch.model_validate({**asked, "product_id": "a", "match": "b", "judge": "me"})
        judging.judge(worker.database, vote)


def _judge(world: World) -> None:
    _vote(world, "up")
    _vote(world, "down")
    _vote(world, None)
    _vote(world, "up")


def _check_judged(world: World) -> list[str]:
    with world.worker() as worker, worker.database.reading() as session:
        found = [each.good for each in judgements.of_product(session, "a", 10)]
    return [] if found == [True] else [f"judgements {found} instead of one good one"]


def _jobs(
    name: str, prepare: Callable[[World], None], act: Callable[[World], None], *live: str
) -> Episode:
    return Episode(name, prepare, act, settle_jobs, check_jobs(*live))


JOBS: tuple[Episode, ...] = (
    Episode("add", _nothing, _add, settle_jobs, _check_added),
    _jobs("apply", _accept("a", "b"), _drain, "a", "b"),
    replace(
        _jobs("bad and slow", _accept("a", "missing", "slow"), _drain),
        check=check_jobs("a", "slow", dead={"missing": Reason.NOT_FOUND}),
    ),
    replace(
        _jobs("a bug", _accept("a", "bug"), _drain),
        check=check_jobs("a", dead={"bug": Reason.INTERNAL}),
    ),
    _jobs("take over", _begun_by_another, _drain, "a", "b"),
    _jobs("renew", _accept("a"), _renew, "a"),
    _jobs("asleep", _accept("a", "b"), _asleep, "a", "b"),
    _jobs("remove", _present_and_unwanted, _drain, "b"),
    replace(
        _jobs("give up", _deadly, _drain),
        check=check_jobs(dead={"deadly": Reason.WORKER_FAILED}),
    ),
    _jobs("give back", _accept("a", "b"), _give_back, "a", "b"),
    _jobs("sweep", _lost_by_the_queue, _sweep, "a", "b"),
    Episode("requeue", _given_up, _requeue, _requeued, check_jobs("late", "later")),
    Episode("discard", _given_up, _discard, _discard, check_jobs(), only="letters"),
    Episode("judge", _nothing, _judge, _judge, _check_judged, only="judging"),
)
