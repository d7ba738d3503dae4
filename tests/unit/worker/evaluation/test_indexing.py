"""Recall of an index, against exact search written out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.unit.worker.index.factories import half, vectors
from tests.unit.worker.index.generations import ENGINES, generation
from worker.evaluation import indexing
from worker.index.rebuild import BuildSettings


@pytest.mark.parametrize("engine", ENGINES)
def test_questions_that_are_in_no_index(engine: str, tmp_path: Path) -> None:
    rows, asked = vectors(500, seed=1), vectors(40, seed=2)
    base = generation(tmp_path / "one", rows, engine_name=engine)  # type: ignore[arg-type]
    truth = indexing.about(base, asked)
    distances = np.linalg.norm(half(asked)[:, None] - half(rows)[None], axis=2)
    assert truth.limits == pytest.approx(np.sort(distances, axis=1)[:, 9], abs=1e-5)
    found = indexing.quality(base, truth)
    assert (found.engine, found.images, found.questions) == (engine, 500, 40)
    assert found.recall == 1.0 if engine == "exact" else 0.8 < found.recall < 1.0
    assert found.at_least <= found.recall
    assert found.ms > 0


def test_an_index_that_looks_at_little_misses_much(tmp_path: Path) -> None:
    base = generation(tmp_path / "one", vectors(3000, dimension=64), effort=1, rerank=10, reduced=2)
    found = indexing.quality(base, indexing.within(base))
    assert found.questions == 1000
    assert found.recall < 0.6
    assert found.recorded == 1.0  # what the manifest says is said, not believed


@pytest.mark.parametrize("inside", [False, True])
def test_an_index_is_built_as_the_service_builds_it(inside: bool) -> None:
    rows = vectors(400, dimension=32)
    steps: list[str] = []
    settings = replace(BuildSettings(), force=True)
    found = indexing.of_vectors(
        rows,
        [f"c{place % 3}" for place in range(400)],
        None if inside else vectors(50, dimension=32, seed=7),
        settings,
        lambda step, _share: steps.append(step),
    )
    assert (found.engine, found.images) == ("annoy", 400)
    assert found.questions == (400 if inside else 50)
    assert found.recall > 0.9
    assert {"read", "index", "tune"} <= {*steps}


def test_equal_vectors_are_pictures_of_their_own() -> None:
    rows = np.repeat(vectors(20), 3, axis=0)
    found = indexing.of_vectors(
        rows, ["c"] * 60, vectors(5, seed=3), BuildSettings(force=True), lambda _step, _share: None
    )
    assert found.images == 60
