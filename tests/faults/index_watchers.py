"""Two beats and two index workers on one service, as a mistaken operator runs them, some killed on the way."""

from __future__ import annotations

import functools
import itertools
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from redis import Redis

from producer import Producer
from producer.messages import Reply
from producer.settings import ProducerSettings
from tests.faults.hive import Hive, HiveWorker
from tests.faults.index_builders import BUILD
from tests.faults.index_site import EXACT, Site
from worker.settings import WorkerSettings

HURRY = "tests.faults.index_watchers:hurry"
TICK, LEASE_TTL = 0.25, 1.0
LOOKUP_TIMEOUT = 30.0
GROUP = ("search", "beat", "beat", "index", "index")
PATIENCE = 90.0


# -- in the workers -------------------------------------------------------------------------------


def hurry(events: str) -> None:
    """Tick four times a second, have leases of the dead run out in one, and note when a build begins and ends."""
    from worker import app, roles
    from worker.index import rebuild
    from worker.index.builder import Builder

    app.WATCH_EVERY = TICK
    roles.rebuild = functools.partial(roles.rebuild, lease_ttl=LEASE_TTL)  # type: ignore[attr-defined]
    log = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(what: str) -> None:
        line = f"{time.monotonic()} {os.getpid()} {threading.get_ident()} {what}\n"
        os.write(log, line.encode())

    def noted(function: Callable[..., Any], before: str, after: str) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            note(before)
            try:
                return function(*args, **kwargs)
            finally:
                note(after)

        return wrapped

    Builder.build = noted(Builder.build, "begins", "ends")  # type: ignore[method-assign]
    rebuild.publish = noted(rebuild.publish, "goes on", "ends")


@dataclass
class Build:
    """When a process was building and publishing."""

    pid: int
    began: float
    ended: float | None = None


def builds(events: Path) -> list[Build]:
    """The builds that were noted, in the order in which they began."""
    found: list[Build] = []
    latest: dict[str, Build] = {}
    for line in events.read_text().splitlines():
        at, pid, thread, what = line.split(" ", 3)
        who = f"{pid} {thread}"
        if what == "begins":
            latest[who] = Build(int(pid), float(at))
            found.append(latest[who])
        else:
            latest[who].ended = float(at) if what == "ends" else None
    return found


# -- in the test ----------------------------------------------------------------------------------


@dataclass
class Watchers:
    """The processes, and what they are watched doing."""

    hive: Hive
    site: Site
    folder: Path
    redis_url: str
    chance: random.Random
    generations: int = 0
    """Those that there were before."""
    answered_by: int = 0
    """The highest generation that an answer came from."""
    died: dict[int, float] = field(default_factory=dict)
    """When the killed ones were."""

    def run(self, seconds: float, kill_every: float) -> Iterator[str]:
        """Change the catalogue and ask, while the index is rebuilt as often as it can be."""
        workers = self._started()
        began = time.monotonic()
        kill_at = began + kill_every
        with Producer(ProducerSettings(redis_url=SecretStr(self.redis_url))) as shop:
            while time.monotonic() < began + seconds:
                self.site.change()
                yield from self._look(shop)
                if time.monotonic() > kill_at:
                    kill_at += kill_every
                    workers = self._replaced(workers)
            yield from self._settle(shop)
        yield from self._stop(workers)
        yield from self._builds()
        yield from self._afterwards()

    def _started(self) -> list[HiveWorker]:
        with Redis.from_url(self.redis_url) as redis:
            redis.flushall()
        self.events.touch()
        workers = [self._start(role) for role in GROUP]
        self.hive.wait_ready(workers)
        return workers

    def _look(self, shop: Producer) -> Iterator[str]:
        asked = self.chance.choice(sorted(self.site.shop.items))
        reply = shop.find_similar(asked).result(LOOKUP_TIMEOUT)
        assert isinstance(reply, Reply)
        yield from self.site.pointer_problems()
        yield from self._wrong(asked, reply)

    def _wrong(self, asked: str, reply: Reply) -> Iterator[str]:
        number = reply.generation or 0
        if number < self.answered_by:
            yield f"an answer from generation {number} after one from {self.answered_by}"
        self.answered_by = max(self.answered_by, number)
        yield from self.site.wrong(asked, reply)

    def _settle(self, shop: Producer) -> Iterator[str]:
        """The index must take in the last change by itself, whoever was killed."""
        deadline = time.monotonic() + PATIENCE
        while not self.site.is_up_to_date():
            yield from self._look(shop)
            if time.monotonic() > deadline:
                yield f"the index did not catch up in {PATIENCE:.0f} s"
                return

    def _replaced(self, workers: list[HiveWorker]) -> list[HiveWorker]:
        """Kill a beat or a builder, one that builds if there is one, and start another in its place."""
        building = {each.pid for each in builds(self.events) if each.ended is None}
        likely = [each for each in workers if each.pid in building]
        victim = self.chance.choice(likely or [each for each in workers if each.role != "search"])
        victim.kill()
        self.died[victim.pid] = time.monotonic()
        return [self._start(each.role) if each is victim else each for each in workers]

    def _stop(self, workers: list[HiveWorker]) -> Iterator[str]:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            if (code := worker.wait(PATIENCE)) != 0:
                yield f"{worker.role} ended with {code}: {worker.last_words()}"

    def _builds(self) -> Iterator[str]:
        done = builds(self.events)
        for one, other in itertools.pairwise(done):
            ended = self.died.get(one.pid, math.inf) if one.ended is None else one.ended
            if other.began < ended:
                yield f"two builds at a time: {one} and {other}"
        numbers = self.site.numbers()
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"generations are numbered {numbers}"
        if not self.generations < len(numbers) <= self.generations + len(done):
            yield f"{len(numbers) - self.generations} generations of {len(done)} builds"
        self.generations = len(numbers)

    def _afterwards(self) -> Iterator[str]:
        """What the killed left, the next build removes."""
        yield from self.site.problems()
        last = self.hive.call(
            BUILD,
            database_url=self.site.database_url,
            data_dir=str(self.site.data_dir),
            patience=PATIENCE,
        )
        if last.result()["built"] is None:
            yield f"the last build: {last.result()}"
        yield from self.site.problems()
        yield from self.site.litter()

    @property
    def events(self) -> Path:
        """Where builders note what they do."""
        return self.folder / "events"

    def _start(self, role: str) -> HiveWorker:
        arguments = {"events": str(self.events)}
        return self.hive.start(role, self._settings(), before=HURRY, arguments=arguments)

    def _settings(self) -> WorkerSettings:
        return WorkerSettings(
            redis_url=SecretStr(self.redis_url),
            database_url=SecretStr(self.site.database_url),
            data_dir=self.site.data_dir,
            trees=EXACT.trees,
            search_k=EXACT.search_k,
            reduce_to=EXACT.reduce_to,
            recall_margin=EXACT.recall_margin,
            rebuild_every=0.1,
            rebuild_after_changes=1,
            grace=20.0,
        )
