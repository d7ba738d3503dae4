"""DeepFashion's official layout, and what may be wrong in it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.worker.training.factories import NAMES, deepfashion, listing
from worker.training import deepfashion as layout
from worker.training.errors import TrainingDataError
from worker.training.labelled import Box, Part, Problem


@pytest.mark.parametrize("annotations", ["Anno", "Anno_coarse"])
@pytest.mark.parametrize("pictures", ["Img", "."])
def test_both_variants_are_read(tmp_path: Path, annotations: str, pictures: str) -> None:
    root = deepfashion(tmp_path, annotations, pictures)
    assert layout.is_one(root)
    found = layout.read(root)
    assert found.categories == ("Blouse", "Parka")
    assert [(each.category, each.part, each.product, each.box) for each in found.pictures] == [
        ("Blouse", Part.TRAIN, "Red_Blouse", None),
        ("Blouse", Part.TEST, "Red_Blouse", None),
        ("Parka", Part.TRAIN, "Warm_Parka", None),
        ("Parka", Part.TEST, "Warm_Parka", None),
    ]
    assert [each.picture for each in found.part(Part.TEST)] == [
        root / pictures / NAMES[1],
        root / pictures / NAMES[3],
    ]
    assert not found.problems.counts


def test_boxes_hold_their_last_pixel(tmp_path: Path) -> None:
    found = layout.read(deepfashion(tmp_path), boxes=True)
    assert {each.box for each in found.pictures} == {Box(1, 2, 6, 8)}


@pytest.mark.parametrize(
    ("name", "row", "line", "problem", "says"),
    [
        ("list_category_img", NAMES[0], 7, Problem.MALFORMED, "1 words instead of 2"),
        ("list_category_img", f"{NAMES[0]} 1", 7, Problem.TWICE, NAMES[0]),
        ("list_category_img", "img/New/img_1.jpg 4", 7, Problem.UNKNOWN_CATEGORY, "'4' is not a row"),
        ("list_category_img", "img/New/img_1.jpg x", 7, Problem.UNKNOWN_CATEGORY, "'x' is not a row"),
        ("list_category_img", "img/New/img_1.jpg ²", 7, Problem.UNKNOWN_CATEGORY, "'²' is not a row"),
        ("list_category_img", "img/New/img_1.jpg 1", 7, Problem.NO_PART, "not in list_eval_partition"),
        ("list_eval_partition", "img/New/img_1.jpg query", 7, Problem.MALFORMED, "'query' of img/New"),
        ("list_eval_partition", f"{NAMES[0]} val", 7, Problem.TWICE, NAMES[0]),
        ("list_bbox", f"{NAMES[0]} 5 5 4 9", 7, Problem.MALFORMED, "'5 5 4 9' of img/Red"),
        ("list_bbox", f"{NAMES[0]} -1 5 4 9", 7, Problem.MALFORMED, "'-1 5 4 9'"),
    ],
)  # fmt: skip
def test_a_wrong_row_is_counted_with_its_file_and_line(
    *, tmp_path: Path, name: str, row: str, line: int, problem: Problem, says: str
) -> None:
    deepfashion(tmp_path)
    (path,) = tmp_path.rglob(f"{name}.txt")
    rows = [*path.read_text().splitlines()[2:], row]
    listing(path, rows)
    found = layout.read(tmp_path, boxes=True)
    assert found.problems.counts == {problem: 1}
    (example,) = found.problems.examples[problem]
    assert example.startswith(f"{path}:{line}: ")
    assert says in example
    assert len(found.pictures) == 4


def test_pictures_that_are_missing_or_outside(tmp_path: Path) -> None:
    deepfashion(tmp_path / "root")
    (tmp_path / "root" / "Img" / NAMES[1]).rename(tmp_path / "outside.jpg")
    for name, extra in (("list_category_img", "1"), ("list_eval_partition", "test")):
        (path,) = tmp_path.rglob(f"{name}.txt")
        rows = [*path.read_text().splitlines()[2:], f"../../outside.jpg {extra}"]
        listing(path, rows)
    found = layout.read(tmp_path / "root")
    assert found.problems.counts == {Problem.MISSING: 2}
    assert len(found.pictures) == 3
    assert found.problems.lines()[0] == "missing picture: 2"


def test_pictures_without_a_label_or_a_box(tmp_path: Path) -> None:
    labels = [f"{name} 1" if "Blouse" in name else f"{name} 3" for name in NAMES[:-1]]
    boxes = [f"{name} 0 0 1 1" for name in NAMES[1:]]
    root = deepfashion(tmp_path, lists={"list_category_img": labels, "list_bbox": boxes})
    found = layout.read(root)
    assert found.problems.counts == {Problem.NO_LABEL: 1}
    with pytest.raises(TrainingDataError, match="has no box"):  # the only Blouse to learn from
        layout.read(root, boxes=True)


def test_a_category_that_is_only_tested(tmp_path: Path) -> None:
    labels = [
        f"{name} {1 if name != NAMES[1] else 2}" if "Blouse" in name else f"{name} 3"
        for name in NAMES
    ]
    found = layout.read(deepfashion(tmp_path, lists={"list_category_img": labels}))
    assert found.categories == ("Blouse", "Parka")
    assert found.problems.counts == {Problem.UNKNOWN_CATEGORY: 1}
    assert "'Tee' has no picture in the training part" in "\n".join(found.problems.lines())


@pytest.mark.parametrize(
    "name", ["list_category_cloth", "list_category_img", "list_eval_partition"]
)
def test_a_list_that_is_missing_or_another_file(tmp_path: Path, name: str) -> None:
    (path,) = deepfashion(tmp_path).rglob(f"{name}.txt")
    path.write_text("something else")
    with pytest.raises(TrainingDataError, match=f"{name}.txt:1: the number of rows"):
        layout.read(tmp_path)
    path.unlink()
    with pytest.raises(TrainingDataError, match=f"{name}.txt: No such file"):
        layout.read(tmp_path)


def test_a_list_that_was_cut_off(tmp_path: Path) -> None:
    (path,) = deepfashion(tmp_path).rglob("list_category_img.txt")
    listing(path, path.read_text().splitlines()[2:], count=289_222)
    examples = layout.read(tmp_path).problems.examples[Problem.MALFORMED]
    assert examples == [f"{path}:1: 289,222 rows are announced, there are 4"]


def test_no_annotations(tmp_path: Path) -> None:
    assert not layout.is_one(tmp_path)
    with pytest.raises(TrainingDataError, match="neither Anno nor Anno_coarse"):
        layout.read(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    rows=st.lists(
        st.one_of(
            st.sampled_from([f"{name} {label}" for name in NAMES for label in (1, 3)]),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
        ),
        max_size=12,
    )
)
def test_any_rows_are_read_or_counted(tmp_path: Path, rows: list[str]) -> None:
    (path,) = deepfashion(tmp_path).rglob("list_category_img.txt")
    rows = [f"{NAMES[0]} 1", f"{NAMES[2]} 3", *rows]
    listing(path, rows)
    lines = [line for line in path.read_text("utf-8").splitlines()[2:] if line.strip()]
    found = layout.read(tmp_path)
    counts = Counter(found.problems.counts)
    counts.pop(Problem.NO_LABEL, None)  # of the other list
    if len(lines) != len(rows):
        counts[Problem.MALFORMED] -= 1  # the count in the first line
    assert len(found.pictures) + counts.total() == len(lines)
