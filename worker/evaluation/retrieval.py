"""Retrieval relevance by exact search: whether what is near in the vector space is alike.

Measures are those of Manning, Raghavan and Schütze, Introduction to Information Retrieval (2008), chapter 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK = 256
"""Questions that are ranked at once; float32 [BLOCK, gallery] is what it takes, a few times."""

Vectors = NDArray[np.float32]
Groups = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Grouped:
    """Unit vectors float32 [n, d] of pictures, and the category or product of each, int [n]."""

    vectors: Vectors
    groups: Groups

    def __post_init__(self) -> None:
        """Refuse what does not fit together, with a ValueError."""
        if self.vectors.ndim != 2 or self.groups.shape != self.vectors.shape[:1] or not len(self):
            raise ValueError(
                f"vectors {self.vectors.shape} and groups {self.groups.shape} are not [n, d] and [n]"
            )

    def __len__(self) -> int:
        """How many they are."""
        return len(self.vectors)

    def __getitem__(self, rows: slice) -> Grouped:
        """Some of them."""
        return Grouped(self.vectors[rows], self.groups[rows])


@dataclass(frozen=True)
class Relevance:
    """Means over the questions that have anything alike in the gallery; `skipped` are those that have nothing.

    `precision[k]`: share of the k nearest that are alike. `recall[k]`: share of all that are alike which are among
    the k nearest. `mean_average_precision`: over the whole ranking, the precision at each that is alike.
    """

    questions: int
    skipped: int
    gallery: int
    precision: dict[int, float]
    recall: dict[int, float]
    mean_average_precision: float


def relevance(
    questions: Grouped,
    gallery: Grouped,
    *,
    selves: Groups | None = None,
    tops: tuple[int, ...] = (1, 10),
    progress: Callable[[int], None] = lambda _done: None,
) -> Relevance:
    """Rank a whole gallery by cosine for each question; two pictures are alike if their groups are equal.

    `selves` int [q] says which picture of the gallery a question itself is, which then does not count; -1 is
    none. Of equal distances the first of the gallery is nearer. `progress` is told how many more are done.
    ValueError if shapes do not fit or no question has anything alike.
    """
    _check(questions, gallery, selves, tops)
    own = np.full(len(questions), -1, np.int64) if selves is None else selves
    sums = {k: np.zeros(2) for k in tops}
    precisions, counted = 0.0, 0
    for rows in _blocks(len(questions)):
        alike = _ranked(questions[rows], gallery, own[rows])
        alike = alike[alike.any(axis=1)]
        totals = alike.sum(axis=1)
        for k in tops:
            found = alike[:, :k].sum(axis=1)
            sums[k] += (found / k).sum(), (found / totals).sum()
        at = np.arange(1, alike.shape[1] + 1)
        precisions += float(((alike.cumsum(axis=1) / at * alike).sum(axis=1) / totals).sum())
        counted += len(alike)
        progress(rows.stop - rows.start)
    if not counted:
        raise ValueError("no question has anything alike in the gallery")
    return Relevance(
        counted,
        len(questions) - counted,
        len(gallery),
        {k: float(each[0] / counted) for k, each in sums.items()},
        {k: float(each[1] / counted) for k, each in sums.items()},
        precisions / counted,
    )


def neighbours(
    questions: Vectors, gallery: Vectors, k: int, *, selves: Groups | None = None
) -> tuple[Groups, Vectors]:
    """Places in the gallery of the `k` nearest to each question, nearest first, and their cosines: both [q, k].

    `questions` [q, d], `gallery` [n, d], and `selves` as for `relevance`. ValueError if there are fewer than `k`.
    """
    if k > len(gallery) - (selves is not None):
        raise ValueError(f"{k} neighbours are asked for, the gallery has {len(gallery)} pictures")
    own = np.full(len(questions), -1, np.int64) if selves is None else selves
    near = np.empty((len(questions), k), np.int64)
    alike = np.empty((len(questions), k), np.float32)
    for rows in _blocks(len(questions)):
        cosines = _cosines(questions[rows], gallery, own[rows])
        places = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        found = np.take_along_axis(cosines, places, axis=1)
        order = np.lexsort((places, -found), axis=1)
        near[rows] = np.take_along_axis(places, order, axis=1)
        alike[rows] = np.take_along_axis(found, order, axis=1)
    return near, alike


def overlap(one: Groups, other: Groups) -> float:
    """Mean share of neighbours, int [q, k] of distinct ids each, that two models or generations have in common."""
    return float(shared(one, other).mean())


def shared(one: Groups, other: Groups) -> NDArray[np.float64]:
    """That share for each question: float [q]."""
    if one.shape != other.shape or one.ndim != 2 or not one.size:
        raise ValueError(f"neighbours {one.shape} and {other.shape} are not of one shape [q, k]")
    common = [len(np.intersect1d(a, b)) for a, b in zip(one, other, strict=True)]
    return np.array(common, np.float64) / float(one.shape[1])


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


def _ranked(questions: Grouped, gallery: Grouped, own: Groups) -> NDArray[np.bool_]:
    """Whether each of the gallery, the nearest first, is alike: bool [q, n], a question itself last and unlike."""
    cosines = _cosines(questions.vectors, gallery.vectors, own)
    alike = questions.groups[:, None] == gallery.groups[None, :]
    there = np.flatnonzero(own >= 0)
    alike[there, own[there]] = False
    order = np.argsort(-cosines, axis=1, kind="stable")
    return np.take_along_axis(alike, order, axis=1)


def _cosines(questions: Vectors, gallery: Vectors, own: Groups) -> Vectors:
    """Of each question with each of the gallery [q, n], with itself the least there is."""
    cosines = questions @ gallery.T
    there = np.flatnonzero(own >= 0)
    cosines[there, own[there]] = -np.inf
    return cosines


def _check(
    questions: Grouped, gallery: Grouped, selves: Groups | None, tops: tuple[int, ...]
) -> None:
    asked, there = questions.vectors.shape[1], gallery.vectors.shape[1]
    if asked != there:
        raise ValueError(f"questions of {asked} numbers, a gallery of {there}")
    if selves is not None and (
        selves.shape != questions.groups.shape or selves.max() >= len(gallery)
    ):
        raise ValueError("selves: one place in the gallery, or -1, for each question")
    if not tops or min(tops) < 1:
        raise ValueError("tops: from 1")
