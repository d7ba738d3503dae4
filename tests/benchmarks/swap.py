"""Swaps under lookups: four processes ask without a break while the catalogue changes and generations are swapped.

Every answer is kept and compared afterwards with brute force over the catalogue as it was at the revision that
the answer names. Products that are asked about move at every step: an answer that mixed two generations, or one
with the overlay of the other, would have distances that were never true together.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import Array, c_int64
from dataclasses import asdict, dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from threading import Thread

import numpy as np

from db.queries import revisions
from db.session import Database
from producer.ids import new_id
from producer.messages import ProductLookup, Reply, Selection
from tests.benchmarks import catalogue, service
from tests.benchmarks.catalogue import Vectors, number_of, product_id
from tests.benchmarks.report import Report, arguments, workspace
from worker.index.follower import Follower
from worker.index.rebuild import BuildSettings, rebuild
from worker.lookup import Answerer

TITLE = "Swaps of the index under lookups"
PROCESSES, THREADS = 4, 2
PRODUCTS, DIMENSION, LIMIT = 3000, 512, 10
WATCHED, MOVED = 200, 20
"""Products that are asked about, and how many of them get another vector before each swap."""
PAUSE = 0.02
"""Seconds between two lookups of a thread, so that the rebuilds get a share of the cores."""
TOLERANCE = 2e-3
"""Of a distance: the index keeps vectors in half precision."""
NOTICED = 1.0
DEADLINE = 60.0

EXACT = BuildSettings(trees=4, search_k=6000, reduce_to=0)
"""Annoy looks at everything, so that every answer must be the true one; of vectors so wide that it pays."""


# -- the processes that ask -----------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """One answer."""

    asked: int
    generation: int | None
    revision: int
    pending: int
    path: str
    numbers: list[int]
    distances: list[float]

    @classmethod
    def of(cls, asked: int, reply: Reply) -> Said:
        """What is kept of a reply."""
        return cls(
            asked=asked,
            generation=reply.generation,
            revision=reply.as_of.revision,
            pending=reply.pending,
            path=reply.path,
            numbers=[number_of(match.product_id) for match in reply.matches],
            distances=[match.distance for match in reply.matches],
        )


def look(
    url: str, data_dir: Path, out: Path, *, stop: Event, seen: Array[c_int64], place: int
) -> None:
    """Ask from several threads of this process until told to stop, and write down every answer."""
    database = Database(url)
    follower = Follower(database, data_dir)
    follower.start()
    answerer = Answerer(database, follower)

    def ask(thread: int) -> None:
        chance = random.Random(1000 * place + thread)
        with (out / f"{place}-{thread}.jsonl").open("w") as log:
            while not stop.wait(PAUSE):
                asked = chance.randrange(WATCHED)
                try:
                    said = Said.of(asked, answerer.by_products(_question(asked)).replies[0])
                except Exception as error:
                    log.write(json.dumps({"error": repr(error)}) + "\n")
                else:
                    log.write(json.dumps(asdict(said)) + "\n")
                    seen[place] = said.generation or 0

    threads = [Thread(target=ask, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    follower.stop()
    database.close()


def _question(asked: int) -> ProductLookup:
    return ProductLookup(
        id=new_id(),
        expires_at=time.time() + 60,
        product_ids=(product_id(asked),),
        selection=Selection(limit=LIMIT),
    )


# -- the process that changes the catalogue and swaps ---------------------------------------------


@dataclass(frozen=True)
class Size:
    """What a process has open."""

    files: int
    """Descriptors. A connection to the database takes two, and they are made as threads happen to need them."""
    mapped: int
    """Mappings of files."""
    of_generations: int
    """Descriptors and mappings of the files of generations."""
    mappings: int
    """All mappings, those of the heap too: the allocator takes and returns a few as it pleases."""

    @classmethod
    def of(cls, pid: int) -> Size:
        """Read it from /proc."""
        process = Path(f"/proc/{pid}")
        lines = (process / "maps").read_text().splitlines()
        files = [os.readlink(link) for link in (process / "fd").iterdir()]
        return cls(
            files=len(files),
            mapped=sum("/" in line for line in lines),
            of_generations=sum("/generation-" in name for name in [*files, *lines]),
            mappings=len(lines),
        )


@dataclass
class History:
    """What was true when: the vectors at the first revision, and what each later one changed."""

    rows: Vectors
    first: int
    moves: dict[int, tuple[list[int], Vectors]] = field(default_factory=dict)
    built_at: dict[int, int] = field(default_factory=dict)
    """Generation → revision."""

    def move(self, database: Database, step: int) -> None:
        """Give some of the watched products other vectors."""
        numbers = sorted(random.Random(step).sample(range(WATCHED), MOVED))
        rows = catalogue.clustered(MOVED, DIMENSION, seed=1000 + step).rows
        labels = np.zeros(MOVED, dtype=np.int64)
        revision = catalogue.put(database, numbers, rows, labels, version=2 + step)
        assert revision is not None
        self.moves[revision] = (numbers, rows)

    def pending(self, generation: int, revision: int) -> int:
        """Products that moved between the generation's revision and another."""
        since = self.built_at[generation]
        moved = (numbers for at, (numbers, _) in self.moves.items() if since < at <= revision)
        return len({number for numbers in moved for number in numbers})

    def distances(self, wanted: Sequence[int]) -> Iterator[tuple[int, Vectors]]:
        """Revisions in order, each with the distances [watched, products] that were true at it."""
        rows = self.rows.copy()
        steps = sorted({self.first, *self.moves, *wanted})
        for revision in steps:
            numbers, moved = self.moves.get(revision, ([], rows[:0]))
            rows[numbers] = moved
            kept = rows.astype(np.float16).astype(np.float64)
            squares = np.square(kept).sum(axis=1)
            squared = squares[:WATCHED, None] + squares - 2 * kept[:WATCHED] @ kept.T
            true = np.sqrt(np.maximum(squared, 0)).astype(np.float32)
            true[np.arange(WATCHED), np.arange(WATCHED)] = np.inf  # a product is not its own answer
            yield revision, true


