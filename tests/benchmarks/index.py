"""A whole rebuild, from SQL to the swapped pointer, beside Annoy's bare add_item and build."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from db.queries import generations
from db.session import Database
from producer.ids import new_id
from producer.messages import MAX_BATCH, ProductLookup
from tests.benchmarks import catalogue
from tests.benchmarks.catalogue import Gallery, Vectors, number_of, product_id
from tests.benchmarks.fresh import Measured, measured
from tests.benchmarks.report import Report, arguments, workspace
from worker.index.follower import Follower
from worker.index.rebuild import rebuild
from worker.lookup import Answerer
from worker.roles import build_settings
from worker.settings import WorkerSettings

TITLE = "A rebuild of the index beside bare Annoy"
SLOWER_THAN_BARE = 1.4
TREES = 42
SEARCH_K = 10_000
LIMIT, ASKED, BLOCK = 10, 500, 2048
MIB = 2**20


@dataclass(frozen=True)
class Built:
    """A build: how long it took in seconds, and what it left on the disk in bytes."""

    seconds: float
    size: int


def bare(vectors: Path, tree: Path, dimension: int, trees: int) -> Built:
    """The bare loop: add every vector of a file of float32 rows, build with all cores, save; not synced.

    The time is that of add_item and build alone. Reads block by block, so that memory is Annoy's own.
    """
    from annoy import AnnoyIndex

    index = AnnoyIndex(dimension, "euclidean")
    begun = time.perf_counter()
    slot = 0
    with vectors.open("rb") as file:
        while len(block := np.fromfile(file, np.float32, BLOCK * dimension)):
            for row in block.reshape(-1, dimension).tolist():
                index.add_item(slot, row)
                slot += 1
    index.build(trees)
    seconds = time.perf_counter() - begun
    index.save(str(tree))
    return Built(seconds, tree.stat().st_size)


def whole(url: str, data_dir: Path) -> Built:
    """Lookalike's rebuild with the settings' defaults: snapshot, vectors, trees, sync, recall, checks, swap."""
    database = Database(url)
    begun = time.perf_counter()
    built = rebuild(database, data_dir, build_settings(WorkerSettings()))
    seconds = time.perf_counter() - begun
    assert built is not None
    with database.reading() as session:
        current = generations.current(session)
    database.close()
    assert current is not None
    files = (data_dir / current.directory).iterdir()
    return Built(seconds, sum(file.stat().st_size for file in files))


def bare_recall(tree: Path, rows: Vectors, asked: list[int], search_k: int) -> tuple[float, float]:
    """Recall@10 of the bare index, and milliseconds a query."""
    from annoy import AnnoyIndex

    index = AnnoyIndex(rows.shape[1], "euclidean")
    index.load(str(tree))
    begun = time.perf_counter()
    found = [index.get_nns_by_item(slot, LIMIT + 1, search_k) for slot in asked]
    taken = (time.perf_counter() - begun) * 1000 / len(asked)
    answers = [
        [each for each in slots if each != slot] for slot, slots in zip(asked, found, strict=True)
    ]
    return catalogue.recall(rows, np.array(asked), answers, LIMIT), taken


def answer_recall(url: str, data_dir: Path, rows: Vectors, asked: list[int]) -> tuple[float, float]:
    """Recall@10 of Lookalike's answers, checks against SQL included, and milliseconds a lookup."""
    database = Database(url)
    answerer = Answerer(database, Follower(database, data_dir))
    answerer.by_products(_question(asked[:1]))
    answers = []
    begun = time.perf_counter()
    for start in range(0, len(asked), MAX_BATCH):
        replies = answerer.by_products(_question(asked[start : start + MAX_BATCH])).replies
        answers += [[number_of(match.product_id) for match in reply.matches] for reply in replies]
    taken = (time.perf_counter() - begun) * 1000 / len(asked)
    database.close()
    return catalogue.recall(rows, np.array(asked), answers, LIMIT), taken


def _question(asked: list[int]) -> ProductLookup:
    return ProductLookup(
        id=new_id(),
        expires_at=time.time() + 60,
        product_ids=tuple(map(product_id, asked)),
        limit=LIMIT,
    )


def measure(report: Report, folder: Path, gallery: Gallery, repeats: int) -> None:
    """Build both by turns, each in a fresh process, then ask both."""
    url = catalogue.database_of(gallery, folder, report.out / "cache")
    vectors, tree = folder / "vectors.f32", folder / "bare.ann"
    gallery.rows.tofile(vectors)
    bares, wholes = [], []
    for _ in range(repeats):
        bares.append(measured(bare, vectors, tree, gallery.rows.shape[1], TREES))
        wholes.append(measured(whole, url, folder))
    _report_builds(report, bares, wholes)
    asked = np.random.default_rng(21).choice(
        len(gallery.rows), min(ASKED, len(gallery.rows)), replace=False
    )
    _report_answers(report, url, folder, gallery.rows, asked.tolist())


def _report_builds(
    report: Report, bares: list[Measured[Built]], wholes: list[Measured[Built]]
) -> None:
    seconds = {}
    for name, runs in (("bare Annoy", bares), ("Lookalike", wholes)):
        seconds[name] = statistics.median(run.result.seconds for run in runs)
        report.add(f"{name}: time, median of {len(runs)}", seconds[name], "s")
        report.add(f"{name}: peak memory", max(run.peak for run in runs) / MIB, "MiB")
        report.add(f"{name}: on disk", runs[-1].result.size / MIB, "MiB")
    ratio = seconds["Lookalike"] / seconds["bare Annoy"]
    report.add("time, Lookalike / bare", ratio, "x", at_most=SLOWER_THAN_BARE)
    report.note(
        f"Bare: add_item and build of {TREES} trees on all cores, nothing read from SQL, saved or checked. "
        "Lookalike: the whole rebuild from SQLite to the swap, with the settings' defaults. Memory: greatest "
        "resident size of a process that does nothing else, mapped files included."
    )


def _report_answers(
    report: Report, url: str, folder: Path, rows: Vectors, asked: list[int]
) -> None:
    for name, search_k in (("default search_k", -1), (f"search_k {SEARCH_K:,}", SEARCH_K)):
        found, taken = bare_recall(folder / "bare.ann", rows, asked, search_k)
        report.add(f"bare Annoy, {name}: recall@{LIMIT}", found)
        report.add(f"bare Annoy, {name}: a query", taken, "ms")
    found, taken = answer_recall(url, folder, rows, asked)
    report.add(f"Lookalike: recall@{LIMIT} of its answers", found)
    report.add("Lookalike: an answer, in batches", taken, "ms")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = arguments(TITLE)
    parser.add_argument("--size", type=int, default=250_000, help="vectors")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(argv)
    size, repeats = (4000, 1) if options.quick else (options.size, options.repeats)
    gallery = catalogue.gallery(size, options.out / "cache", real=not options.quick)
    report = Report("index", f"{TITLE}, {size:,} vectors", options.out, options.quick)
    report.note(gallery.described)
    with workspace(options.out) as folder:
        measure(report, folder, gallery, repeats)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
