"""Judges models on labelled pictures: what a classifier says, what is near in a space, and what an index finds.

The three are measured apart, and on the same pictures for each model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.embedding.config import ModelConfig
from worker.evaluation import indexing
from worker.evaluation.classification import Accuracy, accuracy
from worker.evaluation.indexing import IndexQuality
from worker.evaluation.model import Embedded, Model
from worker.evaluation.page import Card, Contrast
from worker.evaluation.retrieval import Grouped, Relevance, neighbours, relevance, shared
from worker.evaluation.scope import Groups, Scope
from worker.index.rebuild import BuildSettings
from worker.training.errors import TrainingDataError
from worker.training.labelled import DataSet, Labelled, Problem

OnStep = Callable[[str, float], None]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Classifier:
    """Accuracy of a network's own classifier; `skipped` questions are of categories that it does not know."""

    accuracy: Accuracy
    skipped: int


@dataclass(frozen=True, eq=False)
class Judged:
    """What was measured of one model. None is what it, or the data set, does not have."""

    spec: str
    digest: str
    classifier: Classifier | None
    by_category: Relevance | None
    by_product: Relevance | None
    index: IndexQuality
    near: Groups
    """Places in the gallery of each question's neighbours [q, k], nearest first."""
    cosines: Vectors
    """Their cosines [q, k]."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One model, or two beside each other, on what could be seen of a scope."""

    scope: Scope
    k: int
    commonest: Accuracy
    """Of always naming the commonest categories of the training part, whatever the picture."""
    models: tuple[Judged, ...]

    @property
    def overlap(self) -> float | None:
        """Mean share of the k nearest neighbours that the two models have in common."""
        return float(self._shared.mean()) if len(self.models) == 2 else None

    def contrasts(self, count: int, model: Model) -> list[Contrast]:
        """The questions whose neighbours differ most, and of those the ones that one model answers much better.

        `model` decodes the pictures that are shown.
        """
        wanted, there = self.scope.by_category()
        right = [(there[each.near] == wanted[:, None]).sum(axis=1) for each in self.models]
        order = np.lexsort((-np.abs(right[0] - right[1]), self._shared))
        return [self._contrast(place, model) for place in order[:count].tolist()]

    @property
    def _shared(self) -> NDArray[np.float64]:
        one, other = self.models
        return shared(one.near, other.near)

    def _contrast(self, question: int, model: Model) -> Contrast:
        one, other = (self._answers(each, question, model) for each in self.models)
        asked = _card(self.scope.questions[question], f"question {question}", model)
        return Contrast(asked, (one, other), float(self._shared[question]))

    def _answers(self, judged: Judged, question: int, model: Model) -> list[tuple[Card, float]]:
        near, cosines = judged.near[question].tolist(), judged.cosines[question].tolist()
        return [
            (_card(self.scope.gallery[place], f"picture {place}", model), cosine)
            for place, cosine in zip(near, cosines, strict=True)
        ]


def evaluate(
    data: DataSet,
    scope: Scope,
    models: Sequence[Model],
    settings: BuildSettings,
    *,
    k: int = 10,
    on_step: OnStep = lambda _step, _share: None,
) -> Evaluation:
    """Judge each model by `scope` of `data`, whose problems then count the pictures that a model cannot see, too.

    Raises TrainingDataError when too few pictures are left, and BuildFailed.
    """
    seen = [_look(scope, model, on_step) for model in models]
    _note_refused(data, scope, seen)
    questions, gallery = (
        np.all([np.isfinite(part.vectors).all(axis=1) for part in parts], axis=0)
        for parts in zip(*seen, strict=True)
    )
    left = scope.only(questions, gallery)
    if len(left.gallery) <= k or not len(left.questions):
        raise TrainingDataError(
            f"a gallery of {len(left.gallery):,} pictures and {len(left.questions):,} questions are too few for "
            f"{k} neighbours each: choose other parts, a smaller -k or a greater --limit"
        )
    judge = _Judge(left, k, settings, on_step)
    judged = [
        judge.judged(model, _kept(asked, questions), _kept(there, gallery).vectors)
        for model, (asked, there) in zip(models, seen, strict=True)
    ]
    return Evaluation(left, k, _commonest(left), tuple(judged))


# -- looking --------------------------------------------------------------------------------------


