"""Generations without a database: spooled, laid down, built and opened in a folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from db.queries.catalogue import VectorBlock
from tests.unit.worker.index.factories import DIGEST, vectors
from worker.index import durable, manifest, spool
from worker.index.engines import EngineName, Recipe, Source, engine
from worker.index.generation import ROTATION, VECTORS, Generation, files_of, map_vectors
from worker.index.hold import LOCK
from worker.index.manifest import CategorySlice, FileEntry, Manifest, Parameters
from worker.index.overlay import Overlay
from worker.index.rotation import Moments, Rotation
from worker.index.score import Vectors
from worker.index.spool import Spool, Spooled
from worker.index.view import View

with_faiss = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="faiss-cpu is not installed"
)
INDEXED = ["annoy", pytest.param("faiss", marks=with_faiss)]
"""Engines that have an index, to parametrize with."""
ENGINES = [*INDEXED, "exact"]
QUIET = Recipe(size=0, seed=1, jobs=1, on_progress=lambda share: None)


def image_pk(place: int) -> int:
    """Key of the picture that comes at this place: never the place itself, nor its slot."""
    return 3 * place + 1


def product_pk(place: int) -> int:
    """Key of its product, where no other is given."""
    return image_pk(place) + 1000


def spooled(
    folder: Path,
    rows: Vectors,
    categories: Sequence[str | None] | None = None,
    *,
    attributes: Sequence[Mapping[str, Any]] | None = None,
    products: Sequence[int] | None = None,
    block: int = 7,
) -> Spooled:
    """What a build reads from SQL, a few pictures at a time."""
    count = len(rows)
    said = list(attributes) if attributes is not None else [{} for _ in range(count)]
    names: list[str | None] = [None] * count if categories is None else list(categories)
    owners = list(products) if products is not None else [product_pk(i) for i in range(count)]
    blocks = (
        VectorBlock(
            [image_pk(i) for i in range(a, min(a + block, count))],
            owners[a : a + block],
            names[a : a + block],
            [dict(each) for each in said[a : a + block]],
            rows[a : a + block].astype("<f4").tobytes(),
        )
        for a in range(0, count, block)
    )
    return Spool(folder / "spool", rows.shape[1], count).read(blocks, lambda done: None)


def generation(
    folder: Path,
    rows: Vectors,
    *,
    categories: Sequence[str | None] | None = None,
    attributes: Sequence[Mapping[str, Any]] | None = None,
    products: Sequence[int] | None = None,
    engine_name: EngineName = "annoy",
    reduced: int = 8,
    effort: int = 400,
    rerank: int = 60,
) -> Generation:
    """An opened generation of these pictures, in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = spooled(folder, rows, categories, attributes=attributes, products=products, block=500)
    laid = spool.sort(taken, folder / VECTORS)
    laid.slots.save(folder)
    laid.attributes.save(folder)
    (folder / LOCK).touch()
    rotation = taken.moments.rotation(reduced)
    rotation.save(folder / ROTATION)
    source = Source(map_vectors(folder / VECTORS, len(rows), rows.shape[1]), rotation)
    size = engine(engine_name).build(source, folder, QUIET) if len(rows) else 0
    described = described_as(
        engine_name,
        rotation,
        images=len(rows),
        size=size,
        effort=effort,
        rerank=rerank,
        categories=laid.slots.categories,
    )
    write_manifest(folder, described)
    return Generation.open(folder)


def described_as(
    engine_name: EngineName, rotation: Rotation, *, images: int, **said: Any
) -> Manifest:
    """A manifest without files, of which most does not matter."""
    everything = CategorySlice(name=None, start=0, count=max(images, 1))
    parameters = {name: said.pop(name, 1) for name in ("size", "effort", "rerank")}
    return Manifest(
        number=1,
        engine=engine_name,
        engine_version="test",
        parameters=Parameters(reduced=rotation.width, seed=1, **parameters),
        dimension=len(rotation.mean),
        model_digest=DIGEST,
        revision=1,
        images=images,
        products=images,
        files={},
        recall=1.0,
        recall_at_least=1.0,
        recall_target=0.98,
        recall_queries=0,
        latency_ms=0.0,
        kept_variance=rotation.kept,
        built_at=datetime(2026, 1, 1, tzinfo=UTC),
        build_seconds=0.0,
        timings={},
        peak_memory=0,
        **({"categories": (everything,) if images else ()} | said),
    )


def with_files(folder: Path, described: Manifest) -> Manifest:
    """The manifest with what lies in the folder."""
    entries = {
        name: FileEntry(bytes=(folder / name).stat().st_size, sha256=durable.sha256(folder / name))
        for name in sorted(files_of(described))
    }
    return described.model_copy(update={"files": entries})


def write_manifest(folder: Path, described: Manifest) -> Manifest:
    """Describe what lies in the folder, as a build does last."""
    whole = with_files(folder, described)
    durable.write(folder / manifest.NAME, whole.encoded())
    return whole


def source_of(rows: Vectors, reduced: int = 8) -> Source:
    """Vectors by slot, as an engine gets them."""
    moments = Moments(rows.shape[1])
    moments.add(rows)
    return Source(rows.astype(np.float16), moments.rotation(reduced))


def view_of(base: Generation | None, overlay: Overlay | None = None) -> View:
    """What a lookup is answered from."""
    dimension = base.manifest.dimension if base else vectors(1).shape[1]
    changes = overlay or Overlay(dimension, base.slots if base else None)
    return View(
        revision=1,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        model_version_pk=1,
        model_digest=DIGEST,
        dimension=dimension,
        generation=base,
        overlay=changes.snapshot(),
    )
