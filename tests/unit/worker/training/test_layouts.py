from pathlib import Path

import pytest

from tests.unit.worker.training import factories
from worker.training import layouts
from worker.training.errors import TrainingDataError
from worker.training.labelled import DataSet


def folders(root: Path) -> Path:
    for category in ("bag", "dress"):
        factories.picture(root / category / "1.png")
        factories.picture(root / category / "2.png")
    return root


def table(root: Path) -> Path:
    folders(root)
    rows = [f"{c}/{n}.png,{c},train" for c in ("bag", "dress") for n in (1, 2)]
    path = root / "pictures.csv"
    path.write_text("\n".join(["image,category,part", *rows]))
    return path


def count(data: DataSet) -> tuple[int, int]:
    return len(data.pictures), len(data.categories)


def test_every_layout_is_told_by_what_is_there(tmp_path: Path) -> None:
    for name in ("idx", "tree"):
        (tmp_path / name).mkdir()
    factories.fashion_mnist(tmp_path / "idx", of_each=2)
    factories.deepfashion(tmp_path / "tree")
    assert count(layouts.read(tmp_path / "idx")) == (40, 10)
    assert count(layouts.read(tmp_path / "tree")) == (4, 2)
    assert count(layouts.read(table(tmp_path / "csv"))) == (4, 2)
    assert layouts.read(folders(tmp_path / "folders")).categories == ("bag", "dress")


def test_boxes_are_deepfashions_alone(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="only a DeepFashion tree has boxes"):
        layouts.read(folders(tmp_path), boxes=True)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="neither a folder nor a CSV"):
        layouts.read(tmp_path / "nowhere")
