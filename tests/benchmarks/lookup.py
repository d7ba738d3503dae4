"""Lookups by product: latency beside a no-op Celery task on the same worker, and how many a second."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from celery import Celery
from redis import Redis

from db.session import Database
from producer.broker import celery_app
from producer.client import Producer
from producer.mailbox import pause_after
from producer.messages import Queue, Reply
from producer.settings import ProducerSettings
from tests.benchmarks import catalogue, noop, service
from tests.benchmarks.catalogue import Gallery, number_of, product_id
from tests.benchmarks.report import Report, arguments, workspace
from worker.index.rebuild import rebuild
from worker.roles import Role, build_settings
from worker.settings import WorkerSettings

TITLE = "Lookups by product beside a no-op Celery task"
SLOWER_THAN_NOOP = 2.5
PRODUCTS_PER_SECOND = 2000
LIMIT, CLIENTS, IN_FLIGHT, ASKED = 10, 8, 4, 500
BATCHES = (64, 128, 256)


class PlainCelery:
    """A client of the no-op task, on the connection settings of Lookalike's own messages."""

    def __init__(self, settings: WorkerSettings, redis: Redis) -> None:
        self._redis = redis
        self._with_results = self._app(settings, results=True)
        self._without = self._app(settings, results=False)

    @staticmethod
    def _app(settings: WorkerSettings, *, results: bool) -> Celery:
        app = celery_app(settings)
        app.conf.task_ignore_result = False
        app.conf.result_backend = settings.redis_url.get_secret_value() if results else None
        return app

    def get(self) -> None:
        """As any user of Celery would: send, then `get`, which subscribes to the result."""
        result = self._with_results.send_task(noop.NAME, [noop.MESSAGE], queue=Queue.LOOKUP.value)
        result.get(timeout=30)

    def poll(self) -> None:
        """Send, then poll for Celery's result with the pauses of Lookalike's producer."""
        sent = self._without.send_task(noop.NAME, [noop.MESSAGE], queue=Queue.LOOKUP.value)
        began = time.monotonic()
        while self._redis.get(f"celery-task-meta-{sent.id}") is None:
            time.sleep(pause_after(time.monotonic() - began))


