"""How soon a committed change is in the answers of another process, and what a full overlay costs a lookup.

Nothing but SQL is between the two processes: no Redis, no beat.
"""

from __future__ import annotations

import multiprocessing
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from db.queries import catalogue as queries
from db.queries.catalogue import ProductRemoval
from db.session import Database
from producer.messages import Selection
from tests.benchmarks import catalogue
from tests.benchmarks.catalogue import JITTER, Vectors, number_of, product_id, sqlite_url, unit
from tests.benchmarks.fresh import measured
from tests.benchmarks.index_material import Material, material
from tests.benchmarks.index_own import DATABASE, question, rebuilt
from tests.benchmarks.index_run import LIMIT, Run, Section
from tests.benchmarks.index_systems import mapped
from tests.benchmarks.report import workspace
from worker.index.follower import Follower
from worker.lookup import Answerer

TITLE = "freshness"
SEARCHABLE = 1000.0
"""Milliseconds from a commit to an answer."""
OVERLAY = 3.0
"""Milliseconds that a full overlay may add to a lookup."""
NEAR = 0.02
"""Length of the noise between a product and one that is put beside it: nearer than any other."""
GIVE_UP = 30.0
BLOCK = 1000
ROUNDS = 500
SELECTION = Selection(limit=LIMIT)


# -- the process that answers ---------------------------------------------------------------------


@dataclass(frozen=True)
class Until:
    """Ask about a product until another one is among the answers."""

    asked: int
    wanted: int


@dataclass(frozen=True)
class Once:
    """Ask about a product."""

    asked: int


def answer(url: str, data_dir: Path, pipe: Connection) -> None:
    """Do as told until the pipe is closed."""
    database = Database(url)
    follower = Follower(database, data_dir)
    follower.start()
    answerer = Answerer(database, follower)
    try:
        while True:
            order = pipe.recv()
            if isinstance(order, Once):
                pipe.send(_asked(answerer, order.asked))
            else:
                pipe.send(_found(answerer, order, pipe))
    except EOFError:
        follower.stop()
        database.close()


def _asked(answerer: Answerer, asked: int) -> list[int]:
    replies = answerer.by_products(question([asked], SELECTION)).replies
    return [number_of(match.product_id) for match in replies[0].matches]


def _found(answerer: Answerer, order: Until, pipe: Connection) -> float:
    """When an answer had it, by the clock that all processes share; says first that it is asking."""
    begun = time.monotonic()
    asking = False
    while time.monotonic() - begun < GIVE_UP:
        if order.wanted in _asked(answerer, order.asked):
            return time.monotonic()
        if not asking:
            pipe.send(None)
            asking = True
    return float("inf")


# -- the process that changes ---------------------------------------------------------------------


@dataclass
class Shop:
    """Changes the catalogue, and has the other process look for each change."""

    database: Database
    pipe: Connection
    made: Material
    version: int = 1000

    def beside(self, asked: int, place: int) -> Vectors:
        """A vector [1, d] nearer to a product than any other."""
        noise = np.random.default_rng(place).standard_normal(
            (1, self.made.products.vectors.shape[1])
        )
        noise *= NEAR / np.linalg.norm(noise)
        return unit(self.made.products.vectors[asked : asked + 1] + noise.astype(np.float32))

    def put(self, number: int, place: int) -> float:
        """Put a product beside the one asked about; milliseconds from the commit until it is in an answer."""
        anchor = int(self.made.products.numbers[place])
        self.pipe.send(Until(anchor, number))
        self.pipe.recv()
        row, label = self.beside(place, place), np.zeros(1, dtype=np.int64)
        catalogue.put(self.database, [number], row, label, self._next())
        committed = time.monotonic()
        found: float = self.pipe.recv()
        return max(0.0, found - committed) * 1000

    def removed(self, number: int, place: int) -> bool:
        """Remove a product; whether the very next lookup is without it."""
        with self.database.writing() as session:
            removal = ProductRemoval(product_id(number), self._next())
            queries.apply(session, [], [removal])
        return number not in self.look(place)

    def look(self, place: int) -> list[int]:
        """What the other process answers now."""
        self.pipe.send(Once(int(self.made.products.numbers[place])))
        found: list[int] = self.pipe.recv()
        return found

    def _next(self) -> int:
        self.version += 1
        return self.version


@dataclass(frozen=True)
class Changes:
    """What became of the changes."""

    adds: list[float]
    """Milliseconds from commit to answer, of products that are new."""
    moves: list[float]
    """The same of products of the index that got another vector."""
    removals: int
    stayed: int
    """Removed products that the next lookup still answered with."""


