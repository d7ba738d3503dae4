"""Reads labelled pictures in whichever layout they lie."""

from __future__ import annotations

from pathlib import Path

from worker.training import deepfashion, folder, idx, table
from worker.training.errors import TrainingDataError
from worker.training.labelled import DataSet


def read(source: Path, *, boxes: bool = False) -> DataSet:
    """Read a DeepFashion tree, a folder of IDX files, a folder of categories, or a CSV, told by what is there.

    `boxes` crops to the products' boxes, which DeepFashion alone has. Raises TrainingDataError.
    """
    if boxes and not deepfashion.is_one(source):
        raise TrainingDataError(f"{source}: only a DeepFashion tree has boxes to crop to (--crop)")
    if source.is_file():
        return table.read(source)
    if not source.is_dir():
        raise TrainingDataError(f"{source}: neither a folder nor a CSV file")
    if deepfashion.is_one(source):
        return deepfashion.read(source, boxes=boxes)
    return idx.read(source) if idx.is_one(source) else folder.read(source)