@dataclass
class Outcome:
    """What became of the lookups and of the processes that made them."""

    lookups: int = 0
    errors: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    paths: Counter[str] = field(default_factory=Counter)
    noticed: list[float] = field(default_factory=list)
    """Seconds from each swap until every process answered from it."""
    sizes: list[list[Size]] = field(default_factory=list)
    """Before each swap, of each process."""

    def growth(self, name: str) -> float:
        """How much more of something the process that grew most has at the end than at the start."""
        settled = self.sizes[len(self.sizes) // 5 :]
        part = max(1, len(settled) // 3)
        of_each: list[list[int]] = [
            [getattr(size, name) for size in sizes] for sizes in zip(*settled, strict=True)
        ]
        return max(
            statistics.median(each[-part:]) - statistics.median(each[:part]) for each in of_each
        )


def run(url: str, folder: Path, swaps: int, processes: int = PROCESSES) -> Outcome:
    """Swap under lookups in an empty database and an empty folder; returns what the lookups saw."""
    answers, data_dir = folder / "answers", folder / "data"
    answers.mkdir()
    database = service.migrated(url)
    gallery = catalogue.clustered(PRODUCTS, DIMENSION)
    catalogue.fill(database, gallery)
    with database.reading() as session:
        history = History(gallery.rows, revisions.current(session))
    outcome = Outcome()
    _swap(database, data_dir, history)
    with _looking(url, data_dir, answers, processes) as (seen, pids):
        _until(seen, number=1)
        for step in range(swaps):
            history.move(database, step)
            outcome.sizes.append([Size.of(pid) for pid in pids])
            number, published = _swap(database, data_dir, history)
            _until(seen, number)
            outcome.noticed.append(time.perf_counter() - published)
    database.close()
    _judge_all(outcome, history, answers)
    return outcome


def _swap(database: Database, data_dir: Path, history: History) -> tuple[int, float]:
    """Rebuild; returns the generation's number and when it became current."""
    published = 0.0

    def note(step: str) -> None:
        nonlocal published
        if step == "published":
            published = time.perf_counter()

    built = rebuild(database, data_dir, EXACT, checkpoint=note)
    assert built is not None
    history.built_at[built.number] = built.revision
    return built.number, published


@contextmanager
def _looking(
    url: str, data_dir: Path, answers: Path, processes: int
) -> Iterator[tuple[Array[c_int64], list[int]]]:
    """Processes that ask while the block runs, what generation each last heard of, and their ids."""
    context = multiprocessing.get_context("spawn")
    stop, seen = context.Event(), context.RawArray(c_int64, processes)
    lookers = [
        context.Process(
            target=look,
            args=(url, data_dir, answers),
            kwargs={"stop": stop, "seen": seen, "place": place},
        )
        for place in range(processes)
    ]
    for looker in lookers:
        looker.start()
    try:
        yield seen, [looker.pid for looker in lookers if looker.pid is not None]
    finally:
        stop.set()
        for looker in lookers:
            looker.join(DEADLINE)
            looker.kill()
    failed = [looker.exitcode for looker in lookers if looker.exitcode]
    if failed:
        raise RuntimeError(f"lookup processes ended with {failed}")


def _until(seen: Array[c_int64], number: int) -> None:
    deadline = time.monotonic() + DEADLINE
    while min(seen) < number:
        if time.monotonic() > deadline:
            raise RuntimeError(f"generation {number} was not noticed: {list(seen)}")
        time.sleep(0.005)


# -- the judge ------------------------------------------------------------------------------------


def _judge_all(outcome: Outcome, history: History, answers: Path) -> None:
    """Compare every answer with what was true at its revision."""
    at: dict[int, list[Said]] = defaultdict(list)
    for path in sorted(answers.iterdir()):
        for line in map(json.loads, path.read_text().splitlines()):
            outcome.lookups += 1
            if "error" in line:
                outcome.errors.append(line["error"])
            else:
                at[line["revision"]].append(Said(**line))
    for revision, true in history.distances(list(at)):
        for said in at[revision]:
            outcome.paths[said.path] += 1
            wrong = judge(said, history, true)
            if wrong:
                outcome.wrong.append(f"{wrong}: {said}")


def judge(said: Said, history: History, true: Vectors) -> str | None:
    """What is wrong with an answer, given the distances [watched, products] at its revision."""
    if said.generation is None:
        return "no generation"
    if said.pending != history.pending(said.generation, said.revision):
        return "the overlay is not that of the generation"
    if len(said.numbers) != LIMIT or len(set(said.numbers)) != LIMIT:
        return "not ten products"
    mine = true[said.asked]
    if np.abs(mine[said.numbers] - said.distances).max() > TOLERANCE:
        return "a distance was not true at that revision"
    if np.abs(np.sort(np.partition(mine, LIMIT)[:LIMIT]) - said.distances).max() > TOLERANCE:
        return "not the nearest at that revision"
    return None


def report_of(outcome: Outcome, report: Report) -> None:
    """The figures and their bars."""
    report.add("lookups", outcome.lookups)
    report.add("errors", len(outcome.errors), at_most=0)
    report.add("answers that were not true at their revision", len(outcome.wrong), at_most=0)
    report.add("a swap is noticed by all, median", statistics.median(outcome.noticed), "s")
    report.add("a swap is noticed by all, slowest", max(outcome.noticed), "s", at_most=NOTICED)
    swaps = len(outcome.noticed)
    for name, what, bar in (
        ("files", "open files", 0),
        ("mapped", "mapped files", 0),
        ("of_generations", "open and mapped files of generations", 0),
        ("mappings", "all mappings, the heap's too", swaps // 10),
    ):
        report.add(f"growth of {what}", outcome.growth(name), at_most=bar)
    report.note(
        "Growth: of the process that grew most, the median over the last third of the swaps against that over the "
        "first, after a fifth to settle. A leak would be at least one a swap."
    )
    report.note(f"Answered by {', '.join(f'{path} ({n})' for path, n in outcome.paths.items())}.")
    report.note(f"{MOVED} of the {WATCHED} products asked about move before each swap.")
    for problem in [*outcome.errors[:3], *outcome.wrong[:3]]:
        report.note(problem)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = arguments(TITLE)
    parser.add_argument("--swaps", type=int, default=50)
    options = parser.parse_args(argv)
    swaps = 5 if options.quick else options.swaps
    title = f"{TITLE}: {swaps} swaps, {PROCESSES} processes of {THREADS} threads"
    report = Report("swap", title, options.out, options.quick)
    with workspace(options.out) as folder:
        report_of(run(catalogue.sqlite_url(folder / "catalogue.db"), folder, swaps), report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
