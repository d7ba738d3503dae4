"""How many of the true neighbours an index finds: recall against exact search, which says nothing of relevance."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from db.queries import catalogue, models
from db.queries.catalogue import ImageChange, NewEmbedding
from db.session import Database
from migrations import upgrade
from worker.index import score, tuning
from worker.index.generation import Generation
from worker.index.rebuild import BuildSettings, rebuild
from worker.index.search import scan
from worker.index.tuning import AT, Measured, Truth

MODEL = "0" * 64
BLOCK = 5000
TIMED = 200
"""Questions that are asked one at a time, for the time of each."""

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class IndexQuality:
    """Recall@10 of an index, from 0 to 1, and what it costs.

    `recorded` is what the build measured on pictures of its own, each left out of its own answers; `recall` is
    measured on `questions` others, or on others of its own. `at_least` is its lower bound with 95 % confidence.
    """

    engine: str
    images: int
    questions: int
    recall: float
    at_least: float
    recorded: float
    ms: float
    """Median milliseconds of one question, without SQL."""


def of_vectors(
    gallery: Vectors,
    categories: Sequence[str],
    questions: Vectors | None,
    settings: BuildSettings,
    progress: Callable[[str, float], None],
) -> IndexQuality:
    """Build the service's index of unit vectors [n, d] in a folder that is deleted, and ask it `questions` [q, d].

    None: it is asked about pictures of its own. Raises BuildFailed.
    """
    with tempfile.TemporaryDirectory(prefix="lookalike-evaluate-") as folder:
        database = Database(f"sqlite:///{Path(folder).resolve() / 'catalogue.db'}")
        try:
            upgrade(database)
            _fill(database, gallery, categories)
            rebuild(database, Path(folder), settings, on_progress=progress)
        finally:
            database.close()
        (directory,) = Path(folder).glob("generation-*")
        base = Generation.open(directory)
        return quality(base, within(base) if questions is None else about(base, questions))


def within(base: Generation) -> Truth:
    """The truth about pictures of its own, each left out of its own answers: others than the build asked about."""
    return tuning.truth_of(base, tuning.QUERIES, base.manifest.parameters.seed + 1)


def about(base: Generation, questions: Vectors) -> Truth:
    """The truth about vectors [q, d] that are in no index."""
    count = min(AT, len(base))
    asked = score.rounded(questions)
    _, squared = scan(base, asked, count)
    nowhere = np.full(len(asked), -1, np.int64)
    return Truth(nowhere, asked, np.sqrt(squared.max(axis=1)), count)


def quality(base: Generation, truth: Truth) -> IndexQuality:
    """Ask an index as it is searched in service."""
    parameters = base.manifest.parameters
    measured = tuning.measure(base, truth, parameters.effort, parameters.rerank)
    return IndexQuality(
        base.manifest.engine,
        len(base),
        measured.queries,
        min(measured.recall, 1.0),
        measured.at_least,
        base.manifest.recall,
        median(
            _alone(base, truth, measured, place) for place in range(min(TIMED, len(truth.slots)))
        ),
    )


def _alone(base: Generation, truth: Truth, measured: Measured, place: int) -> float:
    """Milliseconds of the search for one question."""
    rows = slice(place, place + 1)
    one = Truth(truth.slots[rows], truth.vectors[rows], truth.limits[rows], truth.count)
    return tuning.measure(base, one, measured.effort, measured.rerank).latency_ms


def _fill(database: Database, vectors: Vectors, categories: Sequence[str]) -> None:
    """A catalogue with one product for each vector."""
    dimension = vectors.shape[1]
    with database.writing() as session:
        model = models.register(session, MODEL, "evaluation", dimension, {})
    for start in range(0, len(vectors), BLOCK):
        places = range(start, min(start + BLOCK, len(vectors)))
        digests = [hashlib.sha256(str(place).encode()).digest() for place in places]
        changes = [
            ImageChange(str(place), "main", digest, "evaluation", categories[place], {}, 1)
            for place, digest in zip(places, digests, strict=True)
        ]
        embeddings = [
            NewEmbedding(digest, dimension, vectors[place].astype("<f4").tobytes())
            for place, digest in zip(places, digests, strict=True)
        ]
        with database.writing() as session:
            catalogue.add_embeddings(session, model.pk, embeddings)
            catalogue.apply(session, changes, [])
