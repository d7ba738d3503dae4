"""A CSV of labelled pictures: columns `image` and `category`, and if they are known `part` and `product_id`."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from worker.training.errors import TrainingDataError
from worker.training.labelled import DataSet, Labelled, Part, Problem, Problems, Split, data_set

NEEDED = ("image", "category")


def read(path: Path, split: Split = Split()) -> DataSet:  # noqa: B008 - frozen
    """Read all rows; a picture's path is relative to the file. Those without a part are put into one by `split`.

    Raises TrainingDataError when the file cannot be read, lacks a column, or has fewer than two categories.
    """
    problems = Problems()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return data_set(path, _pictures(path, csv.DictReader(file), split, problems), problems)
    except OSError as error:
        raise TrainingDataError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise TrainingDataError(f"{path}: not a CSV in UTF-8: {error}") from None


def _pictures(
    path: Path, rows: csv.DictReader[str], split: Split, problems: Problems
) -> Iterator[Labelled]:
    absent = [column for column in NEEDED if column not in (rows.fieldnames or ())]
    if absent:
        raise TrainingDataError(f"{path}:1: no column {' and no column '.join(map(repr, absent))}")
    seen: set[Path] = set()
    for row in rows:
        picture = _picture(path, rows.line_num, row, split, problems)
        if picture is None:
            continue
        assert isinstance(picture.picture, Path)
        if picture.picture in seen:
            problems.add(Problem.TWICE, path, rows.line_num, str(row["image"]))
        else:
            seen.add(picture.picture)
            yield picture


def _picture(
    path: Path, line: int, row: Mapping[str, str | None], split: Split, problems: Problems
) -> Labelled | None:
    image, category = (row[column] or "" for column in NEEDED)
    said = row.get("part") or ""
    part = Part.named(said) if said else split.part(image)
    file = path.parent / image
    if None in row or not image:
        problems.add(
            Problem.MALFORMED, path, line, "more cells than columns" if image else "no image"
        )
    elif not category:
        problems.add(Problem.NO_LABEL, path, line, image)
    elif part is None:
        problems.add(Problem.NO_PART, path, line, f"{said!r} is none of train, val and test")
    elif not file.is_file():
        problems.add(Problem.MISSING, path, line, image)
    else:
        return Labelled(file, category, part, row.get("product_id") or None)
    return None
