"""Small data sets in every layout that is read."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def idx(path: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    """Write an IDX file of bytes, gzipped if its name says so."""
    data = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def fashion_mnist(folder: Path, of_each: int, suffix: str = ".gz") -> Path:
    """A folder of the layout of Debian's package, with grey squares as dark as their position."""
    labels = np.tile(np.arange(10, dtype=np.uint8), of_each)
    pictures = np.arange(len(labels), dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2)
    for part in ("train", "t10k"):
        idx(folder / f"{part}-images-idx3-ubyte{suffix}", pictures)
        idx(folder / f"{part}-labels-idx1-ubyte{suffix}", labels)
    return folder


def picture(path: Path) -> Path:
    """Write a small picture, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)
    return path


def listing(
    path: Path, rows: Sequence[str], header: str = "names", count: int | None = None
) -> None:
    """Write a list as DeepFashion does, padded with blanks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [str(len(rows) if count is None else count), header, *(f"{row}   " for row in rows)]
    path.write_text("\n".join(lines) + "\n")


NAMES = (
    "img/Red_Blouse/img_00000001.jpg",
    "img/Red_Blouse/img_00000002.jpg",
    "img/Warm_Parka/img_00000001.jpg",
    "img/Warm_Parka/img_00000002.jpg",
)


def deepfashion(
    root: Path,
    annotations: str = "Anno",
    pictures: str = "Img",
    lists: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """A tree in DeepFashion's layout: two products of two pictures each; `lists` replaces lists by their names."""
    for name in NAMES:
        picture(root / pictures / name)
    rows: dict[str, Sequence[str]] = {
        "list_category_cloth": ["Blouse 1", "Tee 1", "Parka 1"],
        "list_category_img": [f"{name}   {1 if 'Blouse' in name else 3}" for name in NAMES],
        "list_bbox": [f"{name} 1 2 5 7" for name in NAMES],
        "list_eval_partition": [
            f"{name} {'test' if name.endswith('2.jpg') else 'train'}" for name in NAMES
        ],
        **(lists or {}),
    }
    for name, each in rows.items():
        folder = "Eval" if name == "list_eval_partition" else annotations
        listing(root / folder / f"{name}.txt", each)
    return root
