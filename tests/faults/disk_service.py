"""A service whose index worker finds its disk full for a while: a limit on its files, set from outside."""

from __future__ import annotations

import functools
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from pydantic import SecretStr
from redis import Redis

from producer import Producer
from producer.messages import Reply
from producer.settings import ProducerSettings
from tests.faults.hive import Hive, HiveWorker
from tests.faults.index_site import EXACT, Site
from worker.settings import WorkerSettings

HURRY = "tests.faults.disk_service:hurry"
NAMED = "LOOKALIKE_DATA_DIR"
TOO_SMALL = 40_000
"""Bytes of a file: enough for a log, too few for a tree."""
PATIENCE = 150.0
"""Seconds to wait for what the service does by itself: at most a tick, a pause after a failure, and a build."""
LOOKUP_TIMEOUT = 30.0


def hurry() -> None:
    """Tick four times a second, and try again a second after a failure."""
    from worker import app
    from worker.index import rebuild

    app.WATCH_EVERY = 0.25
    rebuild.LONGEST_PAUSE = timedelta(seconds=1)


@dataclass
class Served:
    """A beat, an index worker and a search worker, and what a shop sees of them."""

    hive: Hive
    site: Site
    redis_url: str
    waited: float = 0.0
    """The longest time from the end of the trouble to a new index."""

    def run(self, cycles: int, *, patient: bool) -> Iterator[str]:
        """Fill the disk and free it so many times; `patient` leaves the service its own pace."""
        with Redis.from_url(self.redis_url) as redis:
            redis.flushall()
        options = {} if patient else {"before": HURRY}
        workers = self.hive.start_group(
            self._settings(), roles=("search", "index", "beat"), **options
        )
        with Producer(ProducerSettings(redis_url=SecretStr(self.redis_url))) as shop:
            for _ in range(cycles):
                yield from self._cycle(shop, workers[1])
        for worker in workers:
            worker.terminate()
        for worker in workers:
            if (code := worker.wait(40)) != 0:
                yield f"{worker.role} ended with {code}: {worker.last_words()}"

    def _cycle(self, shop: Producer, builder: HiveWorker) -> Iterator[str]:
        self.site.change()
        yield from self._until("an index", self.site.is_up_to_date)
        serving = self.site.current()
        _limit(builder, TOO_SMALL)
        self.site.change()
        failed = functools.partial(self._fails, shop)
        yield from self._until(f"a failure that names {NAMED}", failed)
        if self.site.current() != serving:
            yield "another generation is current on a full disk"
        yield from self._asked(shop)
        yield from self._until("a tidy folder", lambda: not self.site.strays())
        _limit(builder, resource.RLIM_INFINITY)
        began = time.monotonic()
        yield from self._until("an index after the trouble", self.site.is_up_to_date)
        yield from self._until("no failure any more", lambda: not self._failure(shop))
        self.waited = max(self.waited, time.monotonic() - began)
        yield from self._asked(shop)
        yield from self.site.problems()
        yield from self._until("a tidy folder afterwards", lambda: not self.site.strays())

    def _asked(self, shop: Producer) -> Iterator[str]:
        for product_id in sorted(self.site.shop.items)[:3]:
            reply = shop.find_similar(product_id).result(LOOKUP_TIMEOUT)
            assert isinstance(reply, Reply)
            yield from self.site.wrong(product_id, reply)

    def _fails(self, shop: Producer) -> bool:
        return NAMED in (self._failure(shop) or "")

    @staticmethod
    def _failure(shop: Producer) -> str | None:
        return shop.status(timeout=LOOKUP_TIMEOUT).rebuild_failure

    @staticmethod
    def _until(what: str, holds: Callable[[], bool]) -> Iterator[str]:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > deadline:
                yield f"waited for {what} in vain"
                return
            time.sleep(0.05)

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


def _limit(worker: HiveWorker, most: int) -> None:
    """Let no file of a running process grow beyond so many bytes."""
    _, hard = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (most, hard))
