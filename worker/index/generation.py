"""An opened generation: verified before use, locked against clean-up, closed by its last user."""

from __future__ import annotations

import mmap
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.index import attributes, manifest, score, slots, verified
from worker.index.attributes import Attributes
from worker.index.engines import Eligible, Found, Searcher, Slots, engine
from worker.index.errors import GenerationDamaged, GenerationMismatch, GenerationRefused
from worker.index.hold import Hold
from worker.index.manifest import Manifest
from worker.index.rotation import Rotation
from worker.index.score import Halves, Vectors
from worker.index.slots import SlotTable

VECTORS, ROTATION = "vectors.f16", "rotation.npy"


@dataclass(frozen=True)
class Expected:
    """What SQL says of the generation; None where nothing is known of it."""

    number: int | None = None
    model_digest: str | None = None
    manifest_sha256: str | None = None


ANY = Expected()


@dataclass(frozen=True)
class Generation:
    """One immutable build of the index, open for search.

    Hold a reference for as long as a query runs: the files stay mapped, and safe from clean-up, until the last
    one is dropped.
    """

    manifest: Manifest
    slots: SlotTable
    rotation: Rotation
    searcher: Searcher | None
    """None while there are no pictures."""
    vectors: Halves
    attributes: Attributes
    hold: Hold

    def __len__(self) -> int:
        return len(self.slots)

    @classmethod
    def open(cls, directory: Path, expected: Expected = ANY) -> Generation:
        """Verify and map a generation.

        Raises GenerationMissing, GenerationDamaged or GenerationMismatch before anything of it is mapped; a disk
        that cannot read it, or a machine that cannot map it, counts as damage.
        """
        try:
            hold = Hold(directory)
            described = manifest.read(directory, expected.manifest_sha256)
            _check_identity(described, expected)
            verified.verify(directory, described, _check_names_and_sizes)
            return mapped(directory, described, hold)
        except (OSError, ValueError) as error:
            # A disk that fails, a right or the memory that is missing, a file cut off since it was verified.
            raise GenerationDamaged(f"{directory.name} cannot be read: {error}") from error

    @property
    def published(self) -> tuple[int, str]:
        """Number and digest of the manifest: what SQL knows it by."""
        return self.manifest.number, manifest.digest_of(self.manifest.encoded())

    def near(
        self,
        queries: Vectors,
        count: int,
        effort: int,
        eligible: Eligible | None = None,
        without: Slots | None = None,
    ) -> Found:
        """Slots [m, count] that the engine finds near each query [m, d], as `Searcher.search` says."""
        if self.searcher is None:
            nothing = np.full((len(queries), count), -1, dtype=np.int32)
            return Found(nothing, np.zeros(len(queries), dtype=np.int64))
        return self.searcher.search(self.rotation.reduce(queries), count, effort, eligible, without)

    def vectors_at(self, slots: NDArray[np.integer]) -> Vectors:
        """Vectors of slots of any shape, as float32 with one more axis."""
        return score.widen(np.take(self.vectors, slots, axis=0))


def _check_identity(found: Manifest, expected: Expected) -> None:
    if expected.number is not None and found.number != expected.number:
        raise GenerationMismatch(
            f"generation {expected.number} was asked for, found {found.number}"
        )
    if expected.model_digest is not None and found.model_digest != expected.model_digest:
        raise GenerationMismatch(f"generation {found.number} is of another model version")


def verify_files(directory: Path, described: Manifest) -> None:
    """Compare all of every file with the manifest; raises GenerationDamaged."""
    _check_names_and_sizes(directory, described)
    verified.compare_digests(directory, described)


def damage(directory: Path, expected: Expected) -> str | None:
    """Why a generation would be refused, by its manifest and the sizes of its files; None if those are right."""
    try:
        described = manifest.read(directory, expected.manifest_sha256)
        _check_identity(described, expected)
        _check_names_and_sizes(directory, described)
    except (GenerationRefused, OSError) as error:
        return str(error)
    return None


def files_of(described: Manifest) -> set[str]:
    """Names of the files that a generation such as this has, its manifest and lock aside."""
    built = engine(described.engine).files if described.images else ()
    return {VECTORS, ROTATION, *slots.FILES, *attributes.FILES, *built}


def _check_names_and_sizes(directory: Path, described: Manifest) -> None:
    wanted = files_of(described)
    if set(described.files) != wanted:
        raise GenerationDamaged(
            f"{directory.name}: the manifest lists other files than {sorted(wanted)}"
        )
    for name, entry in described.files.items():
        try:
            found = (directory / name).lstat()
        except OSError as error:
            raise GenerationDamaged(f"{directory.name}/{name} is not there") from error
        if not stat.S_ISREG(found.st_mode) or found.st_size != entry.bytes:
            raise GenerationDamaged(f"{directory.name}/{name} is not of {entry.bytes} bytes")
    if described.files[VECTORS].bytes != described.images * described.dimension * 2:
        raise GenerationDamaged(f"{VECTORS} is not of {described.images} x {described.dimension}")
    if described.images:
        engine(described.engine).validate(described)


def mapped(directory: Path, described: Manifest, hold: Hold) -> Generation:
    """Map files whose digests are known to be right."""
    width = described.parameters.reduced
    return Generation(
        manifest=described,
        slots=SlotTable.load(directory, described.images, described.categories),
        rotation=Rotation.load(directory / ROTATION, described.dimension, width),
        searcher=engine(described.engine).open(directory, described) if described.images else None,
        vectors=map_vectors(directory / VECTORS, described.images, described.dimension),
        attributes=Attributes.load(directory, described.images),
        hold=hold,
    )


def map_vectors(path: Path, images: int, dimension: int) -> Halves:
    """Map the matrix of half-precision vectors [images, dimension] read-only."""
    if not images:
        return np.empty((0, dimension), dtype=np.float16)
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(pages, dtype="<f2", count=images * dimension).reshape(images, dimension)
