"""Annoy: the only module that touches it, and the pitfalls it knows about.

The file has no header, no checksum and no dimension: whoever opens one has checked its bytes before. Lists go in,
not arrays (8 µs against 27 µs for 512 numbers). A tree is never unloaded or loaded twice: a new object for every
file, dropped by its last user, because unloading under a query is a segmentation fault.

A search takes seeds from the trees and looks around them in lists of neighbours (`neighbours`).
"""

from __future__ import annotations

import importlib.metadata
import mmap
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from worker.index import neighbours
from worker.index.engines import Eligible, Found, Recipe, Slots, Source
from worker.index.errors import BadVectors, EngineBroken, GenerationDamaged
from worker.index.neighbours import WIDTH, Lists
from worker.index.score import Vectors

if TYPE_CHECKING:
    from worker.index.manifest import Manifest

TREE, NEIGHBOURS, NORMS = "tree.ann", "neighbours.i32", "norms.f32"
TREES = 6
"""Enough for seeds; the neighbour lists do the rest. More trees cost more than they save."""
NODE_HEADER = 16
"""Bytes of a node before its vector: descendants, offset of the plane, two children."""
BLOCK = 8192
EFFORTS = (
    300, 400, 500, 600, 700, 800, 900, 1000, 1150, 1300, 1500, 1700, 2000, 2400, 3000, 4000, 6000, 9000,
    14_000, 20_000,
)  # fmt: skip
VISITS_PER_SEED = 20
"""Nodes visited for each seed whose neighbours are looked at: the best split at 98 % recall."""
FEWEST_SEEDS = 12
CANDIDATES_PER_SEED = 4
VISITS_PER_READ = 700.0
"""A node visited, with what is looked at around it, takes the time of reading so many halves of stored vectors."""
GROUP_BYTES = 1 << 20
"""Reduced vectors that are scored at once: what stays in a core's cache."""

ADVICE = (
    "the compiled Annoy on this machine does not work: {problem}. It was probably compiled for another "
    "processor, or by a compiler that its default flags break. Compile it here, without them: "
    "ANNOY_COMPILER_ARGS=-O3,-std=c++14,-fpermissive,-DANNOYLIB_MULTITHREADED_BUILD "
    "pip install --force-reinstall --no-deps --no-cache-dir --no-binary annoy annoy==1.17.3"
)


