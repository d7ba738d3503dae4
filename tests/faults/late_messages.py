"""Messages that come twice, late and in another order, to two workers at once: the newest one counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from producer.messages import ImageItem, Job, PathImage, Removal
from tests.faults.message_truth import Follower, Truth, stored
from tests.faults.promise import Scale, Shown
from tests.faults.world import Worker, World, job_of
from tests.services import DatabaseFactory, start_postgres, start_valkey

PRODUCTS, NAMES, VERSIONS = ("a", "ü😀"), ("main", "back"), 6
CONTENTS = 4
"""Different pictures: few, so that products share some, and a change may bring back an earlier one."""


@dataclass(frozen=True)
class Said:
    """What a shop says at one time: a picture, or, without a name, that the product is gone."""

    product: str
    version: int
    name: str | None = None
    variant: int = 0
    """Two messages of one version that differ in it contradict each other."""

    def item(self, story: int) -> ImageItem | Removal:
        """As it goes on the wire. Each story has products and pictures of its own."""
        product_id = f"{story}/{self.product}"
        if self.name is None:
            return Removal(product_id=product_id, version=self.version)
        content = (self.version + 3 * self.variant) % CONTENTS
        category = (self.version + self.variant) % 3
        return ImageItem(
            product_id=product_id,
            name=self.name,
            image=PathImage(path=f"/{story}/{content}"),
            category=f"category {category}" if category else None,
            attributes={"price": self.version // 2, "variant": self.variant},
            version=self.version,
        )


@dataclass(frozen=True)
class Story:
    """What is said, in jobs of several messages, and how they arrive."""

    jobs: tuple[tuple[Said, ...], ...]
    arrivals: tuple[tuple[int, bool, bool, bool], ...]
    """Which job; whether it is sent anew, as a shop does, or is another copy of the message; which of two workers
    gets it; and whether it comes after all that is not late."""


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Every job arrives, some more than once, in any order."""
    products, versions = st.sampled_from(PRODUCTS), st.integers(0, VERSIONS)
    change = st.builds(
        Said, products, versions, st.sampled_from(NAMES), st.sampled_from((0, 0, 0, 1))
    )
    job = st.lists(change, min_size=1, max_size=4) | st.lists(
        st.builds(Said, products, versions), min_size=1, max_size=2
    )
    jobs = draw(st.lists(job.map(tuple), min_size=3, max_size=8))
    indices = list(range(len(jobs)))
    again = draw(st.lists(st.tuples(st.sampled_from(indices), st.booleans()), max_size=5))
    arrived = draw(st.permutations([*((each, False) for each in indices), *again]))
    arrivals = [(*each, draw(st.booleans()), draw(st.booleans())) for each in arrived]
    return Story(tuple(jobs), tuple(arrivals))


@dataclass
class Bench:
    """Two workers on one catalogue, and somebody who follows its revisions."""

    name: str
    workers: tuple[Worker, Worker]
    threads: ThreadPoolExecutor
    follower: Follower
    stories: int = 0
    messages: int = 0
    arrivals: int = 0

    def tell(self, story: Story) -> None:
        """Have it happen; raises AssertionError."""
        self.stories += 1
        sent = [job_of(*(each.item(self.stories) for each in job)) for job in story.jobs]
        items = [item for job in sent for item in _items(job)]
        self.messages += len(items)
        self.arrivals += len(story.arrivals)
        self.workers[0].ledger.accept(sent)
        for late in (False, True):
            self._arrive(sent, [each for each in story.arrivals if each[3] is late])
        truth = Truth.of(items)
        state = stored(self.follower.database, f"{self.stories}/")
        problems = [*truth.contradictions(state), *self.follower.contradictions(state)]
        assert not problems, problems
        assert self.workers[0].ledger.size() == 0, "jobs are left in the ledger"
        self._again(items)

    def _arrive(
        self, sent: Sequence[Job], arrivals: Sequence[tuple[int, bool, bool, bool]]
    ) -> None:
        """Give each worker its part, in order, both at the same time, and follow meanwhile."""
        parts: tuple[list[Job], list[Job]] = ([], [])
        for index, anew, to_second, _ in arrivals:
            job = sent[index]
            parts[to_second].append(self.workers[0].accept(*_items(job)) if anew else job)
        barrier = threading.Barrier(2)
        working = [
            self.threads.submit(_work, worker, part, barrier)
            for worker, part in zip(self.workers, parts, strict=True)
        ]
        while not all(each.done() for each in working):
            self.follower.follow()
            time.sleep(0.001)
        for each in working:
            each.result()
        self.follower.follow()

    def _again(self, items: Sequence[ImageItem | Removal]) -> None:
        """All of it once more changes nothing, and gives lookups nothing to follow."""
        state, revision = stored(self.follower.database, f"{self.stories}/"), self.follower.revision
        for item in items:
            self.workers[0].do(self.workers[0].accept(item))
        self.follower.follow()
        assert stored(self.follower.database, f"{self.stories}/") == state
        assert self.follower.revision == revision, "what changed nothing counts as a change"


def _work(worker: Worker, jobs: Sequence[Job], barrier: threading.Barrier) -> None:
    barrier.wait(60)
    for job in jobs:
        worker.do(job)


def _items(job: Job) -> tuple[ImageItem | Removal, ...]:
    items: tuple[ImageItem | Removal, ...] = job.items  # type: ignore[attr-defined]
    return items


def show(scale: Scale, folder: Path) -> Shown:
    """Stories on either database."""
    with ExitStack() as opened:
        redis = start_valkey(folder=folder)
        opened.callback(redis.stop)
        postgres = start_postgres()
        opened.callback(postgres.stop)
        benches = []
        broken: list[str] = []
        for databases in (
            DatabaseFactory("sqlite", folder),
            DatabaseFactory("postgresql", folder, postgres),
        ):
            url = opened.enter_context(databases.migrated())
            bench = _bench(opened, databases.kind, World(folder, redis.url, url))
            benches.append(bench)
            broken += _tried(bench, scale)
        return _shown(benches, broken)


def _bench(opened: ExitStack, name: str, world: World) -> Bench:
    first, second = (opened.enter_context(world.worker()) for _ in range(2))
    threads = opened.enter_context(ThreadPoolExecutor(2))
    follower = opened.enter_context(Follower.opened(world.database_url, first.model.pk))
    return Bench(name, (first, second), threads, follower)


def _tried(bench: Bench, scale: Scale) -> list[str]:
    @seed(scale.seed)
    @settings(
        max_examples=scale.of(400, 30),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
    )
    @given(stories())
    def tell(story: Story) -> None:
        bench.tell(story)

    try:
        tell()
    except Exception as error:
        return [f"{bench.name}: {each}" for each in _in_words(error)]
    return []


def _in_words(error: BaseException) -> Iterator[str]:
    """The errors, where there are several behind one, with the examples that led to them."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _in_words(each)
    else:
        yield f"{type(error).__name__}: {error} {' '.join(getattr(error, '__notes__', ()))}"


def _shown(benches: Sequence[Bench], broken: Sequence[str]) -> Shown:
    counts = " and ".join(f"{bench.stories} on {bench.name}" for bench in benches)
    messages = sum(bench.messages for bench in benches)
    details: dict[str, object] = {bench.name: bench.stories for bench in benches}
    return Shown(
        f"{counts} examples of duplicated, late and reordered messages, {messages} messages: "
        f"{len(broken)} contradictions",
        tuple(broken),
        details | {"messages": messages},
    )
