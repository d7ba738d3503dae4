"""FAISS: inverted lists of quantised vectors, for who prefers them to trees; the only module that touches it.

Chosen among the graph and IVF libraries because a team keeps it up, it is under the MIT licence, maps its files,
and filters while it searches. An extra: `pip install faiss-cpu`.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worker.index.engines import Eligible, Found, Recipe, Slots, Source
from worker.index.errors import EngineBroken, GenerationDamaged
from worker.index.score import Vectors

if TYPE_CHECKING:
    from worker.index.manifest import Manifest

INDEX = "lists.faiss"
BLOCK = 65_536
LISTS_PER_ROOT = 4
"""Lists for each square root of the number of vectors, as FAISS' guidelines say."""
TRAINING = 40
"""Vectors a list that the lists are learnt from."""
MOST_LISTS = 65_536
PROBES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)
READS_PER_PROBE, READS_PER_SEARCH = 8.0, 200.0
"""Stored vectors that could be read in the time of looking through a list, and of a search without any."""

MISSING = (
    "LOOKALIKE_ENGINE=faiss needs the package faiss-cpu, which cannot be used here ({problem}): "
    "pip install faiss-cpu, or set LOOKALIKE_ENGINE=annoy"
)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise EngineBroken(MISSING.format(problem=error)) from error
    return faiss


class FaissEngine:
    """IVF with 8-bit scalar quantisation."""

    files = (INDEX,)

    def version(self) -> str:
        """Release of the installed FAISS."""
        _faiss()
        return importlib.metadata.version("faiss-cpu")

    def self_test(self) -> None:
        """Compare with brute force on a tiny set; raises EngineBroken."""
        faiss = _faiss()
        points = np.random.default_rng(7).standard_normal((64, 8)).astype(np.float32)
        index = faiss.IndexFlatL2(8)
        index.add(points)
        found = index.search(points, 5)[1]
        distances = ((points[:, None, :] - points[None, :, :]) ** 2).sum(axis=2)
        if not np.array_equal(found, np.argsort(distances, axis=1)[:, :5]):
            raise EngineBroken(MISSING.format(problem="its neighbours are not the nearest ones"))

    def build(self, source: Source, directory: Path, recipe: Recipe) -> int:
        """Learn the lists from a sample and fill them."""
        faiss = _faiss()
        lists = recipe.size or _lists(len(source))
        quantiser = faiss.IndexFlatL2(source.width)
        index = faiss.IndexIVFScalarQuantizer(
            quantiser, source.width, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2
        )
        index.cp.seed = recipe.seed
        index.train(_sample(source, TRAINING * lists, recipe.seed))
        for start in range(0, len(source), BLOCK):
            index.add(source.reduced(start, min(start + BLOCK, len(source))))
            recipe.on_progress(start / len(source))
        faiss.write_index(index, str(directory / INDEX))
        return lists

    def validate(self, described: Manifest) -> None:
        """Refuse a file that is too small for its vectors; FAISS' own header says the rest."""
        least = described.images * described.parameters.reduced
        if described.files[INDEX].bytes < least:
            raise GenerationDamaged(f"{INDEX} does not hold {described.images} vectors")

    def open(self, directory: Path, described: Manifest) -> FaissSearcher:
        """Map the file."""
        faiss = _faiss()
        try:
            index = faiss.read_index(str(directory / INDEX), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise GenerationDamaged(f"{INDEX} cannot be read") from error
        if (index.ntotal, index.d) != (described.images, described.parameters.reduced):
            raise GenerationDamaged(
                f"{INDEX} does not hold {described.images} vectors of width "
                f"{described.parameters.reduced}"
            )
        return FaissSearcher(index, described.images)

    def efforts(self, images: int) -> tuple[int, ...]:
        """Lists that a search looks through."""
        lists = _lists(images)
        return tuple(each for each in PROBES if each < lists) + ((lists,) if lists <= 256 else ())

    def read_alike(self, effort: int, dimension: int) -> float:
        """Rows to read in the time of a search."""
        del dimension
        return READS_PER_SEARCH + READS_PER_PROBE * effort


class FaissSearcher:
    """An opened index."""

    def __init__(self, index: Any, images: int) -> None:
        self._faiss = _faiss()
        self._index = index
        self._images = images

    def search(
        self,
        queries: Vectors,
        count: int,
        effort: int,
        eligible: Eligible | None = None,
        without: Slots | None = None,
    ) -> Found:
        """The nearest `count` of the lists nearest to each query."""
        faiss = self._faiss
        parameters = faiss.SearchParametersIVF(nprobe=min(effort, self._index.nlist))
        if eligible is not None:
            marked = eligible(np.arange(self._images))
            bits = np.packbits(marked, bitorder="little")
            parameters.sel = faiss.IDSelectorBitmap(self._images, faiss.swig_ptr(bits))
        # Lookups run side by side already: threads inside one would only get in each other's way.
        faiss.omp_set_num_threads(1)
        wanted = count if without is None else count + 1
        _, found = self._index.search(np.ascontiguousarray(queries), wanted, params=parameters)
        slots = found.astype(np.int32)
        if without is not None:
            slots[slots == without[:, None]] = -1
            last = np.argsort(slots < 0, axis=1, kind="stable")[:, :count]
            slots = np.take_along_axis(slots, last, axis=1)
        return Found(slots, (slots >= 0).sum(axis=1))


def _lists(images: int) -> int:
    return int(min(max(1, LISTS_PER_ROOT * images**0.5), MOST_LISTS, max(1, images // TRAINING)))


def _sample(source: Source, wanted: int, seed: int) -> Vectors:
    """Reduced vectors of some slots, spread over all."""
    chosen = np.random.default_rng(seed).permutation(len(source))[:wanted]
    parts = [
        source.rotation.reduce(np.asarray(source.vectors[block], dtype=np.float32))
        for block in np.array_split(np.sort(chosen), max(1, len(chosen) // BLOCK))
    ]
    return np.ascontiguousarray(np.concatenate(parts))
