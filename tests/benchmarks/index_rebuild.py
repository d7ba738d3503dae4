"""A whole rebuild, from SQL to the swapped pointer, beside Annoy's bare add_item and build."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from db.queries import generations
from db.session import Database
from producer.messages import MAX_BATCH, Selection
from tests.benchmarks.catalogue import number_of
from tests.benchmarks.fresh import Measured, measured
from tests.benchmarks.index_material import Material, material
from tests.benchmarks.index_own import question
from tests.benchmarks.index_questions import Questions
from tests.benchmarks.index_run import LIMIT, MIB, Run, Section
from tests.benchmarks.index_systems import mapped
from tests.benchmarks.report import workspace
from worker.index.follower import Follower
from worker.index.rebuild import rebuild
from worker.lookup import Answerer
from worker.roles import build_settings
from worker.settings import WorkerSettings

TITLE = "rebuild"
SLOWER_THAN_BARE = 1.4
TREES = 42
SEARCH_K = 10_000
BLOCK = 2048


@dataclass(frozen=True)
class Built:
    """A build: how long it took in seconds, and what it left on the disk in bytes."""

    seconds: float
    size: int


def bare(rows: Path, tree: Path, trees: int) -> Built:
    """The bare loop: add every vector of a mapped file of rows, build with all cores, save; not synced.

    The time is that of add_item and build alone. Reads block by block, so that memory is Annoy's own.
    """
    from annoy import AnnoyIndex

    vectors = mapped(rows)
    index = AnnoyIndex(vectors.shape[1], "euclidean")
    begun = time.perf_counter()
    for start in range(0, len(vectors), BLOCK):
        for slot, row in enumerate(vectors[start : start + BLOCK].tolist(), start):
            index.add_item(slot, row)
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


def bare_recall(tree: Path, questions: Questions, search_k: int) -> tuple[float, float]:
    """Recall@10 of the bare index, and milliseconds a query."""
    from annoy import AnnoyIndex

    index = AnnoyIndex(questions.vectors.shape[1], "euclidean")
    index.load(str(tree))
    asked = questions.numbers.tolist()
    begun = time.perf_counter()
    found = [index.get_nns_by_item(slot, LIMIT + 1, search_k) for slot in asked]
    taken = (time.perf_counter() - begun) * 1000 / len(asked)
    answers = [
        [each for each in slots if each != slot] for slot, slots in zip(asked, found, strict=True)
    ]
    return questions.recall(answers), taken


def answer_recall(url: str, data_dir: Path, questions: Questions) -> tuple[float, float]:
    """Recall@10 of Lookalike's answers, checks against SQL included, and milliseconds a lookup."""
    database = Database(url)
    answerer = Answerer(database, Follower(database, data_dir))
    asked, selection = questions.numbers.tolist(), Selection(limit=LIMIT)
    answerer.by_products(question(asked[:1], selection))
    answers = []
    begun = time.perf_counter()
    for start in range(0, len(asked), MAX_BATCH):
        batch = question(asked[start : start + MAX_BATCH], selection)
        for reply in answerer.by_products(batch).replies:
            answers.append([number_of(match.product_id) for match in reply.matches])
    taken = (time.perf_counter() - begun) * 1000 / len(asked)
    database.close()
    return questions.recall(answers), taken


def measure(run: Run) -> None:
    """Build both by turns, each in a fresh process, then ask both."""
    section = Section(run, TITLE)
    with workspace(run.out) as folder:
        made = material(run, run.scale.size, folder)
        section.note(f"{made.described}.")
        bares, wholes = [], []
        for _ in range(run.scale.repeats):
            bares.append(measured(bare, made.rows, folder / "bare.ann", TREES))
            wholes.append(measured(whole, made.database, folder))
        _report_builds(section, bares, wholes)
        _report_answers(section, made, folder)


def _report_builds(
    section: Section, bares: list[Measured[Built]], wholes: list[Measured[Built]]
) -> None:
    seconds = {}
    for name, runs in (("bare Annoy", bares), ("Lookalike", wholes)):
        seconds[name] = statistics.median(run.result.seconds for run in runs)
        section.add(f"{name}: time, median of {len(runs)}", seconds[name], "s")
        section.add(f"{name}: peak memory", max(run.peak for run in runs) / MIB, "MiB")
        section.add(f"{name}: on disk", runs[-1].result.size / MIB, "MiB")
    ratio = seconds["Lookalike"] / seconds["bare Annoy"]
    section.add("time, Lookalike / bare", ratio, "x", at_most=SLOWER_THAN_BARE)
    section.note(
        f"Bare: add_item and build of {TREES} trees on all cores, nothing read from SQL, saved or checked. "
        "Lookalike: the whole rebuild from SQLite to the swap, with the settings' defaults. Memory: greatest "
        "resident size of a process that does nothing else, mapped files included."
    )


def _report_answers(section: Section, made: Material, folder: Path) -> None:
    for name, search_k in (("default search_k", -1), (f"search_k {SEARCH_K:,}", SEARCH_K)):
        found, taken = bare_recall(folder / "bare.ann", made.products, search_k)
        section.add(f"bare Annoy, {name}: recall@{LIMIT}", found)
        section.add(f"bare Annoy, {name}: a query", taken, "ms")
    found, taken = answer_recall(made.database, folder, made.products)
    section.add(f"Lookalike: recall@{LIMIT} of its answers", found)
    section.add("Lookalike: an answer, in batches", taken, "ms")
