"""What is asked and where it is looked for: parts of a data set, or one of them asked about itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worker.training.errors import TrainingDataError
from worker.training.labelled import DataSet, Labelled, Part

SEED = 0

Groups = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Scope:
    """Questions, and the gallery that answers them.

    With `same` both are the same pictures, and a question is left out of its own answers. `categories` are those
    of the data set, and `trained` counts the pictures of each in its whole training part.
    """

    questions: Sequence[Labelled]
    gallery: Sequence[Labelled]
    part: Part
    of: tuple[Part, ...]
    categories: tuple[str, ...]
    trained: NDArray[np.int64]

    @property
    def same(self) -> bool:
        """Whether the questions are the gallery."""
        return self.part in self.of

    @property
    def selves(self) -> Groups | None:
        """Place of each question in the gallery; None if it is not there."""
        return np.arange(len(self.questions)) if self.same else None

    @property
    def described(self) -> str:
        """In words: how many of what, and whether a question can find itself."""
        found = "each left out of its own answers" if self.same else "none of them asked about"
        return (
            f"{len(self.questions):,} pictures of the part {self.part.value!r} are asked about, in a gallery of "
            f"{len(self.gallery):,} of {' and '.join(repr(each.value) for each in self.of)}, {found}"
        )

    def only(self, questions: NDArray[np.bool_], gallery: NDArray[np.bool_]) -> Scope:
        """Those that are marked."""
        return replace(
            self,
            questions=[each for each, kept in zip(self.questions, questions, strict=True) if kept],
            gallery=[each for each, kept in zip(self.gallery, gallery, strict=True) if kept],
        )

    def by_category(self) -> tuple[Groups, Groups]:
        """Category of each question and of each of the gallery, as a place among the categories."""
        places = {name: place for place, name in enumerate(self.categories)}
        asked = [places[each.category] for each in self.questions]
        return np.array(asked, np.int64), np.array(
            [places[each.category] for each in self.gallery], np.int64
        )

    def by_product(self) -> tuple[Groups, Groups] | None:
        """Product of each as a number, -1 where it is not known; None if it is of no question or of no gallery."""
        asked, there = (
            [each.product for each in pictures] for pictures in (self.questions, self.gallery)
        )
        numbers = {name: place for place, name in enumerate(sorted(filter(None, {*asked, *there})))}
        found = [
            np.array([numbers.get(each or "", -1) for each in part], np.int64)
            for part in (asked, there)
        ]
        return (found[0], found[1]) if all((each >= 0).any() for each in found) else None


def scope(data: DataSet, part: Part, of: Sequence[Part], limit: int | None = None) -> Scope:
    """Choose the parts, at most `limit` pictures of each, by chance but the same ones each time.

    A part that is asked about itself is the whole gallery. Raises TrainingDataError when one of them is empty.
    """
    if part in of and set(of) != {part}:
        raise TrainingDataError(
            f"the part {part.value!r} can be asked about itself alone, or not be in the gallery (--gallery)"
        )
    counts = dict.fromkeys(data.categories, 0)
    for each in data.part(Part.TRAIN):
        counts[each.category] += 1
    gallery = [picture for each in dict.fromkeys(of) for picture in _some(data, each, limit)]
    questions = gallery if part in of else _some(data, part, limit)
    return Scope(
        questions,
        gallery,
        part,
        tuple(dict.fromkeys(of)),
        data.categories,
        np.array([*counts.values()]),
    )


def _some(data: DataSet, part: Part, limit: int | None) -> list[Labelled]:
    pictures = data.part(part)
    if not pictures:
        raise TrainingDataError(
            f"the part {part.value!r} has no pictures: choose others with --part and --gallery"
        )
    if limit is None or len(pictures) <= limit:
        return pictures
    chosen = np.random.default_rng(SEED).choice(len(pictures), limit, replace=False)
    return [pictures[place] for place in np.sort(chosen).tolist()]
