"""Tries a generation: `python -m worker.index.check DIRECTORY MANIFEST_SHA256`, in a process of its own.

A file that Annoy cannot bear takes this process down, and not the one that builds or serves.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from worker.index import tuning
from worker.index.engines import engine
from worker.index.errors import CheckFailed, IndexError_
from worker.index.generation import Expected, Generation
from worker.index.search import scan, walk

SELF_QUERIES = 64
RECALL_QUERIES = 50
MARGIN = 0.08
"""How far below the manifest's recall that of so few queries may be."""


def check(directory: Path, manifest_sha256: str) -> None:
    """Open, search, compare; raises IndexError_ when anything is not as the manifest says."""
    base = Generation.open(directory, Expected(manifest_sha256=manifest_sha256))
    engine(base.manifest.engine).self_test()
    _check_slots(base)
    if len(base):
        _check_self_queries(base)
        _check_recall(base)


def _check_slots(base: Generation) -> None:
    """Every picture has one slot, and the way back leads to it."""
    slots = base.slots.slots_of(base.slots.image_pks)
    if not np.array_equal(slots, np.arange(len(base))):
        raise CheckFailed("the slot table does not lead from a picture to its slot")


def _check_self_queries(base: Generation) -> None:
    """A stored vector finds something at no distance: itself, or its double."""
    slots = np.unique(np.linspace(0, len(base) - 1, SELF_QUERIES).astype(np.int64))
    if base.manifest.engine == "exact":
        _, squared = scan(base, base.vectors_at(slots), 1)
    else:
        parameters = base.manifest.parameters
        count = min(parameters.rerank, len(base))
        _, squared = walk(base, base.vectors_at(slots), count, parameters.effort)
    missed = int((squared.min(axis=1) > 0.0).sum())
    if missed:
        raise CheckFailed(f"{missed} of {len(slots)} pictures do not find themselves")


def _check_recall(base: Generation) -> None:
    parameters = base.manifest.parameters
    measured = tuning.tune(
        base,
        target=1.0,
        effort=parameters.effort,
        rerank=parameters.rerank,
        seed=99,
        queries=RECALL_QUERIES,
    )
    if measured.recall < base.manifest.recall - MARGIN:
        raise CheckFailed(
            f"recall is {measured.recall:.3f}, the manifest says {base.manifest.recall:.3f}"
        )


def main() -> int:
    """Exit with 0 when the generation can be used; else say why on the error output."""
    directory, manifest_sha256 = sys.argv[1:3]
    try:
        check(Path(directory), manifest_sha256)
    except IndexError_ as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