class AnnoyEngine:
    """The default engine."""

    files = (TREE, NEIGHBOURS, NORMS)

    def version(self) -> str:
        """Release of the installed Annoy."""
        return importlib.metadata.version("annoy")

    def self_test(self) -> None:
        """Compare Annoy with brute force on a tiny set; raises EngineBroken with what to do when they disagree."""
        try:
            self._try()
        except OSError as error:
            raise EngineBroken(
                f"Annoy cannot be tried: {error}; check the disk of temporary files (TMPDIR)"
            ) from error

    def _try(self) -> None:
        points = np.random.default_rng(7).standard_normal((64, 8)).astype(np.float32)
        with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
            path = Path(folder) / TREE
            try:
                index = _planted(8, [(0, points)], len(points), seed=1)
                index.build(4, n_jobs=1)
                found = [index.get_nns_by_vector(each, 5, 64_000) for each in points.tolist()]
                index.save(str(path))
            except ImportError as error:
                raise EngineBroken(ADVICE.format(problem=error)) from error
            nodes = _nodes(path, len(points), 8)
            if not np.array_equal(nodes[:, NODE_HEADER // 4 :], points):
                raise EngineBroken(ADVICE.format(problem="its file is laid out otherwise"))
        verify_answers(points, found)

    def build(self, source: Source, directory: Path, recipe: Recipe) -> int:
        """Plant and save the trees, then list neighbours. The build of the trees itself cannot be interrupted.

        Raises BadVectors for NaN, which Annoy would take.
        """
        trees = recipe.size or TREES
        blocks = (
            (start, source.reduced(start, min(start + BLOCK, len(source))))
            for start in range(0, len(source), BLOCK)
        )
        watched = _watched(blocks, len(source), recipe)
        index = _planted(source.width, watched, len(source), recipe.seed, _last(source))
        index.build(trees, n_jobs=recipe.jobs)
        index.save(str(directory / TREE))
        del index
        recipe.on_progress(0.5)
        rows = _nodes(directory / TREE, len(source), source.width)[:, NODE_HEADER // 4 :]
        np.einsum("nr,nr->n", rows, rows).astype("<f4").tofile(directory / NORMS)
        near = neighbours.lists(
            rows, recipe.seed, lambda share: recipe.on_progress(0.5 + share / 2)
        )
        near.astype("<i4").tofile(directory / NEIGHBOURS)
        return trees

    def validate(self, described: Manifest) -> None:
        """Refuse files that cannot be of this many nodes of this width: Annoy would read beyond their end."""
        node = NODE_HEADER + 4 * described.parameters.reduced
        tree = described.files[TREE].bytes
        if tree % node or tree < described.images * node:
            raise GenerationDamaged(f"{TREE} is not of width {described.parameters.reduced}")
        if described.files[NEIGHBOURS].bytes != 4 * WIDTH * described.images:
            raise GenerationDamaged(f"{NEIGHBOURS} is not of {described.images} lists")
        if described.files[NORMS].bytes != 4 * described.images:
            raise GenerationDamaged(f"{NORMS} is not of {described.images} numbers")

    def open(self, directory: Path, described: Manifest) -> AnnoySearcher:
        """Map both files."""
        return AnnoySearcher(directory, described.parameters.reduced, described.images)

    def efforts(self, images: int) -> tuple[int, ...]:
        """Nodes that a search visits."""
        return tuple(each for each in EFFORTS if each <= max(4 * images, EFFORTS[0]))

    def read_alike(self, effort: int, dimension: int) -> float:
        """Rows to read in the time of a search."""
        return effort * VISITS_PER_READ / (4 * dimension)


class AnnoySearcher:
    """An opened forest and its neighbour lists."""

    def __init__(self, directory: Path, width: int, count: int) -> None:
        self._index = _index(width)
        try:
            self._index.load(str(directory / TREE))
        except OSError as error:
            raise GenerationDamaged(f"{TREE} cannot be mapped: {error}") from error
        if self._index.get_n_items() != count:
            raise GenerationDamaged(f"{TREE} does not hold {count} vectors of width {width}")
        self._nodes = _nodes(directory / TREE, count, width)
        self._norms: Vectors = _map(directory / NORMS, "<f4")
        self._near: Lists = _map(directory / NEIGHBOURS, "<i4").reshape(count, WIDTH)

    def search(
        self,
        queries: Vectors,
        count: int,
        effort: int,
        eligible: Eligible | None = None,
        without: Slots | None = None,
    ) -> Found:
        """Seeds from the trees, then the nearest `count` of them and of all their neighbours."""
        seeds = max(FEWEST_SEEDS, effort // VISITS_PER_SEED, count // CANDIDATES_PER_SEED)
        found = np.full((len(queries), count), -1, dtype=np.int32)
        certain = np.zeros(len(queries), dtype=np.int64)
        step = max(1, GROUP_BYTES // (4 * seeds * (WIDTH + 1) * queries.shape[1]))
        for start in range(0, len(queries), step):
            rows = slice(start, start + step)
            part = queries[rows]
            around = self._around(part, seeds, effort, None if without is None else without[rows])
            scores = self._scored(part, around)
            certain[rows] = _choose(found[rows], around, scores, seeds, eligible)
        return Found(found, certain)

    def _around(self, queries: Vectors, seeds: int, effort: int, without: Slots | None) -> Slots:
        """Seeds of each query and the neighbours of those, in order of slots: [m, c], -1 for nothing."""
        near = self._index.get_nns_by_vector
        visits = max(effort, VISITS_PER_SEED * seeds)
        first = np.full((len(queries), seeds), -1, dtype=np.int32)
        for row, query in zip(first, queries.tolist(), strict=True):
            slots = near(query, seeds, visits)
            row[: len(slots)] = slots
        if without is not None:
            first[first == without[:, None]] = -1
        lists = np.take(self._near, first, axis=0, mode="wrap")  # -1 wraps to a list that is wiped
        lists[first < 0] = -1
        around = np.concatenate([first, lists.reshape(len(first), -1)], axis=1)
        if without is not None:
            around[around == without[:, None]] = -1  # others may list it
        around.sort(axis=1)
        return around

    def _scored(self, queries: Vectors, around: Slots) -> Vectors:
        """Squared reduced distances [m, c] less the query's own norm; infinite for nothing, and for doubles."""
        new = around >= 0
        new[:, 1:] &= around[:, 1:] != around[:, :-1]
        # More than half of them are neighbours of several seeds: each is read once. `take` of whole nodes copies
        # twice as fast as indexing does.
        slots = around[new]
        rows = np.take(self._nodes, slots, axis=0)[:, NODE_HEADER // 4 :]
        if len(queries) == 1:
            products = rows @ queries[0]
        else:
            products = np.einsum("cr,cr->c", rows, np.take(queries, np.nonzero(new)[0], axis=0))
        scores = np.full(around.shape, np.inf, dtype=np.float32)
        scores[new] = np.take(self._norms, slots) - np.float32(2) * products
        return scores


def _choose(
    found: Slots, around: Slots, scores: Vectors, seeds: int, eligible: Eligible | None
) -> NDArray[np.int64]:
    """Put the best eligible ones into `found`; how many are no farther than the nearest `seeds` of all are."""
    count = min(found.shape[1], scores.shape[1])
    reach = np.full((len(scores), 1), np.inf, dtype=np.float32)
    if eligible is not None:
        last = min(seeds, scores.shape[1]) - 1
        reach = np.partition(scores, last, axis=1)[:, last : last + 1]
        scores[~eligible(np.maximum(around, 0))] = np.inf
    places = np.argpartition(scores, count - 1, axis=1)[:, :count]
    places += np.arange(0, scores.size, scores.shape[1])[:, None]
    best, chosen = np.take(scores, places), np.take(around, places)
    chosen[best == np.inf] = -1
    found[:, :count] = chosen
    certain: NDArray[np.int64] = np.count_nonzero((chosen >= 0) & (best <= reach), axis=1)
    return certain


def _index(width: int) -> Any:
    from annoy import AnnoyIndex

    return AnnoyIndex(width, "euclidean")


def _last(source: Source) -> Vectors:
    last: Vectors = source.reduced(len(source) - 1, len(source))[0]
    return last


def _planted(width: int, blocks: Any, count: int, seed: int, last: Vectors | None = None) -> Any:
    """An index with all vectors. The highest slot goes in first: memory is then taken once, not doubled."""
    index = _index(width)
    index.set_seed(seed)
    if last is not None:
        index.add_item(count - 1, last.tolist())
    for start, rows in blocks:
        if not np.isfinite(rows).all():
            raise BadVectors("a reduced vector is not finite")
        for slot, row in enumerate(rows.tolist(), start):
            index.add_item(slot, row)
    return index


def _watched(blocks: Any, count: int, recipe: Recipe) -> Any:
    for start, rows in blocks:
        recipe.on_progress(0.3 * start / count)
        yield start, rows


def _nodes(path: Path, count: int, width: int) -> Vectors:
    """The first nodes [count, header + width] of a file of trees: the vectors, in order of slots."""
    node = NODE_HEADER // 4 + width
    nodes: Vectors = _map(path, "<f4")[: count * node].reshape(count, node)
    return nodes


def _map(path: Path, kind: str) -> Any:
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(pages, dtype=kind)


def verify_answers(points: Vectors, found: list[list[int]]) -> None:
    """Raise EngineBroken unless `found` holds the five nearest of each point."""
    distances = ((points[:, None, :] - points[None, :, :]) ** 2).sum(axis=2)
    truth = np.argsort(distances, axis=1)[:, :5].tolist()
    if any(len(slots) != 5 for slots in found):
        problem = f"asked for 5 neighbours, it returned {min(len(slots) for slots in found)}"
        raise EngineBroken(ADVICE.format(problem=problem))
    if found != truth:
        raise EngineBroken(ADVICE.format(problem="its neighbours are not the nearest ones"))
