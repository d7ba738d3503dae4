"""MNIST's IDX files, which Fashion-MNIST comes in (http://yann.lecun.com/exdb/mnist/, "file format")."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.training.errors import TrainingDataError
from worker.training.labelled import DataSet, Labelled, Part, Problems, Split, data_set

FASHION = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
"""Fashion-MNIST's categories, in the order of its labels 0…9 (arXiv:1708.07747, table 2)."""
BYTES = 8
"""Type code of unsigned bytes."""

Pixels = NDArray[np.uint8]


def is_one(root: Path) -> bool:
    """Whether a folder has them."""
    return _file(root, "train-images-idx3-ubyte") is not None


def read(root: Path, split: Split = Split(validation=0.1, test=0.0)) -> DataSet:  # noqa: B008 - frozen
    """Read Fashion-MNIST: the second file is its test part, and of the first `split` takes the validation part.

    Pictures are negated back to products on white, as they were in the shop (arXiv:1708.07747, section 2).
    Raises TrainingDataError when a file is missing or damaged.
    """
    if split.test:
        raise ValueError("IDX files have a test part of their own")
    return data_set(root, _pictures(root, split), Problems())


def _pictures(root: Path, split: Split) -> Iterator[Labelled]:
    for prefix in ("train", "t10k"):
        images = read_array(_needed(root, f"{prefix}-images-idx3-ubyte"))
        labels = read_array(_needed(root, f"{prefix}-labels-idx1-ubyte"))
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise TrainingDataError(
                f"{root}: {prefix}: labels {labels.shape} do not go with images {images.shape}"
            )
        if labels.size and labels.max() >= len(FASHION):
            raise TrainingDataError(
                f"{root}: {prefix}: label {labels.max()} is none of Fashion-MNIST"
            )
        for place, (image, label) in enumerate(zip(255 - images, labels.tolist(), strict=True)):
            part = Part.TEST if prefix == "t10k" else split.part(str(place))
            yield Labelled(image, FASHION[label], part)


def read_array(path: Path) -> Pixels:
    """Read an IDX file of bytes, gzipped or not: uint8, of the shape that it says. Raises TrainingDataError."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        kind, dimensions = struct.unpack_from(">HBB", data)[1:]
        shape = struct.unpack_from(f">{dimensions}I", data, 4)
    except OSError as error:
        raise TrainingDataError(f"{path}: {error.strerror or 'broken gzip'}") from None
    except (struct.error, EOFError, zlib.error) as error:
        raise TrainingDataError(f"{path}: not an IDX file: {error}") from None
    offset = 4 + 4 * dimensions
    if kind != BYTES or len(data) != offset + math.prod(shape):
        raise TrainingDataError(
            f"{path}: an IDX file of {math.prod(shape):,} bytes was expected: type code {kind}, "
            f"{len(data) - offset:,} bytes"
        )
    return np.frombuffer(data, np.uint8, offset=offset).reshape(shape)


def _file(root: Path, name: str) -> Path | None:
    paths = (root / name, root / f"{name}.gz")
    return next((path for path in paths if path.is_file()), None)


def _needed(root: Path, name: str) -> Path:
    path = _file(root, name)
    if path is None:
        raise TrainingDataError(f"{root}: no {name}, gzipped or not")
    return path
