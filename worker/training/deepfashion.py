"""DeepFashion, Category and Attribute Prediction, in its official layout (Liu et al., CVPR 2016).

`Anno/` (`Anno_coarse/` in newer copies) has `list_category_cloth.txt`, `list_category_img.txt` and
`list_bbox.txt`, `Eval/` has `list_eval_partition.txt`. All begin with the number of rows and a header.
Pictures are `img/PRODUCT/img_00000001.jpg` below `Img/`, or below the root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

from worker.training.errors import TrainingDataError
from worker.training.labelled import Box, DataSet, Labelled, Part, Problem, Problems, data_set

ANNOTATIONS = ("Anno", "Anno_coarse")
"""Folders of the annotations: of the first release, and of newer copies."""
CATEGORIES, LABELS = "list_category_cloth.txt", "list_category_img.txt"
BOXES, PARTS = "list_bbox.txt", "list_eval_partition.txt"

Value = TypeVar("Value")


def is_one(root: Path) -> bool:
    """Whether a folder looks like it."""
    return any((root / folder / LABELS).is_file() for folder in ANNOTATIONS)


def read(root: Path, *, boxes: bool = False) -> DataSet:
    """Read all parts, with the products' boxes if they are asked for.

    Raises TrainingDataError when a list or its header is missing; rows that are wrong are counted.
    """
    problems = Problems()
    annotations = _annotations(root)
    names = _categories(annotations / CATEGORIES, problems)
    parts = _values(root / "Eval" / PARTS, 1, lambda words: _part(words[0]), problems)
    found = _values(annotations / BOXES, 4, _box, problems) if boxes else {}
    tree = _Tree(root, names, parts, found if boxes else None, problems)
    return data_set(root, tree.pictures(annotations / LABELS), problems)


@dataclass(frozen=True)
class _Tree:
    root: Path
    names: Mapping[int, str]
    parts: Mapping[str, Part]
    boxes: Mapping[str, Box] | None
    problems: Problems
    seen: set[str] = field(default_factory=set)

    def pictures(self, labels: Path) -> Iterator[Labelled]:
        """Those that have all they need."""
        for line, words in _rows(labels, 2, self.problems):
            picture = self._picture(labels, line, *words)
            if picture is not None:
                yield picture
        for name in self.parts.keys() - self.seen:
            self.problems.add(Problem.NO_LABEL, labels, None, name)

    def _picture(self, labels: Path, line: int, name: str, label: str) -> Labelled | None:
        add = self.problems.add
        if name in self.seen:
            add(Problem.TWICE, labels, line, name)
            return None
        self.seen.add(name)
        category = self.names.get(int(label)) if label.isdecimal() else None
        path = self._path(name)
        if category is None:
            add(Problem.UNKNOWN_CATEGORY, labels, line, f"{label!r} is not a row of {CATEGORIES}")
        elif (part := self.parts.get(name)) is None:
            add(Problem.NO_PART, labels, line, f"{name} is not in {PARTS}")
        elif path is None:
            add(Problem.MISSING, labels, line, name)
        elif self.boxes is not None and name not in self.boxes:
            add(Problem.MALFORMED, labels, line, f"{name} has no box in {BOXES}")
        else:
            box = self.boxes[name] if self.boxes is not None else None
            return Labelled(path, category, part, PurePosixPath(name).parent.name, box)
        return None

    def _path(self, name: str) -> Path | None:
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            return None
        paths = (self.root / "Img" / name, self.root / name)
        return next((path for path in paths if path.is_file()), None)


def _annotations(root: Path) -> Path:
    there = [root / folder for folder in ANNOTATIONS if (root / folder).is_dir()]
    for folder in there:
        if (folder / LABELS).is_file():
            return folder
    if there:
        return there[0]
    raise TrainingDataError(f"{root}: has neither {ANNOTATIONS[0]} nor {ANNOTATIONS[1]}")


def _rows(path: Path, words: int, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """Number of its line and words of every row that has as many as it should."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError as error:
        raise TrainingDataError(f"{path}: {error.strerror}") from None
    if len(lines) < 2 or not lines[0].strip().isdecimal():
        raise TrainingDataError(f"{path}:1: the number of rows was expected, then a header")
    rows = [(number, line) for number, line in enumerate(lines[2:], 3) if line.strip()]
    if len(rows) != int(lines[0]):
        detail = f"{int(lines[0]):,} rows are announced, there are {len(rows):,}"
        problems.add(Problem.MALFORMED, path, 1, detail)
    for number, line in rows:
        found = line.split()
        if len(found) == words:
            yield number, found
        else:
            detail = f"{len(found)} words instead of {words}: {line.strip()[:80]!r}"
            problems.add(Problem.MALFORMED, path, number, detail)


def _categories(path: Path, problems: Problems) -> dict[int, str]:
    """Names by label, which is the number of the row; a malformed one keeps its number."""
    return {number - 2: words[0] for number, words in _rows(path, 2, problems)}


def _values(
    path: Path, words: int, parse: Callable[[list[str]], Value | None], problems: Problems
) -> dict[str, Value]:
    """What a list says of each picture."""
    values: dict[str, Value] = {}
    for number, (name, *rest) in _rows(path, 1 + words, problems):
        value = parse(rest)
        if value is None:
            problems.add(Problem.MALFORMED, path, number, f"{' '.join(rest)!r} of {name}")
        elif name in values:
            problems.add(Problem.TWICE, path, number, name)
        else:
            values[name] = value
    return values


def _part(word: str) -> Part | None:
    return Part(word) if word in set(Part) else None


def _box(words: list[str]) -> Box | None:
    """Corners of the first and the last pixel."""
    if not all(word.isdecimal() for word in words):
        return None
    left, top, right, bottom = map(int, words)
    box = Box(left, top, right + 1, bottom + 1)
    return None if box.is_empty else box
