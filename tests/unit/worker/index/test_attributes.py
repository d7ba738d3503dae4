from __future__ import annotations

import json
import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from producer.messages import Condition, Range
from tests.unit.worker.index.shelves import NAMES, attributes, conditions, truth
from worker.index.attributes import FILES, NUMBERS, SLOTS, STARTS, TEXTS, Attributes, Gatherer
from worker.index.attributes import NAMES as NAMES_FILE
from worker.index.errors import GenerationDamaged

Products = Sequence[dict[str, JsonValue]]
SHELF: Products = [
    {"price": 10, "tags": ["new", "red"], "in_stock": True},
    {"price": 10.0, "tags": "red", "in_stock": 1},
    {"price": 49.5, "tags": [], "in_stock": False},
    {"tags": [None, "red", "red"], "in_stock": "True"},
    {},
    {"price": "10"},
]


def gathered(products: Products, slots: Sequence[int] | None = None, block: int = 3) -> Attributes:
    """The index of these products, taken in a few at a time; each at its own slot where none are given."""
    into = Gatherer()
    for start in range(0, len(products), block):
        into.add(products[start : start + block])
    return into.by_slot(np.array(range(len(products)) if slots is None else slots, dtype=np.int64))


@given(st.lists(attributes(), max_size=12), st.sampled_from(NAMES), conditions(), st.randoms())
def test_what_is_marked_is_what_meets_the_condition(
    products: Products, name: str, condition: Condition, random: Random
) -> None:
    slots = list(range(len(products)))
    random.shuffle(slots)
    index = gathered(products, slots)
    expected = truth(products, name, condition)
    assert [bool(index.meets(name, condition)[slot]) for slot in slots] == expected


@given(
    st.lists(attributes(beyond=True), max_size=12), st.sampled_from(NAMES), conditions(beyond=True)
)
def test_integers_that_no_float_can_hold_are_never_missed(
    products: Products, name: str, condition: Condition
) -> None:
    """SQL leaves out what was marked by mistake, but cannot bring back what was not marked."""
    marked = gathered(products).meets(name, condition).tolist()
    expected = truth(products, name, condition)
    assert all(there for there, wanted in zip(marked, expected, strict=True) if wanted)


@pytest.mark.parametrize(
    ("value", "condition"),
    [
        (2**53 + 1, Range(gt=2.0**53)),
        (2**54 - 1, Range(lt=2.0**54)),
        (-(2**53) - 1, Range(lt=-(2.0**53))),
        (10**400, Range(gt=1.7976931348623157e308)),
        (2**53 + 1, 2**53 + 1),
    ],
    ids=["above", "below", "far below", "endless", "equal"],
)
def test_an_integer_beside_a_bound_is_not_lost_in_rounding(
    value: int, condition: Condition
) -> None:
    assert truth([{"n": value}], "n", condition) == [True]
    assert gathered([{"n": value}]).meets("n", condition).tolist() == [True]


def test_every_kind_of_value_is_told_apart() -> None:
    index = gathered(SHELF)
    assert _places(index, "price", 10) == [0, 1]
    assert _places(index, "price", "10") == [5]
    assert _places(index, "price", (10, "10")) == [0, 1, 5]
    assert _places(index, "price", Range(gt=10)) == [2]
    assert _places(index, "price", Range(ge=10, lt=49.5)) == [0, 1]
    assert _places(index, "price", Range(gt=49.5, lt=10)) == []
    assert _places(index, "tags", "red") == [0, 1, 3]
    assert _places(index, "in_stock", True) == [0]
    assert _places(index, "in_stock", 1) == [1]
    assert _places(index, "in_stock", False) == [2]
    assert _places(index, "in_stock", "True") == [3]
    assert _places(index, "no such", True) == []


def _places(index: Attributes, name: str, condition: Condition) -> list[int]:
    return np.flatnonzero(index.meets(name, condition)).tolist()


def test_what_was_marked_is_kept_and_cannot_be_changed() -> None:
    index = gathered(SHELF)
    marked = index.meets("price", Range(gt=1))
    assert index.meets("price", Range(gt=1)) is marked
    assert index.meets("in_stock", True) is not index.meets("in_stock", 1)
    with pytest.raises(ValueError, match="read-only"):
        marked[0] = True


def test_only_so_many_conditions_are_kept() -> None:
    """However few bytes each takes: visitors choose the bounds."""
    index = gathered(SHELF)
    first = index.meets("price", Range(gt=-1.0))
    for bound in range(5000):
        index.meets("price", Range(gt=float(bound)))
    assert index.meets("price", Range(gt=-1.0)) is not first


def test_it_is_let_go_with_its_last_reference() -> None:
    """Without the collector of cycles: its files stay mapped for as long as it lives."""
    index = gathered(SHELF)
    index.meets("price", 10)
    gone = weakref.ref(index)
    del index
    assert gone() is None


# -- files ----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(attributes(beyond=True), max_size=8), conditions())
def test_what_is_saved_is_what_is_loaded(products: Products, condition: Condition) -> None:
    index = gathered(products)
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder))
        assert sorted(path.name for path in Path(folder).iterdir()) == sorted(FILES)
        loaded = Attributes.load(Path(folder), len(products))
        for name in NAMES:
            assert np.array_equal(loaded.meets(name, condition), index.meets(name, condition))
            assert (loaded.values(name) is None) == (index.values(name) is None)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    gathered(SHELF).save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("left", [0, 5, 0.5, 0.9])
def test_a_file_that_is_cut_is_refused(saved: Path, name: str, left: float) -> None:
    size = (saved / name).stat().st_size
    os.truncate(saved / name, int(left * size) if left < 1 else int(left))
    with pytest.raises(GenerationDamaged):
        Attributes.load(saved, len(SHELF))


@pytest.mark.parametrize("name", [NUMBERS, TEXTS, STARTS, SLOTS])
@pytest.mark.parametrize("lost", [1, 2])
def test_a_file_with_fewer_numbers_than_the_names_need_is_refused(
    saved: Path, name: str, lost: int
) -> None:
    np.save(saved / name, np.load(saved / name)[:-lost])
    with pytest.raises(GenerationDamaged):
        Attributes.load(saved, len(SHELF))


@pytest.mark.parametrize("text", ["{}x", "[1]", '[{"name": "a"}]', "null", '["a"]'])
def test_names_that_are_none_are_refused(saved: Path, text: str) -> None:
    (saved / NAMES_FILE).write_text(text)
    with pytest.raises(GenerationDamaged):
        Attributes.load(saved, len(SHELF))


def test_a_file_of_another_kind_of_numbers_is_refused(saved: Path) -> None:
    np.save(saved / SLOTS, np.load(saved / SLOTS).astype(np.int64))
    with pytest.raises(GenerationDamaged):
        Attributes.load(saved, len(SHELF))


def test_one_that_is_lost_is_refused(saved: Path) -> None:
    (saved / STARTS).unlink()
    with pytest.raises(GenerationDamaged):
        Attributes.load(saved, len(SHELF))


def test_any_text_survives_the_file(tmp_path: Path) -> None:
    texts = ["\n", '"', "\\", "\ud800", "😀", "\x00"]
    index = gathered([{text: text} for text in texts])
    index.save(tmp_path)
    loaded = Attributes.load(tmp_path, len(texts))
    assert [_places(loaded, text, text) for text in texts] == [[i] for i in range(len(texts))]
    assert json.loads((tmp_path / NAMES_FILE).read_text("utf-8"))
