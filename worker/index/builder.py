"""Builds a generation: from SQL to a verified directory that the pointer may name.

The order is what makes a crash harmless (invariant 7): files, fsync, manifest, fsync, rename, fsync of the folder,
check in a child process. Publishing comes after, in `rebuild`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from sqlalchemy.orm import Session

from db.queries import backfill, catalogue, generations, models, revisions
from db.queries.models import ModelVersion
from db.session import Database
from worker.index import durable, memory, spool, tuning
from worker.index import manifest as manifests
from worker.index.attributes import FILES as ATTRIBUTE_FILES
from worker.index.attributes import Attributes
from worker.index.engines import EngineName, Recipe, Source, engine
from worker.index.errors import (
    BuildFailed,
    BuildStopped,
    CheckFailed,
    EngineBroken,
    GenerationRefused,
    RecallTooLow,
)
from worker.index.generation import ROTATION, VECTORS, Generation, map_vectors
from worker.index.hold import LOCK, Hold
from worker.index.manifest import FileEntry, Manifest, Parameters
from worker.index.rotation import Rotation
from worker.index.score import Halves
from worker.index.slots import FILES as SLOT_FILES
from worker.index.slots import SlotTable
from worker.index.spool import Spool, Spooled
from worker.index.tuning import Measured

Progress = Callable[[str, float], None]
Checkpoint = Callable[[str], None]

STEPS = (
    "begun", "read", "sorted", "built", "tuned", "synced", "described", "renamed", "checked", "published",
)  # fmt: skip
"""Names that a checkpoint is called with, each when that step has been done."""
BUILDING = ".building-"
MORE_TREES = 30
"""What is tried where few trees on all dimensions do not reach the target."""
CHECK_TIMEOUT = 1800.0
CHECK_POLL = 0.2


@dataclass(frozen=True)
class BuildSettings:
    """How generations are built, and how many are kept."""

    engine: EngineName = "annoy"
    trees: int = 0
    """Trees of Annoy; 0: as few as reach the target."""
    trees_per_category: bool = False
    """As many trees as there are categories: the classic recipe."""
    search_k: int = 0
    """Nodes that a search in Annoy visits; 0: found by measurement."""
    reduce_to: int = 64
    """Width of the vectors in the index; 0: as they are. Doubled while the recall is below the target."""
    rerank: int = 200
    """Most candidates that are scored exactly; fewer where measurement shows that they do as well."""
    recall_target: float = 0.98
    """Recall@10 that the index is tuned to, with 95 % confidence."""
    recall_margin: float = 0.03
    """An index whose recall is farther below the target is refused."""
    force: bool = False
    """Take it all the same."""
    jobs: int = -1
    """Threads that build trees; -1: all cores. With 1 and the same seed the file is the same, byte for byte."""
    seed: int = 1
    keep: int = 2


def space_needed(images: int, dimension: int, trees: int) -> int:
    """Bytes that a build may take for a while: the vectors twice, the index, slots and attributes."""
    return images * (4 * dimension + 40 * (trees or MORE_TREES) + 2048)


def incoming_if_complete(session: Session) -> ModelVersion | None:
    """The model that is rolled out, if every picture has a vector under it that is to have one."""
    serving = models.serving(session)
    incoming = serving.incoming
    if incoming is None or not backfill.is_complete(
        session, incoming.pk, without_missing=serving.without_missing
    ):
        return None
    return incoming


@dataclass(frozen=True)
class Built:
    """A verified generation that nobody uses yet."""

    directory: Path
    manifest: Manifest
    manifest_sha256: str
    model_version_pk: int
    replaces: int | None
    """The generation that was current when its data were read."""
    switches: bool = False
    """Whether its model is the incoming one."""


@dataclass(frozen=True)
class _Source:
    """What the build is of."""

    number: int
    model: ModelVersion
    switches: bool
    revision: int
    replaces: int | None
    embedded: int
    """Pictures that the snapshot has a vector of."""
    spooled: Spooled


@dataclass(frozen=True)
class _Attempt:
    """An index that was built and measured."""

    manifest: Manifest
    measured: Measured


class Builder:
    """One build, in a directory of its own."""

    def __init__(
        self,
        database: Database,
        data_dir: Path,
        settings: BuildSettings,
        *,
        token: int,
        catalogue_id: str,
        on_progress: Progress,
        checkpoint: Checkpoint,
        stop: Callable[[], bool],
    ) -> None:
        self._database = database
        self._data_dir = data_dir
        self._settings = settings
        self._progress = on_progress
        self._checkpoint = checkpoint
        self._stop = stop
        # The catalogue keeps apart what two of them make in one folder, and the token what two builders make
        # under one number, one of them having lost its lease.
        self._of = f"{catalogue_id}-{token}"
        self._directory = data_dir / f"{BUILDING}{self._of}"
        self._engine = engine(settings.engine)
        self._timings: dict[str, float] = {}

    def build(self) -> Built | None:
        """Build and verify a generation; None when no model was ever registered.

        Raises BuildFailed, and whatever `checkpoint` and `on_progress` do; either way it leaves nothing behind.
        """
        try:
            self._directory.mkdir(parents=True)
        except OSError as error:  # not ours, if it is there: nothing is tidied
            raise _unwritable(error) from error
        try:
            return self._build()
        except OSError as error:
            self._tidy()
            raise _unwritable(error) from error
        except GenerationRefused as error:
            self._tidy()
            raise BuildFailed(f"the index cannot be read back: {error}") from error
        except EngineBroken as error:
            self._tidy()
            raise BuildFailed(str(error)) from error
        except Exception:
            self._tidy()
            raise

    def _tidy(self) -> None:
        """Remove what a failed build leaves; what a killed one leaves is removed by the next."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _build(self) -> Built | None:
        began = time.monotonic()
        memory.reset_peak()
        self._engine.self_test()
        self._checkpoint("begun")
        with self._timed("read"):
            source = self._read()
        if source is None:
            self._directory.rmdir()
            return None
        self._checkpoint("read")
        with self._timed("sort"):
            slots = self._sort(source)
        self._checkpoint("sorted")
        described = self._index(source, slots, began)
        return self._finish(source, described)

    def _sort(self, source: _Source) -> SlotTable:
        images = max(len(source.spooled), 1)
        laid = spool.sort(
            source.spooled,
            self._directory / VECTORS,
            lambda rows: self._progress("sort", min(rows / images, 1.0)),
        )
        if len(laid.slots) != source.embedded:
            raise BuildFailed(
                f"{len(laid.slots)} of {source.embedded} pictures would be in the index: this is a bug"
            )
        laid.slots.save(self._directory)
        laid.attributes.save(self._directory)
        source.spooled.path.unlink()
        (self._directory / LOCK).touch()
        return laid.slots

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._timings[step] = self._timings.get(step, 0.0) + time.monotonic() - began

    # -- reading ----------------------------------------------------------------------------------

    def _read(self) -> _Source | None:
        """Vectors, revision and pointer from one snapshot."""
        with self._database.reading() as session:
            incoming = incoming_if_complete(session)
            model = incoming or models.active(session)
            if model is None:
                return None
            expected = catalogue.count_embedded(session, model.pk)
            self._need_space(expected, model.dimension)
            into = Spool(self._directory / "spool", model.dimension, expected)
            blocks = catalogue.stream_vectors(session, model.pk)
            spooled = into.read(blocks, lambda n: self._progress("read", n / max(expected, 1)))
            return _Source(
                number=generations.next_number(session),
                model=model,
                switches=incoming is not None,
                revision=revisions.current(session),
                replaces=catalogue.head(session).generation,
                embedded=expected,
                spooled=spooled,
            )

    def _need_space(self, images: int, dimension: int) -> None:
        """Refuse to begin what cannot end."""
        needed = space_needed(images, dimension, self._settings.trees)
        free = shutil.disk_usage(self._data_dir).free
        if free < needed:
            raise BuildFailed(
                f"an index of {images} pictures takes up to {needed >> 20} MB, and {free >> 20} MB are free "
                "on the disk of LOOKALIKE_DATA_DIR"
            )

    # -- the index --------------------------------------------------------------------------------

    def _index(self, source: _Source, slots: SlotTable, began: float) -> Manifest:
        """Build and tune until the recall will do; then sync."""
        with _Behind(self._directory, (VECTORS, *SLOT_FILES, *ATTRIBUTE_FILES)) as behind:
            best = self._best(source, slots)
            self._checkpoint("tuned")
            built = (ROTATION, *(self._engine.files if len(slots) else ()))
            with self._timed("sync"):
                files = behind.entries() | _entries(self._directory, built)
        self._checkpoint("synced")
        described, measured = best.manifest, best.measured
        return described.model_copy(
            update={
                "parameters": described.parameters.model_copy(
                    update={"effort": measured.effort, "rerank": measured.rerank}
                ),
                "files": files,
                "recall": min(measured.recall, 1.0),
                "recall_at_least": min(measured.at_least, 1.0),
                "recall_queries": measured.queries,
                "latency_ms": measured.latency_ms,
                "timings": dict(self._timings),
                "build_seconds": time.monotonic() - began,
                "peak_memory": memory.peak(),
            }
        )

    def _best(self, source: _Source, slots: SlotTable) -> _Attempt:
        """The first attempt whose recall will do, or the last one; raises RecallTooLow."""
        settings = self._settings
        for width, size in self._sizes(source.model.dimension, slots):
            attempt = self._attempt(source, slots, width, size)
            measured = attempt.measured
            if measured.at_least >= settings.recall_target:
                return attempt
            if self._chosen and measured.recall >= self._lowest:
                return attempt  # whoever chose the effort chose the recall
        if measured.recall < self._lowest and not settings.force:
            raise RecallTooLow(
                f"the index finds {measured.recall:.3f} of the true neighbours, {self._lowest:.3f} is the least "
                "(LOOKALIKE_RECALL_TARGET less LOOKALIKE_RECALL_MARGIN): set more LOOKALIKE_TREES or a greater "
                "LOOKALIKE_SEARCH_K, or take it with `lookalike-worker reindex --force`"
            )
        return attempt

    @property
    def _lowest(self) -> float:
        return self._settings.recall_target - self._settings.recall_margin

    @property
    def _chosen(self) -> bool:
        """Whether the operator says how much a search looks at."""
        return self._settings.engine == "annoy" and self._settings.search_k > 0

    def _sizes(self, dimension: int, slots: SlotTable) -> Iterator[tuple[int, int]]:
        """Widths and sizes to try: wider vectors, up to all of them, then more trees, if those are not given."""
        settings = self._settings
        trees = max(1, len(slots.categories)) if settings.trees_per_category else settings.trees
        size = trees if settings.engine == "annoy" else 0
        width = min(settings.reduce_to or dimension, dimension)
        yield width, size
        while width < dimension:
            width = min(2 * width, dimension)
            yield width, size
        if settings.engine == "annoy" and not size:
            yield width, MORE_TREES

    def _attempt(self, source: _Source, slots: SlotTable, width: int, size: int) -> _Attempt:
        with self._timed("rotate"):
            rotation = source.spooled.moments.rotation(width)
            rotation.save(self._directory / ROTATION)
        vectors = map_vectors(self._directory / VECTORS, len(slots), source.model.dimension)
        with self._timed("index"):
            if len(slots):
                size = self._engine.build(
                    Source(vectors, rotation), self._directory, self._recipe(size)
                )
        self._checkpoint("built")
        described = self._described(source, slots, rotation, size)
        base = self._opened(described, slots, rotation, vectors)
        settings = self._settings
        self._progress("tune", 0.0)
        with self._timed("tune"):
            measured = tuning.tune(
                base,
                settings.recall_target,
                effort=settings.search_k if self._chosen else 0,
                rerank=settings.rerank,
                seed=settings.seed,
            )
        self._progress("tune", 1.0)
        return _Attempt(described, measured)

    def _recipe(self, size: int) -> Recipe:
        return Recipe(
            size=size,
            seed=self._settings.seed,
            jobs=self._settings.jobs,
            on_progress=lambda share: self._progress("index", share),
        )

    def _described(
        self, source: _Source, slots: SlotTable, rotation: Rotation, size: int
    ) -> Manifest:
        settings = self._settings
        return Manifest(
            number=source.number,
            engine=settings.engine,
            engine_version=self._engine.version(),
            parameters=Parameters(
                size=size,
                effort=max(settings.search_k, 1),
                rerank=settings.rerank,
                reduced=rotation.width,
                seed=settings.seed,
            ),
            dimension=source.model.dimension,
            model_digest=source.model.digest,
            revision=source.revision,
            images=len(slots),
            products=len(np.unique(slots.product_pks)),
            categories=slots.categories,
            files={},
            recall=0.0,
            recall_at_least=0.0,
            recall_target=settings.recall_target,
            recall_queries=0,
            latency_ms=0.0,
            kept_variance=rotation.kept,
            built_at=datetime.now(UTC),
            build_seconds=0.0,
            timings={},
            peak_memory=0,
        )

    def _opened(
        self,
        described: Manifest,
        slots: SlotTable,
        rotation: Rotation,
        vectors: Halves,
    ) -> Generation:
        """The index as its users will have it, before there is a manifest that it could be opened with."""
        searcher = self._engine.open(self._directory, described) if described.images else None
        return Generation(
            described,
            slots,
            rotation,
            searcher,
            vectors,
            Attributes(described.images, {}),
            Hold(self._directory),
        )

    # -- making it last ---------------------------------------------------------------------------

    def _finish(self, source: _Source, described: Manifest) -> Built:
        data = described.encoded()
        durable.sync_file(self._directory / LOCK)
        durable.write(self._directory / manifests.NAME, data)
        durable.sync_folder(self._directory)
        self._checkpoint("described")
        target = self._data_dir / f"generation-{described.number:08d}-{self._of}"
        self._directory.rename(target)
        self._directory = target
        durable.sync_folder(self._data_dir)
        self._checkpoint("renamed")
        built = Built(
            target,
            described,
            manifests.digest_of(data),
            source.model.pk,
            source.replaces,
            source.switches,
        )
        self._progress("check", 0.0)
        check_in_child(target, built.manifest_sha256, self._stop)
        self._progress("check", 1.0)
        self._checkpoint("checked")
        return built


