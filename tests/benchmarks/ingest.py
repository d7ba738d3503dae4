"""Pictures a second through the queue into SQL, beside bare loops and a plain script; where the time goes."""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from redis import Redis
from sqlalchemy.orm import Session

from db.queries import models
from db.session import Database
from producer.client import Producer
from producer.ids import new_id
from producer.ledger import Ledger
from producer.messages import IngestChunk
from producer.rows import Row
from tests.benchmarks import catalogue, loader, networks, pictures, service
from tests.benchmarks.report import Report, arguments, workspace
from worker.embedder import Embedder
from worker.images.decode import decode
from worker.ingest import Ingester
from worker.preparing import Preparer
from worker.roles import Role

TITLE = "Pictures through the queue beside the bare loop"
AS_FAST_AS_BARE, FASTER_THAN_LOADER = 0.92, 1.3
PLAIN, BY_HAND, QUEUE = "bare loop: decode, then model", "bare loop, pipelined by hand", "queue"
LOADER = "a DataLoader script, fp32"
COUNTS = {networks.LITE0: 2048, networks.RESNET152: 128}
"""Pictures for each network: a minute's work, or nearly."""
GLANCE = 0.01
"""Seconds between two looks at the ledger."""

P = ParamSpec("P")
T = TypeVar("T")


def plain_loop(embedder: Embedder, paths: Sequence[Path], batch: int) -> None:
    """Decode a batch, run the network on it, and so on. No thumbnails, no digests, nothing kept."""
    spec = embedder.config.decode_spec(thumbnail=0)
    for part in _batches(paths, batch):
        pixels = [decode(path.read_bytes(), spec).pixels for path in part]
        embedder.network.embed(np.stack(pixels))


def by_hand(embedder: Embedder, paths: Sequence[Path], batch: int) -> None:
    """The same, with child processes decoding the next batch while the network runs on this one."""

    def decoded(part: Sequence[Path]) -> NDArray[np.uint8]:
        results = embedder.decode_bare([path.read_bytes() for path in part])
        return np.stack([each.pixels for each in results if not isinstance(each, Exception)])

    with ThreadPoolExecutor(1) as ahead:
        parts = [ahead.submit(decoded, part) for part in _batches(paths, batch)]
        for part in parts:
            embedder.network.embed(part.result())


def through_queue(shop: Producer, paths: Sequence[Path]) -> None:
    """Add the pictures and wait until the last one's transaction is committed."""
    receipts = shop.add_many(_rows(paths))
    while shop.backlog():
        time.sleep(GLANCE)
    outcome = shop.wait_for(receipts, timeout=60)
    if outcome.failures or outcome.applied != len(paths):
        raise RuntimeError(
            f"{outcome.applied} of {len(paths)} were applied: {outcome.failures[:3]}"
        )


def _rows(paths: Sequence[Path]) -> Iterator[Row]:
    return (Row(f"{path.parent.name}-{path.stem}", path) for path in paths)


