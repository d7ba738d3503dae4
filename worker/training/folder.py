"""A folder whose sub-folders are categories, by themselves or below `train`, `val` and `test`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from producer.catalogue import PICTURE_SUFFIXES
from worker.training.errors import TrainingDataError
from worker.training.labelled import DataSet, Labelled, Part, Problem, Problems, Split, data_set


def read(root: Path, split: Split = Split()) -> DataSet:  # noqa: B008 - frozen
    """Read all pictures below a folder, put into parts by `split` unless the folder has them itself.

    Raises TrainingDataError when it cannot be read or has fewer than two categories.
    """
    problems = Problems()
    return data_set(root, _pictures(root, split, problems), problems)


def _pictures(root: Path, split: Split, problems: Problems) -> Iterator[Labelled]:
    folders = _folders(root)
    parts = {folder: Part.named(folder.name) for folder in folders}
    if Part.TRAIN not in parts.values() or None in parts.values():
        for folder in folders:
            for path in _files(folder, problems):
                name = path.relative_to(root).as_posix()
                yield Labelled(path, folder.name, split.part(name))
        return
    for folder, part in parts.items():
        assert part is not None
        for category in _folders(folder):
            for path in _files(category, problems):
                yield Labelled(path, category.name, part)


def _folders(root: Path) -> list[Path]:
    try:
        found = [path for path in root.iterdir() if path.is_dir() and path.name[0] != "."]
    except OSError as error:
        raise TrainingDataError(f"{root}: {error.strerror}") from None
    return sorted(found)


def _files(category: Path, problems: Problems) -> Iterator[Path]:
    for folder, folders, names in os.walk(category):
        folders[:] = sorted(each for each in folders if each[0] != ".")
        for name in sorted(each for each in names if each[0] != "."):
            path = Path(folder, name)
            if path.suffix.lower() in PICTURE_SUFFIXES:
                yield path
            else:
                problems.add(Problem.NO_PICTURE, path, None, "its name has no picture's ending")
