"""Models judged on a few pictures: every measure against its definition written out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.worker.evaluation.pictures import KINDS, data_set, fine_tuned
from worker.evaluation import indexing
from worker.evaluation.evaluation import evaluate
from worker.evaluation.indexing import IndexQuality
from worker.evaluation.model import Model
from worker.evaluation.retrieval import overlap
from worker.evaluation.scope import scope
from worker.index.rebuild import BuildSettings
from worker.settings import WorkerSettings
from worker.training.errors import TrainingDataError
from worker.training.labelled import Box, DataSet, Labelled, Part

BUILD = BuildSettings(force=True)
SPECS = ("efficientnet-lite0:32", "efficientnet-lite0:48")

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")


@pytest.fixture(scope="module")
def models() -> Iterator[list[Model]]:
    """The same network, seeing two sizes."""
    settings = WorkerSettings(device="cpu", decoders=1, max_batch=7)
    with ExitStack() as stack:
        yield [stack.enter_context(Model(spec, settings)) for spec in SPECS]


def test_pictures_are_embedded_in_their_order_whatever_the_batch(models: list[Model]) -> None:
    pictures = data_set(5, 0).pictures
    done: list[float] = []
    whole = models[0].embed(pictures, progress=done.append)
    assert whole.vectors.shape == (15, models[0].config.dimension)
    assert np.linalg.norm(whole.vectors, axis=1) == pytest.approx(np.ones(15), abs=1e-3)
    assert whole.scores is None
    assert whole.refused == {}
    assert done[-1] == 1.0
    alone = models[0].embed(pictures[3:4])
    assert alone.vectors[0] @ whole.vectors[3] > 0.999


def test_one_model_by_its_measures(models: list[Model]) -> None:
    data = data_set(6, 4, products=True)
    chosen = scope(data, Part.TEST, [Part.TRAIN])
    found = evaluate(data, chosen, models[:1], BUILD, k=3)
    assert found.overlap is None
    assert found.commonest.top[1] == pytest.approx(1 / 3)
    assert found.commonest.macro == pytest.approx(1 / 3)
    (judged,) = found.models
    assert judged.classifier is None
    assert judged.by_category is not None
    asked = models[0].embed(chosen.questions).vectors
    cosines = asked @ models[0].embed(chosen.gallery).vectors.T
    near = np.argsort(-cosines, axis=1)[:, :3]
    right = [
        chosen.gallery[place].category == question.category
        for question, row in zip(chosen.questions, near, strict=True)
        for place in row
    ]
    assert judged.by_category.precision[3] == pytest.approx(np.mean(right))
    assert judged.by_category.questions == 12
    assert judged.by_product is not None
    same = [
        chosen.gallery[row[0]].product == question.product
        for question, row in zip(chosen.questions, near, strict=True)
    ]
    assert judged.by_product.precision[1] == pytest.approx(np.mean(same))
    assert judged.by_product.precision[1] < judged.by_category.precision[1]
    assert (judged.index.images, judged.index.questions) == (18, 12)
    assert judged.index.recall > 0.9


def test_a_part_asked_about_itself_leaves_each_picture_out(
    models: list[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_index: list[object] = []
    real = indexing.of_vectors

    def noted(gallery: Any, categories: Any, questions: Any, *rest: Any) -> IndexQuality:
        asked_index.append(questions)
        return real(gallery, categories, questions, *rest)

    monkeypatch.setattr(indexing, "of_vectors", noted)
    data = data_set(3, 1)
    found = evaluate(data, scope(data, Part.TRAIN, [Part.TRAIN]), models[:1], BUILD, k=4)
    (judged,) = found.models
    assert (judged.near != np.arange(9)[:, None]).all()
    wanted, there = found.scope.by_category()
    assert judged.by_category is not None
    right = there[judged.near] == wanted[:, None]
    assert judged.by_category.precision[4] == pytest.approx(right.mean())
    assert judged.by_category.precision[4] <= 2 / 4
    assert asked_index == [None]  # the index leaves them out by itself


def test_two_models_beside_each_other(models: list[Model]) -> None:
    data = data_set(8, 3)
    found = evaluate(data, scope(data, Part.TEST, [Part.TRAIN]), models, BUILD, k=4)
    one, other = found.models
    assert found.overlap == pytest.approx(overlap(one.near, other.near))
    contrasts = found.contrasts(5, models[0])
    shares = [each.shared for each in contrasts]
    assert shares == sorted(shares)
    assert shares[0] == min(
        len({*a} & {*b}) / 4 for a, b in zip(one.near.tolist(), other.near.tolist(), strict=True)
    )
    assert [len(answers) for answers in contrasts[0].answers] == [4, 4]
    assert contrasts[0].question.picture is not None
    assert contrasts[0].question.picture.startswith(b"\xff\xd8")


def test_what_differs_most_comes_first_and_of_that_what_one_model_answers_better(
    models: list[Model],
) -> None:
    data = data_set(4, 1)
    found = evaluate(data, scope(data, Part.TEST, [Part.TRAIN]), models, BUILD, k=2)
    # The gallery: four dots, four lines, four rings. The questions: a dot, a line, a ring.
    one, other = np.array([[0, 1], [8, 9], [8, 0]]), np.array([[4, 0], [10, 11], [4, 1]])
    by_hand = tuple(
        replace(each, near=near) for each, near in zip(found.models, (one, other), strict=True)
    )
    contrasts = replace(found, models=by_hand).contrasts(3, models[0])
    assert [each.question.category for each in contrasts] == ["ring", "line", "dot"]
    assert [each.shared for each in contrasts] == [0.0, 0.0, 0.5]


def test_a_classifier_is_judged_by_the_categories_that_it_knows(tmp_path: Path) -> None:
    spec = fine_tuned(tmp_path / "model", ("ring", "shoe", "dot"))
    data = data_set(6, 5)
    chosen = scope(data, Part.TEST, [Part.TRAIN])
    with Model(spec, WorkerSettings(device="cpu", decoders=1)) as model:
        found = evaluate(data, chosen, [model], BUILD, k=3)
        scores = model.embed(chosen.questions, classify=True).scores
    (judged,) = found.models
    assert judged.spec == spec
    assert judged.classifier is not None
    assert judged.classifier.skipped == 5  # lines
    assert scores is not None
    said = [model.config.categories[place] for place in scores.argmax(axis=1)]  # type: ignore[index]
    known = [
        name == question.category
        for name, question in zip(said, chosen.questions, strict=True)
        if question.category != "line"
    ]
    assert judged.classifier.accuracy.pictures == 10
    assert judged.classifier.accuracy.top[1] == pytest.approx(np.mean(known))
    assert judged.classifier.accuracy.top[3] == 1.0


def test_pictures_that_cannot_be_seen_are_counted_once(models: list[Model], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no picture")
    whole = data_set(4, 2)
    bad = Labelled(broken, "dot", Part.TRAIN)
    boxed = Labelled(broken, "dot", Part.TEST, box=Box(0, 0, 4, 4))
    data = DataSet([*whole.pictures, bad, boxed], KINDS, whole.problems)
    found = evaluate(data, scope(data, Part.TEST, [Part.TRAIN]), models, BUILD, k=2)
    assert (len(found.scope.questions), len(found.scope.gallery)) == (6, 12)
    assert found.models[0].near.shape == (6, 2)
    assert sum(data.problems.counts.values()) == 2
    assert str(broken) in "\n".join(data.problems.lines())


def test_a_gallery_smaller_than_what_is_asked_for(models: list[Model]) -> None:
    data = data_set(2, 2)
    with pytest.raises(
        TrainingDataError, match="a gallery of 6 pictures and 6 questions are too few"
    ):
        evaluate(data, scope(data, Part.TEST, [Part.TRAIN]), models[:1], BUILD, k=6)