def interleaved(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, Any]:
    """Milliseconds of each call: one of each a round, by turns first, after a tenth of the rounds to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds + rounds // 10):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            begun = time.perf_counter()
            ways[name]()
            taken[name].append((time.perf_counter() - begun) * 1000)
    return {name: np.array(each[rounds // 10 :]) for name, each in taken.items()}


def one_by_one(shop: Producer, ids: Sequence[str]) -> list[Reply]:
    """Ask for one after the other."""
    return [shop.find_similar(each, limit=LIMIT).result(timeout=30) for each in ids]


def from_clients(settings: ProducerSettings, ids: Sequence[str], clients: int) -> None:
    """Ask from several threads, each with a producer of its own."""
    with ExitStack() as closing, ThreadPoolExecutor(clients) as threads:
        shops = [closing.enter_context(Producer(settings)) for _ in range(clients)]
        parts = [ids[number::clients] for number in range(clients)]
        list(threads.map(one_by_one, shops, parts))


def in_batches(shop: Producer, ids: Sequence[str], batch: int) -> list[Reply]:
    """Ask with `find_similar_many`, a few batches in flight."""
    waiting = deque()  # type: ignore[var-annotated]
    replies: list[Reply] = []
    for start in range(0, len(ids), batch):
        if len(waiting) == IN_FLIGHT:
            replies += waiting.popleft().result(timeout=60).replies
        waiting.append(shop.find_similar_many(ids[start : start + batch], limit=LIMIT))
    while waiting:
        replies += waiting.popleft().result(timeout=60).replies
    return replies


def a_second(count: int, work: Callable[[], object]) -> float:
    """How many of `count` things are done a second."""
    begun = time.perf_counter()
    work()
    return count / (time.perf_counter() - begun)


def random_ids(count: int, size: int, seed: int) -> list[str]:
    """Products to ask about, all over the catalogue."""
    return [product_id(int(each)) for each in np.random.default_rng(seed).integers(0, size, count)]


def build_index(settings: WorkerSettings) -> float:
    """Make the first generation; returns the recall that it measured."""
    database = Database(settings.database)
    built = rebuild(database, settings.data_dir, build_settings(settings))
    database.close()
    assert built is not None
    return built.recall


def measure_latency(report: Report, settings: WorkerSettings, size: int, rounds: int) -> None:
    """One lookup and two kinds of no-op, by turns."""
    ids = iter(random_ids(2 * rounds, size, seed=11))
    with (
        Producer(settings) as shop,
        Redis.from_url(settings.redis_url.get_secret_value()) as redis,
    ):
        plain = PlainCelery(settings, redis)
        ways: dict[str, Callable[[], object]] = {
            "lookup": lambda: shop.find_similar(next(ids), limit=LIMIT).result(timeout=30),
            "no-op, .get()": plain.get,
            "no-op, polled as lookups are": plain.poll,
        }
        taken = interleaved(ways, rounds)
    for name, each in taken.items():
        for quantile in (50, 95):
            report.add(f"{name}, p{quantile}", np.percentile(each, quantile), "ms")
    noops = {name: np.percentile(each, 50) for name, each in taken.items() if name != "lookup"}
    fastest = min(noops, key=lambda name: noops[name])
    ratio = np.percentile(taken["lookup"], 50) / noops[fastest]
    report.add("lookup p50 / fastest no-op p50", ratio, "x", at_most=SLOWER_THAN_NOOP)
    report.note(
        f"{rounds} rounds of one call each, interleaved; compared with the faster: {fastest}."
    )


def measure_throughput(report: Report, settings: WorkerSettings, size: int, count: int) -> None:
    """Lookups a second: one by one, from several clients, in batches."""
    ids = random_ids(10 * count, size, seed=12)
    with Producer(settings) as shop:
        alone = a_second(count, lambda: one_by_one(shop, ids[:count]))
        report.add("one by one", alone, "lookups/s")
        clients = a_second(count, lambda: from_clients(settings, ids[:count], CLIENTS))
        report.add(f"one by one, {CLIENTS} clients", clients, "lookups/s")
        for batch in BATCHES:
            bar = PRODUCTS_PER_SECOND if batch == BATCHES[-1] else None
            rate = a_second(len(ids), lambda size=batch: in_batches(shop, ids, size))  # type: ignore[misc]
            report.add(f"find_similar_many of {batch}", rate, "products/s", at_least=bar)
    report.note(
        f"Batches: one client, {IN_FLIGHT} in flight. Server, worker and client share the cores."
    )


def measure_answers(report: Report, settings: WorkerSettings, gallery: Gallery) -> None:
    """Compare answers with brute force."""
    chance = np.random.default_rng(13)
    asked = chance.choice(len(gallery.rows), min(ASKED, len(gallery.rows)), replace=False)
    with Producer(settings) as shop:
        replies = in_batches(shop, [product_id(each) for each in asked.tolist()], BATCHES[-1])
    answers = [[number_of(match.product_id) for match in reply.matches] for reply in replies]
    found = catalogue.recall(gallery.rows, asked, answers, LIMIT)
    report.add(f"recall@{LIMIT} of {len(asked)} answers", found)
    paths = Counter(reply.path for reply in replies)
    report.note(f"Answered by {', '.join(f'{path} ({n})' for path, n in paths.items())}.")


def measure(report: Report, folder: Path, gallery: Gallery, rounds: int) -> None:
    """Build the index, start one search worker, and measure."""
    size = len(gallery.rows)
    url = catalogue.database_of(gallery, folder, report.out / "cache")
    with service.server(folder, url) as settings:
        report.add("recall@10 as the index measured it", build_index(settings))
        with service.worker(settings, Role.SEARCH, ["tests.benchmarks.noop"]):
            measure_latency(report, settings, size, rounds)
            measure_throughput(report, settings, size, rounds)
            measure_answers(report, settings, gallery)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = arguments(TITLE)
    parser.add_argument("--size", type=int, default=50_000, help="products in the catalogue")
    options = parser.parse_args(argv)
    size, rounds = (3000, 30) if options.quick else (options.size, 1000)
    gallery = catalogue.gallery(size, options.out / "cache", real=not options.quick)
    report = Report("lookup", f"{TITLE}, {size:,} products", options.out, options.quick)
    report.note(gallery.described)
    with workspace(options.out) as folder:
        measure(report, folder, gallery, rounds)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