def _look(scope: Scope, model: Model, on_step: OnStep) -> tuple[Embedded, Embedded]:
    """What a model says of questions and of the gallery, which it sees once where they are the same."""
    step = partial(on_step, f"{model.spec}: questions")
    asked = model.embed(scope.questions, classify=True, progress=step)
    if scope.same:
        return asked, asked
    step = partial(on_step, f"{model.spec}: gallery")
    return asked, model.embed(scope.gallery, progress=step)


def _note_refused(data: DataSet, scope: Scope, seen: Sequence[tuple[Embedded, Embedded]]) -> None:
    """Count the pictures that some model cannot see, each once."""
    refused: dict[Labelled, str] = {}
    for asked, there in seen:
        refused |= {scope.questions[at]: why for at, why in asked.refused.items()}
        refused |= {scope.gallery[at]: why for at, why in there.refused.items()}
    for labelled, why in refused.items():
        where = labelled.picture if isinstance(labelled.picture, Path) else Path(labelled.part)
        data.problems.add(Problem.UNDECODABLE, where, None, why)


def _kept(embedded: Embedded, rows: NDArray[np.bool_]) -> Embedded:
    scores = embedded.scores[rows] if embedded.scores is not None else None
    return Embedded(embedded.vectors[rows], scores, {})


# -- judging --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Judge:
    """What models are judged by."""

    scope: Scope
    k: int
    settings: BuildSettings
    on_step: OnStep

    def judged(self, model: Model, asked: Embedded, gallery: Vectors) -> Judged:
        """All three, one after the other."""
        scope = self.scope
        near, cosines = neighbours(asked.vectors, gallery, self.k, selves=scope.selves)
        products = scope.by_product()
        return Judged(
            model.spec,
            model.config.digest,
            _classifier(scope, model.config, asked),
            self._relevance(asked.vectors, gallery, scope.by_category()),
            self._relevance(asked.vectors, gallery, products) if products else None,
            self._index(asked.vectors, gallery),
            near,
            cosines,
        )

    def _relevance(
        self, asked: Vectors, gallery: Vectors, groups: tuple[Groups, Groups]
    ) -> Relevance | None:
        """None where nothing is alike. Questions without a group are not asked."""
        known = groups[0] >= 0
        own, there = np.arange(len(asked))[known], Grouped(gallery, groups[1])
        questions = Grouped(asked[known], groups[0][known])
        selves = own if self.scope.same else None
        if not _any_alike(questions, there, selves):
            return None
        done = 0

        def progress(more: int) -> None:
            nonlocal done
            done += more
            self.on_step("rank", done / len(questions))

        tops = tuple(sorted({1, self.k}))
        return relevance(questions, there, selves=selves, tops=tops, progress=progress)

    def _index(self, asked: Vectors, gallery: Vectors) -> IndexQuality:
        categories = [each.category for each in self.scope.gallery]
        questions = None if self.scope.same else asked
        return indexing.of_vectors(gallery, categories, questions, self.settings, self.on_step)


def _any_alike(questions: Grouped, gallery: Grouped, selves: Groups | None) -> bool:
    """Whether any question has another picture of its group in the gallery."""
    named, counts = np.unique(gallery.groups[gallery.groups >= 0], return_counts=True)
    enough = named[counts > (selves is not None)]
    return bool(np.isin(questions.groups, enough).any())


def _classifier(scope: Scope, config: ModelConfig, asked: Embedded) -> Classifier | None:
    """None of a network that has no classifier, or one of other categories only."""
    if asked.scores is None or config.categories is None:
        return None
    places = {name: place for place, name in enumerate(config.categories)}
    labels = np.array([places.get(each.category, -1) for each in scope.questions], np.int64)
    trained = np.repeat(
        np.array([places.get(each, -1) for each in scope.categories], np.int64), scope.trained
    )
    known = labels >= 0
    if not known.any():
        return None
    found = accuracy(asked.scores[known], labels[known], trained[trained >= 0])
    return Classifier(found, int((~known).sum()))


def _commonest(scope: Scope) -> Accuracy:
    labels, _ = scope.by_category()
    scores = np.tile(scope.trained.astype(np.float32), (len(labels), 1))
    return accuracy(scores, labels, np.repeat(np.arange(len(scope.categories)), scope.trained))


def _card(labelled: Labelled, otherwise: str, model: Model) -> Card:
    """With the name of its file, or where it has none another one."""
    path = labelled.picture
    name = path.name if isinstance(path, Path) else otherwise
    return Card(name, labelled.category, model.thumbnail(labelled))