def _batches(paths: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    return (paths[start : start + size] for start in range(0, len(paths), size))


# -- where the time goes --------------------------------------------------------------------------


class Stopwatch:
    """Seconds spent in each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of a block."""
        begun = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - begun

    def of(self, name: str, work: Callable[P, T]) -> Callable[P, T]:
        """The same function, its time counted."""

        def timed(*args: P.args, **kwargs: P.kwargs) -> T:
            with self.stage(name):
                return work(*args, **kwargs)

        return timed


class TimedDatabase(Database):
    """A database whose writing transactions are counted, commits included."""

    def __init__(self, url: str, watch: Stopwatch) -> None:
        super().__init__(url)
        self._watch = watch

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session that commits when the block ends."""
        with self._watch.stage("write and commit"), super().writing() as session:
            yield session


def stages(
    embedder: Embedder, redis: Redis, folder: Path, paths: Sequence[Path], chunk: int
) -> dict[str, float]:
    """Milliseconds a picture in each stage, one chunk at a time and nothing else running."""
    watch = Stopwatch()
    url = catalogue.sqlite_url(folder / "stages.db")
    service.migrated(url).close()
    database = TimedDatabase(url, watch)
    config = embedder.config
    with database.writing() as session:
        model = models.register(session, config.digest, config.name, config.dimension, {})
    watch.seconds.clear()
    with ThreadPoolExecutor(1) as executor:
        ledger = Ledger(redis)
        preparer = Preparer(
            database=database,
            model_version_pk=model.pk,
            fetch=watch.of("fetch", embedder.fetch),
            decode_many=watch.of("decode and thumbnail, in the children", embedder.decode_many),
            embed=watch.of("network", embedder.embed),
            executor=executor,
        )
        ingester = Ingester(database, ledger, model.pk, preparer.prepare, preparer.prepare)
        begun = time.perf_counter()
        for part in _batches(paths, chunk):
            job = _chunk(part)
            ledger.accept([job])
            claim = ledger.begin(job)
            assert claim is not None
            ingester.ingest(claim)
        total = time.perf_counter() - begun
    database.close()
    watch.seconds["the rest: digests, ledger, objects"] = total - sum(watch.seconds.values())
    return {name: seconds * 1000 / len(paths) for name, seconds in watch.seconds.items()}


def _chunk(paths: Sequence[Path]) -> IngestChunk:
    items = tuple(row.item(version=1)[0] for row in _rows(paths))
    return IngestChunk(id=new_id(), accepted_at=time.time(), items=items)


# -- the comparison -------------------------------------------------------------------------------


def compare(
    ways: dict[str, Callable[[Sequence[Path]], object]],
    made: Sequence[bytes],
    folder: Path,
    repeats: int,
) -> dict[str, list[float]]:
    """Pictures a second of each way, on new copies of the pictures each time, by turns first."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for name in names:
        ways[name](pictures.write(made[:64], folder / f"warm-{names.index(name)}"))
    for repeat in range(repeats):
        paths = pictures.write(made, folder / f"repeat-{repeat}")
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            begun = time.perf_counter()
            ways[name](paths)
            rates[name].append(len(paths) / (time.perf_counter() - begun))
    return rates


def measure(report: Report, folder: Path, network: str, count: int, repeats: int) -> None:
    """Start a server and one embed worker; compare; then take the work apart."""
    made, described = pictures.jpegs(count, folder / "sample")
    url = catalogue.sqlite_url(folder / "catalogue.db")
    service.migrated(url).close()
    model = networks.named(network, folder / "model")
    with service.server(folder, url) as plain:
        settings = plain.with_(image_roots=(folder,), model=model)
        with (
            Redis.from_url(settings.redis_url.get_secret_value()) as redis,
            Embedder(settings, redis) as embedder,
            Producer(settings) as shop,
        ):
            report.note(f"{network}: {described}; {_device(embedder)}.")
            batch = settings.max_batch
            with service.worker(settings, Role.EMBED):
                rates = compare(
                    {
                        PLAIN: lambda paths: plain_loop(embedder, paths, batch),
                        BY_HAND: lambda paths: by_hand(embedder, paths, batch),
                        QUEUE: lambda paths: through_queue(shop, paths),
                    },
                    made,
                    folder / "pictures",
                    repeats,
                )
                scripted = [
                    loader.images_per_second(model, folder / "pictures" / f"repeat-{repeat}")
                    for repeat in range(repeats)
                ]
            _report_rates(report, network, rates | {LOADER: scripted})
            paths = pictures.write(made, folder / "stages")
            with Redis.from_url(settings.redis_url.get_secret_value()) as client:
                spent = stages(embedder, client, folder, paths, settings.chunk_size)
            _report_stages(report, network, spent, statistics.median(rates[QUEUE]))


def _device(embedder: Embedder) -> str:
    return f"on {embedder.network.device}, {embedder.network.precision}"


def _report_rates(report: Report, network: str, rates: dict[str, list[float]]) -> None:
    for name, each in rates.items():
        report.add(f"{network}: {name}", statistics.median(each), "images/s")
    best = [max(pair) for pair in zip(rates[PLAIN], rates[BY_HAND], strict=True)]
    for name, others, bar in (
        ("the better bare loop", best, AS_FAST_AS_BARE),
        ("the DataLoader script", rates[LOADER], FASTER_THAN_LOADER),
    ):
        ratio = statistics.median(
            one / other for one, other in zip(rates[QUEUE], others, strict=True)
        )
        report.add(f"{network}: queue / {name}", ratio, "x", at_least=bar)


def _report_stages(
    report: Report, network: str, spent: dict[str, float], images_per_second: float
) -> None:
    """The budget of a picture: what each stage takes alone, so how many a second it could do, and its load."""
    report.table(
        f"{network}: the time of one picture, stage by stage, one chunk at a time",
        [
            {
                "stage": name,
                "ms": round(milliseconds, 3),
                "ceiling, images/s": round(1000 / milliseconds),
                "used by the queue": f"{images_per_second * milliseconds / 1000:.0%}",
            }
            for name, milliseconds in spent.items()
        ],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = arguments(TITLE)
    parser.add_argument("--network", choices=tuple(COUNTS), help="one of them only")
    parser.add_argument("--count", type=int, help="pictures")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(argv)
    report = Report("ingest", TITLE, options.out, options.quick)
    usual = [networks.LITE0] if options.quick else list(COUNTS)
    for network in [options.network] if options.network else usual:
        count, repeats = options.count or COUNTS[network], options.repeats
        with workspace(options.out) as folder:
            measure(report, folder, network, *((96, 1) if options.quick else (count, repeats)))
    report.note(
        "Queue: Producer.add_many to the last commit in SQLite, thumbnails included, which no other makes. Bare "
        "loops: the same network, size, precision, threads and files; ratios are medians of those of each repeat."
    )
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
