"""Folders, CSVs and IDX files of labelled pictures, and how they are put into parts."""

from __future__ import annotations

import gzip
import re
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.unit.worker.training.factories import fashion_mnist, idx, picture
from worker.training import folder, table
from worker.training import idx as idx_files
from worker.training.errors import TrainingDataError
from worker.training.labelled import EXAMPLES, Part, Problem, Problems, Split

# -- parts ----------------------------------------------------------------------------------------


def test_a_split_has_its_shares_and_each_picture_stays_where_it_is() -> None:
    split = Split(validation=0.2, test=0.1, seed=3)
    names = [f"picture-{number}" for number in range(4000)]
    parts = {name: split.part(name) for name in names}
    counts = Counter(parts.values())
    assert counts[Part.VALIDATION] / len(names) == pytest.approx(0.2, abs=0.03)
    assert counts[Part.TEST] / len(names) == pytest.approx(0.1, abs=0.03)
    assert {name: Split(0.2, 0.1, 3).part(name) for name in reversed(names)} == parts
    assert {name: Split(0.2, 0.1, 4).part(name) for name in names} != parts


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.1), (0.5, 0.5), (0.1, -0.1)])
def test_shares_that_leave_nothing_to_learn_from(validation: float, test: float) -> None:
    with pytest.raises(ValueError, match="below 1 together"):
        Split(validation, test)


def test_problems_are_all_counted_and_the_first_shown() -> None:
    problems = Problems()
    for line in range(1, 2 * EXAMPLES + 1):
        problems.add(Problem.MISSING, Path("list.txt"), line, "a.jpg")
    shown = problems.lines()
    assert shown[0] == f"missing picture: {2 * EXAMPLES}"
    assert shown[1:] == [f"  list.txt:{line}: a.jpg" for line in range(1, EXAMPLES + 1)]


# -- a folder -------------------------------------------------------------------------------------


def test_a_folder_of_categories(tmp_path: Path) -> None:
    for name in ("dress/a.jpg", "dress/more/b.PNG", "bag/c.jpg", ".cache/d.jpg", "bag/.hidden.jpg"):
        picture(tmp_path / name)
    (tmp_path / "bag" / "notes.txt").write_text("no picture")
    found = folder.read(tmp_path, Split(validation=0.0, test=0.0))
    assert found.categories == ("bag", "dress")
    assert {(path_of(each.picture).name, each.category, each.part) for each in found.pictures} == {
        ("c.jpg", "bag", Part.TRAIN),
        ("a.jpg", "dress", Part.TRAIN),
        ("b.PNG", "dress", Part.TRAIN),
    }
    assert found.problems.counts == {Problem.NO_PICTURE: 1}
    assert "notes.txt: its name has" in found.problems.lines()[1]


def path_of(value: object) -> Path:
    """The path of a picture that is a file."""
    assert isinstance(value, Path)
    return value


