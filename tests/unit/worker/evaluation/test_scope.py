"""What is asked and where it is looked for."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.worker.evaluation.pictures import KINDS, data_set
from worker.evaluation.scope import scope
from worker.training.errors import TrainingDataError
from worker.training.labelled import Part


def test_two_parts() -> None:
    chosen = scope(data_set(4, 2), Part.TEST, [Part.TRAIN])
    assert (len(chosen.questions), len(chosen.gallery)) == (6, 12)
    assert not chosen.same
    assert chosen.selves is None
    assert chosen.trained.tolist() == [4, 4, 4]
    assert "6 pictures of the part 'test'" in chosen.described
    asked, there = chosen.by_category()
    assert [KINDS[each] for each in asked] == [each.category for each in chosen.questions]
    assert there.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_one_part_asked_about_itself() -> None:
    chosen = scope(data_set(4, 2), Part.TRAIN, [Part.TRAIN], limit=5)
    assert chosen.questions is chosen.gallery
    assert chosen.selves is not None
    assert chosen.selves.tolist() == [0, 1, 2, 3, 4]
    assert "left out of its own answers" in chosen.described
    assert chosen.trained.tolist() == [4, 4, 4]  # of the whole part


def test_a_limit_chooses_the_same_pictures_each_time_and_of_every_kind() -> None:
    data = data_set(100, 2)
    chosen = [scope(data, Part.TEST, [Part.TRAIN], limit=30) for _ in range(2)]
    assert len(chosen[0].gallery) == 30
    assert list(chosen[0].gallery) == list(chosen[1].gallery)
    assert {each.category for each in chosen[0].gallery} == {*KINDS}


def test_products_are_numbered_over_both_parts() -> None:
    assert scope(data_set(2, 2), Part.TEST, [Part.TRAIN]).by_product() is None
    chosen = scope(data_set(4, 2, products=True), Part.TEST, [Part.TRAIN])
    found = chosen.by_product()
    assert found is not None
    assert found[0].tolist() == [0, 0, 2, 2, 4, 4]
    assert found[1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_only_what_is_marked_is_left() -> None:
    chosen = scope(data_set(4, 2), Part.TEST, [Part.TRAIN])
    asked, there = np.ones(6, np.bool_), np.arange(12) > 3
    left = chosen.only(asked, there)
    assert (len(left.questions), len(left.gallery)) == (6, 8)
    assert {each.category for each in left.gallery} == {"line", "ring"}


def test_a_part_without_pictures() -> None:
    with pytest.raises(TrainingDataError, match="the part 'val' has no pictures: choose others"):
        scope(data_set(4, 2), Part.VALIDATION, [Part.TRAIN])


def test_several_parts_are_one_gallery() -> None:
    data = data_set(4, 2)
    chosen = scope(data, Part.TEST, [Part.TRAIN, Part.TRAIN])
    assert (chosen.of, len(chosen.gallery)) == ((Part.TRAIN,), 12)
    with pytest.raises(TrainingDataError, match="can be asked about itself alone"):
        scope(data, Part.TEST, [Part.TRAIN, Part.TEST])