def changes(shop: Shop, count: int) -> Changes:
    """For each of some products: add one beside it, remove that, remove its nearest, move another one to it."""
    asked = set(shop.made.products.numbers.tolist())
    others = [n for n in range(shop.made.size) if n not in asked]
    movers = iter(np.random.default_rng(5).permutation(others).tolist())
    adds, moves, gone = [], [], []
    for place in range(count):
        new, anchor = shop.made.size + place, place % len(asked)
        adds.append(shop.put(new, anchor))
        gone.append(shop.removed(new, anchor))
        nearest = next((each for each in shop.look(anchor) if each not in asked), None)
        if nearest is not None:
            gone.append(shop.removed(nearest, anchor))
        moved = next(movers)
        moves.append(shop.put(moved, anchor))
        gone.append(shop.removed(moved, anchor))
    return Changes(adds, moves, len(gone), gone.count(False))


@contextmanager
def answering(url: str, data_dir: Path) -> Iterator[Connection]:
    """Another process that answers while the block runs."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=answer, args=(url, data_dir, theirs))
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join(GIVE_UP)
        process.kill()


# -- the overlay ----------------------------------------------------------------------------------


def _two(made: Material, folder: Path, adds: int) -> list[Path]:
    """Two copies of the catalogue and its index, one of which has products added since."""
    places = [folder / "without", folder / "with"]
    for place in places:
        place.mkdir()
        shutil.copy(folder / DATABASE, place)
        for generation in folder.glob("generation-*"):
            shutil.copytree(generation, place / generation.name)
    measured(_add, made, places[1], adds)
    return places


def _add(made: Material, place: Path, adds: int) -> None:
    """Add noisy copies of products."""
    chance = np.random.default_rng(6)
    rows = mapped(made.rows)[np.sort(chance.integers(0, made.size, adds))]
    noise = chance.standard_normal(rows.shape, np.float32) * (JITTER / rows.shape[1] ** 0.5)
    database = Database(sqlite_url(place / DATABASE))
    added, labels = unit(rows + noise), np.zeros(adds, dtype=np.int64)
    for start in range(0, adds, BLOCK):
        numbers = range(made.size + start, made.size + min(start + BLOCK, adds))
        part = slice(start, start + BLOCK)
        catalogue.put(database, list(numbers), added[part], labels[part], version=1)
    database.close()


def _lookups(places: list[Path], asked: list[int], rounds: int) -> NDArray[np.float64]:
    """Milliseconds of lookups [rounds, places], by turns."""
    databases = [Database(sqlite_url(place / DATABASE)) for place in places]
    followers = [Follower(*each) for each in zip(databases, places, strict=True)]
    answerers = [Answerer(*each) for each in zip(databases, followers, strict=True)]
    taken = np.empty((rounds, len(places)))
    with threadpool_limits(1):
        for answerer in answerers:
            for number in asked:
                _asked(answerer, number)
        for turn in range(rounds):
            for place in ((0, 1), (1, 0))[turn % 2]:
                begun = time.perf_counter()
                _asked(answerers[place], asked[turn % len(asked)])
                taken[turn, place] = (time.perf_counter() - begun) * 1000
    return taken


# -- the section ----------------------------------------------------------------------------------


def measure(run: Run) -> None:
    """Build an index, measure the cost of an overlay on copies of it, then change it under lookups."""
    section = Section(run, TITLE)
    with workspace(run.out) as folder:
        made = material(run, run.scale.size, folder)
        section.note(f"{made.described}.")
        measured(rebuilt, folder)
        _overlay(section, run, made, folder)
        database = Database(made.database)
        with answering(made.database, folder) as pipe:
            seen = changes(Shop(database, pipe, made), run.scale.changes)
        database.close()
    _report(section, seen)


def _overlay(section: Section, run: Run, made: Material, folder: Path) -> None:
    places = _two(made, folder, run.scale.overlay)
    rounds = len(made.products.numbers)
    taken = measured(_lookups, places, made.products.numbers.tolist(), rounds).result
    empty, full = np.median(taken, axis=0)
    section.add("a lookup with an empty overlay, median", empty, "ms")
    section.add(f"a lookup with {run.scale.overlay:,} adds in the overlay, median", full, "ms")
    section.add("what the overlay adds to a lookup", full - empty, "ms", at_most=OVERLAY)
    section.note(
        f"Overlay: two copies of one index, one of them with {run.scale.overlay:,} products added since it was "
        f"built; {rounds} lookups of each by turns, in one process with one thread."
    )
    for place in places:
        shutil.rmtree(place)


def _report(section: Section, seen: Changes) -> None:
    for name, taken in (("added", seen.adds), ("moved", seen.moves)):
        section.add(f"commit to answer, {name}, p50", np.percentile(taken, 50), "ms")
        section.add(
            f"commit to answer, {name}, p99", np.percentile(taken, 99), "ms", at_most=SEARCHABLE
        )
    section.add("removals", seen.removals)
    section.add("removed products in the next answer", seen.stayed, at_most=0)
    section.note(
        f"{len(seen.adds)} products added and {len(seen.moves)} of the index given another vector, each beside a "
        "product that another process asks about without a pause; from the return of the commit to the first "
        "answer that has it, 0 where the answer was there first. Then removed, as is the nearest product of the "
        "index, and asked once. No Redis and no beat run."
    )
