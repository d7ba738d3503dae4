"""Labelled pictures: what a network learns from, and what it is judged by."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.training.errors import TrainingDataError

EXAMPLES = 10
"""Problems of each kind that are shown; the others are counted."""


class Part(StrEnum):
    """What a picture is for."""

    TRAIN = "train"
    VALIDATION = "val"
    TEST = "test"

    @classmethod
    def named(cls, name: str) -> Part | None:
        """The part of that name or of one of its usual other names, if it is one."""
        return _NAMES.get(name.strip().lower())


_NAMES = {
    **dict.fromkeys(("train", "training"), Part.TRAIN),
    **dict.fromkeys(("val", "valid", "validation"), Part.VALIDATION),
    **dict.fromkeys(("test", "testing"), Part.TEST),
}


@dataclass(frozen=True, slots=True)
class Box:
    """Where the product is in its picture, in pixels: right and bottom are outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def is_empty(self) -> bool:
        """Whether nothing is inside."""
        return self.left < 0 or self.top < 0 or self.right <= self.left or self.bottom <= self.top


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """One picture, the category it shows, and what it is for.

    `picture` is a file, or grey pixels uint8 [h, w]. `product` groups the pictures of one product, if it is known.
    """

    picture: Path | NDArray[np.uint8]
    category: str
    part: Part
    product: str | None = None
    box: Box | None = None


class Problem(StrEnum):
    """What may be wrong with a row."""

    MALFORMED = "malformed row"
    MISSING = "missing picture"
    UNKNOWN_CATEGORY = "unknown category"
    NO_PART = "in no part"
    NO_LABEL = "without a category"
    TWICE = "listed twice"
    NO_PICTURE = "not a picture"
    UNDECODABLE = "cannot be decoded"


@dataclass
class Problems:
    """All that was wrong in a data set: counted, with the first of each kind by file and line."""

    counts: Counter[Problem] = field(default_factory=Counter)
    examples: dict[Problem, list[str]] = field(default_factory=dict)

    def add(self, problem: Problem, where: Path, line: int | None, detail: str) -> None:
        """Count one; `line` starts at 1."""
        self.counts[problem] += 1
        shown = self.examples.setdefault(problem, [])
        if len(shown) < EXAMPLES:
            shown.append(f"{where}:{line}: {detail}" if line else f"{where}: {detail}")

    def lines(self, *only: Problem) -> list[str]:
        """What to print: every kind, or some only, with its count, and its examples below."""
        return [
            line
            for problem, count in self.counts.most_common()
            if not only or problem in only
            for line in (f"{problem}: {count:,}", *(f"  {each}" for each in self.examples[problem]))
        ]


@dataclass(frozen=True)
class DataSet:
    """Labelled pictures. `categories` are those of the training part, sorted: the network's classes."""

    pictures: Sequence[Labelled]
    categories: tuple[str, ...]
    problems: Problems

    def part(self, part: Part) -> list[Labelled]:
        """The pictures of one part."""
        return [each for each in self.pictures if each.part is part]

    def limited(self, most: int) -> DataSet:
        """At most so many pictures of each part, evenly from all of it; raises TrainingDataError as `data_set`."""
        kept: list[Labelled] = []
        for part in Part:
            pictures = self.part(part)
            kept += pictures[:: max(1, -(-len(pictures) // most))]
        return data_set(Path(f"{most} of each part"), kept, self.problems)


@dataclass(frozen=True)
class Split:
    """How pictures that come without parts are put there: by a digest of their names, so that each stays.

    `validation` and `test` are shares of all; the rest is learnt from.
    """

    validation: float = 0.1
    test: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse shares that leave nothing to learn from."""
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise ValueError(
                "the shares of validation and test must be from 0, and below 1 together"
            )

    def part(self, name: str) -> Part:
        """The part of one picture."""
        digest = hashlib.blake2b(
            f"{self.seed}/{name}".encode("utf-8", "surrogateescape"), digest_size=8
        ).digest()
        place = int.from_bytes(digest, "big") / 2**64
        if place < self.test:
            return Part.TEST
        return Part.VALIDATION if place < self.test + self.validation else Part.TRAIN


def data_set(source: Path, pictures: Iterable[Labelled], problems: Problems) -> DataSet:
    """Make a data set of what was read; pictures whose category is never learnt are left out, and counted.

    Raises TrainingDataError when there is nothing to learn.
    """
    all_ = list(pictures)
    known = {each.category for each in all_ if each.part is Part.TRAIN}
    kept = [each for each in all_ if each.category in known]
    if len(known) < 2:
        found = "\n".join(problems.lines()) or "nothing is wrong with any row"
        raise TrainingDataError(
            f"{source}: pictures of at least two categories are needed to train, {len(known)} found\n{found}"
        )
    for each in all_:
        if each.category not in known:
            where = each.picture if isinstance(each.picture, Path) else source
            problems.add(
                Problem.UNKNOWN_CATEGORY,
                where,
                None,
                f"{each.category!r} has no picture in the training part",
            )
    return DataSet(kept, tuple(sorted(known)), problems)