def _unwritable(error: OSError) -> BuildFailed:
    return BuildFailed(
        f"the index could not be written ({error}); check the disk of LOOKALIKE_DATA_DIR"
    )


def _entries(directory: Path, names: tuple[str, ...]) -> dict[str, FileEntry]:
    """Put files on the disk and describe them."""
    entries = {}
    for name in names:
        path = directory / name
        durable.sync_file(path)
        entries[name] = FileEntry(bytes=path.stat().st_size, sha256=durable.sha256(path))
    return entries


class _Behind:
    """Syncs and digests files in a thread, while the trees are built."""

    def __init__(self, directory: Path, names: tuple[str, ...]) -> None:
        self._directory = directory
        self._names = names
        self._entries: dict[str, FileEntry] = {}
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._work, name="index-sync", daemon=True)

    def __enter__(self) -> _Behind:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def entries(self) -> dict[str, FileEntry]:
        """What was found; raises OSError when a file could not be put on the disk."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._entries

    def _work(self) -> None:
        try:
            self._entries = _entries(self._directory, self._names)
        except OSError as error:
            self._error = error


def check_in_child(
    directory: Path, manifest_sha256: str, stop: Callable[[], bool] = lambda: False
) -> None:
    """Try a generation in a process that may die of it; raises CheckFailed, BuildStopped."""
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    }
    command = [
        sys.executable,
        "-m",
        "worker.index.check",
        str(directory.resolve()),
        manifest_sha256,
    ]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            said = _awaited(child, directory, stop)
        finally:
            child.kill()
    if child.returncode < 0:
        raise CheckFailed(
            f"{directory.name} killed the process that tried it (signal {-child.returncode})"
        )
    if child.returncode:
        lines = said.strip().splitlines()
        raise CheckFailed(f"{directory.name}: {lines[-1] if lines else child.returncode}")


def _awaited(child: subprocess.Popen[str], directory: Path, stop: Callable[[], bool]) -> str:
    """What the child wrote until it ended."""
    until = time.monotonic() + CHECK_TIMEOUT
    while True:
        try:
            return child.communicate(timeout=CHECK_POLL)[1]
        except subprocess.TimeoutExpired as error:
            if stop():
                raise BuildStopped(f"stopped while {directory.name} was checked") from error
            if time.monotonic() > until:
                detail = f"{directory.name} was not checked in {CHECK_TIMEOUT:.0f} s"
                raise CheckFailed(detail) from error