def test_a_folder_with_parts_of_its_own(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        for category in ("dress", "bag"):
            picture(tmp_path / part / category / "a.jpg")
    picture(tmp_path / "test" / "hat" / "a.jpg")
    found = folder.read(tmp_path)
    assert Counter(each.part for each in found.pictures) == dict.fromkeys(Part, 2)
    assert found.problems.counts == {Problem.UNKNOWN_CATEGORY: 1}


def test_a_category_may_be_called_as_a_part_is(tmp_path: Path) -> None:
    for category in ("train", "bus"):
        picture(tmp_path / category / "a.jpg")
    found = folder.read(tmp_path, Split(validation=0.0, test=0.0))
    assert found.categories == ("bus", "train")


def test_a_folder_with_nothing_to_learn(tmp_path: Path) -> None:
    picture(tmp_path / "dress" / "a.jpg")
    with pytest.raises(
        TrainingDataError, match="at least two categories are needed to train, 1 found"
    ):
        folder.read(tmp_path, Split(validation=0.0, test=0.0))
    with pytest.raises(TrainingDataError, match="nowhere: No such file"):
        folder.read(tmp_path / "nowhere")


# -- a CSV ----------------------------------------------------------------------------------------


def csv(folder: Path, *rows: str, header: str = "image,category,part,product_id") -> Path:
    """Write one, with the pictures that it names."""
    for name in ("a", "b", "c", "d"):
        picture(folder / f"{name}.jpg")
    path = folder / "labels.csv"
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8-sig")
    return path


GOOD = ("a.jpg,dress,train,p1", "b.jpg,bag,train,", "c.jpg,bag,test,p3")


def test_a_table(tmp_path: Path) -> None:
    found = table.read(csv(tmp_path, *GOOD))
    assert [(path_of(x.picture).name, x.category, x.part, x.product) for x in found.pictures] == [
        ("a.jpg", "dress", Part.TRAIN, "p1"),
        ("b.jpg", "bag", Part.TRAIN, None),
        ("c.jpg", "bag", Part.TEST, "p3"),
    ]
    assert not found.problems.counts


def test_a_table_without_parts_is_split(tmp_path: Path) -> None:
    path = csv(tmp_path, "a.jpg,dress", "b.jpg,bag", header="image,category")
    found = table.read(path, Split(validation=0.0, test=0.0))
    assert {each.part for each in found.pictures} == {Part.TRAIN}


@pytest.mark.parametrize(
    ("row", "problem", "says"),
    [
        ("nowhere.jpg,bag,train,", Problem.MISSING, "nowhere.jpg"),
        ("a.jpg,bag,train,", Problem.TWICE, "a.jpg"),
        ("d.jpg,,train,", Problem.NO_LABEL, "d.jpg"),
        (",bag,train,", Problem.MALFORMED, "no image"),
        ("d.jpg,bag,query,", Problem.NO_PART, "'query' is none of"),
        ("d.jpg,bag,train,p,extra", Problem.MALFORMED, "more cells than columns"),
        ("d.jpg", Problem.NO_LABEL, "d.jpg"),
    ],
)
def test_a_wrong_row_of_a_table(tmp_path: Path, row: str, problem: Problem, says: str) -> None:
    path = csv(tmp_path, *GOOD, row)
    found = table.read(path)
    assert len(found.pictures) == len(GOOD)
    assert found.problems.counts == {problem: 1}
    (example,) = found.problems.examples[problem]
    assert example.startswith(f"{path}:5: ")
    assert says in example


def test_a_table_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match=re.escape("labels.csv:1: no column 'category'")):
        table.read(csv(tmp_path, header="image,label"))
    with pytest.raises(TrainingDataError, match="No such file"):
        table.read(tmp_path / "nowhere.csv")
    (tmp_path / "labels.csv").write_bytes(b"image,category\n\xff\xfe,x\n")
    with pytest.raises(TrainingDataError, match="not a CSV in UTF-8"):
        table.read(tmp_path / "labels.csv")


# -- IDX files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_fashion_mnist(tmp_path: Path, suffix: str) -> None:
    root = fashion_mnist(tmp_path, of_each=20, suffix=suffix)
    assert idx_files.is_one(root)
    found = idx_files.read(root)
    assert found.categories == tuple(sorted(idx_files.FASHION))
    counts = Counter(each.part for each in found.pictures)
    assert counts[Part.TEST] == 200
    assert counts[Part.TRAIN] + counts[Part.VALIDATION] == 200
    assert 5 < counts[Part.VALIDATION] < 40
    first = found.part(Part.TEST)[11]
    assert first.category == "trouser"
    assert isinstance(first.picture, np.ndarray)
    assert (first.picture == 255 - 11).all()


def test_fashion_mnist_that_does_not_fit(tmp_path: Path) -> None:
    root = fashion_mnist(tmp_path, of_each=2)
    labels = root / "train-labels-idx1-ubyte.gz"
    idx(labels, np.zeros(3, np.uint8))
    with pytest.raises(TrainingDataError, match="do not go with images"):
        idx_files.read(root)
    idx(labels, np.full(20, 10, np.uint8))
    with pytest.raises(TrainingDataError, match="label 10 is none"):
        idx_files.read(root)
    labels.unlink()
    with pytest.raises(TrainingDataError, match="no train-labels-idx1-ubyte"):
        idx_files.read(root)
    with pytest.raises(ValueError, match="test part of their own"):
        idx_files.read(root, Split())


WHOLE = struct.pack(">HBBI", 0, 8, 1, 4) + b"abcd"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (struct.pack(">HBBI", 0, 13, 1, 0), "type code 13"),
        (WHOLE[:-1], "3 bytes"),
        (WHOLE + b"x", "5 bytes"),
        (WHOLE[:6], "not an IDX file"),
        (b"", "not an IDX file"),
        (gzip.compress(WHOLE, mtime=0)[:-9], "not an IDX file|broken gzip"),
        (b"\x1f\x8bno gzip at all", "broken gzip"),
    ],
)
def test_an_idx_file_that_is_none(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(TrainingDataError, match=says):
        idx_files.read_array(path)
    path.write_bytes(WHOLE)
    assert idx_files.read_array(path).tobytes() == b"abcd"
