"""Classifier accuracy: how often the right category is among the first that a network names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOPS = (1, 3, 5)


@dataclass(frozen=True)
class Accuracy:
    """Shares of pictures, from 0 to 1.

    `top[k]`: the right category is among the k with the highest scores. `commonest[k]`: it is among the k
    commonest of the training part, which needs no network. `macro`: mean over the categories of their top-1.
    """

    pictures: int
    top: dict[int, float]
    commonest: dict[int, float]
    macro: float


def accuracy(
    scores: NDArray[np.float32], labels: NDArray[np.int64], trained: NDArray[np.int64]
) -> Accuracy:
    """Judge scores float [n, categories] by the right labels int [n], with n ≥ 1.

    `trained` are the labels of the training part. Of equal scores the lower label goes first; a NaN goes last.
    ValueError if shapes do not fit or a label is no category.
    """
    _check(scores, labels, trained)
    categories = scores.shape[1]
    places = _places(scores, labels)
    common = np.argsort(-np.bincount(trained, minlength=categories), kind="stable")
    rank = np.empty(categories, np.int64)
    rank[common] = np.arange(categories)
    right = np.bincount(labels, weights=places == 0, minlength=categories)
    of_each = np.bincount(labels, minlength=categories)
    occurs = of_each > 0
    return Accuracy(
        len(labels),
        {k: float((places < k).mean()) for k in TOPS},
        {k: float((rank[labels] < k).mean()) for k in TOPS},
        float((right[occurs] / of_each[occurs]).mean()),
    )


def confusion(
    said: NDArray[np.int64], labels: NDArray[np.int64], categories: int
) -> NDArray[np.int64]:
    """How often each category (row) was said to be each other (column): int [categories, categories]."""
    flat = np.bincount(labels * categories + said, minlength=categories**2)
    return flat.reshape(categories, categories)


def _places(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many categories go before the right one."""
    known = np.where(np.isnan(scores), -np.inf, scores)
    own = np.take_along_axis(known, labels[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    before = (known > own) | ((known == own) & earlier)
    return np.asarray(before.sum(axis=1), np.int64)


def _check(
    scores: NDArray[np.float32], labels: NDArray[np.int64], trained: NDArray[np.int64]
) -> None:
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} are not [n, k] and [n]")
    for name, each in (("labels", labels), ("trained", trained)):
        if each.size and (each.min() < 0 or each.max() >= scores.shape[1]):
            raise ValueError(
                f"{name}: from 0 to {scores.shape[1] - 1}, the categories of the scores"
            )
