"""Fashion-MNIST's pictures in DeepFashion's layout, with rows that are wrong in every way that happens."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.unit.worker.training.factories import listing
from worker.demo import sample

PARTS = ("train", "train", "train", "val", "test")
"""Of a category's pictures, in turn."""
GONE, TORN, NAMELESS = "img/gone/img_00000001.jpg", "img/torn/img_00000001.jpg", "no-category"


@dataclass(frozen=True)
class Tree:
    """Where it is, and what it holds."""

    root: Path
    pictures: int
    """Those with nothing wrong."""
    categories: tuple[str, ...]
    wrong: dict[str, int]
    """How many rows of each kind are wrong."""


def make(folder: Path, of_each: int, broken: bool = False) -> Tree:
    """Make one; two pictures that follow each other are of one product."""
    catalogue = sample.unpack(folder / "sample").catalogue
    names = sorted(each.name for each in catalogue.iterdir())
    root = folder / "tree"
    labels, parts = [], []
    for label, category in enumerate(names, start=1):
        for place, picture in enumerate(sorted((catalogue / category).iterdir())[:of_each]):
            name = f"img/{category.replace(' ', '_')}_{place // 2}/img_{place % 2 + 1:08}.jpg"
            target = root / "Img" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, target)
            labels.append(f"{name} {label}")
            parts.append(f"{name} {PARTS[place % len(PARTS)]}")
    right = len(labels)
    wrong = _spoil(root, labels, parts) if broken else {}
    _lists(root, names, labels, parts)
    return Tree(root, right, tuple(sorted(each.replace(" ", "_") for each in names)), wrong)


def _spoil(root: Path, labels: list[str], parts: list[str]) -> dict[str, int]:
    torn = root / "Img" / TORN
    torn.parent.mkdir(parents=True)
    torn.write_bytes(b"\xff\xd8\xff\xe0 torn")
    labels += [f"{GONE} 1", f"{TORN} 2", "img/x/img_00000001.jpg 77", NAMELESS]
    parts += [
        f"{GONE} train",
        f"{TORN} train",
        "img/x/img_00000001.jpg train",
        "img/y/1.jpg nowhere",
    ]
    return {
        "missing picture": 1,
        "cannot be decoded": 1,
        "unknown category": 1,
        "malformed row": 2,
    }


def _lists(root: Path, names: Sequence[str], labels: Sequence[str], parts: Sequence[str]) -> None:
    categories = [f"{each.replace(' ', '_')} 1" for each in names]
    listing(root / "Anno_coarse" / "list_category_cloth.txt", categories, "category_name type")
    listing(root / "Anno_coarse" / "list_category_img.txt", labels, "image_name category_label")
    listing(root / "Eval" / "list_eval_partition.txt", parts, "image_name evaluation_status")
