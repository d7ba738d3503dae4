from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from db.queries.catalogue import ChangedAttributes
from producer.messages import Condition, Range, Where
from tests.unit.worker.index import shelves
from tests.unit.worker.index.factories import vectors
from tests.unit.worker.index.generations import generation, image_pk
from worker.index import subset as subsets
from worker.index.filters import conditions, matches
from worker.index.generation import Generation
from worker.index.overlay import Overlay
from worker.index.subset import Subset, everything, subset

CATEGORIES = (None, "a", "b")
WHERES: list[Where] = [
    {},
    {"category": "a"},
    {"category": ("a", "b")},
    {"category": "no such"},
    {"price": Range(ge=1.0)},
    {"price": 1, "tags": ("a", "b")},
    {"category": ("b", "no such"), "price": Range(lt=2.0)},
    {"never": True},
]


def assert_sound(found: Subset, expected: list[int], images: int) -> None:
    """Count, membership and runs say the same."""
    slots = np.arange(images)
    assert found.count == len(expected)
    assert np.flatnonzero(found.holds(slots)).tolist() == expected
    assert found.holds(slots.reshape(1, -1).repeat(2, axis=0)).sum() == 2 * len(expected)
    assert [slot for run in found.runs() for slot in run.tolist()] == expected
    assert all(0 < len(run) <= subsets.ROWS for run in found.runs())


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(CATEGORIES), shelves.attributes()), min_size=1, max_size=30),
    st.lists(shelves.attributes(), max_size=10),
    shelves.conditions(),
)
def test_a_subset_is_what_meets_the_conditions_now(
    products: list[tuple[str | None, dict[str, JsonValue]]],
    later: list[dict[str, JsonValue]],
    condition: Condition,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = generation(
            Path(folder),
            vectors(len(products)),
            categories=[category for category, _ in products],
            attributes=[said for _, said in products],
            engine_name="exact",
        )
    overlay, now = Overlay(16, base.slots), [said for _, said in products]
    for place, said in enumerate(later[: len(products)]):
        overlay.reprice([ChangedAttributes(image_pk(place), said)])
        now[place] = said
    places = ((base.slots.image_pks - 1) // 3).tolist()
    for where in [*WHERES, {"price": condition}, {"tags": condition, "category": ("a", "b")}]:
        expected = [
            slot
            for slot, place in enumerate(places)
            if matches(where, products[place][0], now[place])
        ]
        found = subset(base, overlay.snapshot(), conditions(where))
        assert_sound(found, expected, len(base))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    said: list[dict[str, Any]] = [{"n": i, "odd": i % 2 == 1} for i in range(60)]
    return generation(
        tmp_path_factory.mktemp("base"),
        vectors(60),
        categories=[f"c{i % 3}" for i in range(60)],
        attributes=said,
        engine_name="exact",
    )


@pytest.mark.parametrize("rows", [1, 7, 20, 1000])
def test_runs_are_never_longer_than_they_may_be(
    base: Generation, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subsets, "ROWS", rows)
    nothing = Overlay(16, base.slots).snapshot()
    wheres: list[Where] = [
        {},
        {"category": "c1"},
        {"category": ("c0", "c2")},
        {"odd": True},
        {"n": -1},
    ]
    for where in wheres:
        found = subset(base, nothing, conditions(where))
        assert_sound(found, np.flatnonzero(found.holds(np.arange(60))).tolist(), 60)
    assert_sound(everything(base), list(range(60)), 60)


def test_only_attributes_need_marking(base: Generation) -> None:
    """Categories are slices: nothing is read for them."""
    nothing = Overlay(16, base.slots).snapshot()
    assert subset(base, nothing, conditions({"category": "c1"})).mask is None
    assert subset(base, nothing, conditions({"category": "c1", "odd": True})).mask is not None


def test_what_is_marked_does_not_leak_into_what_is_kept(base: Generation) -> None:
    """Patches are put on a copy: the next lookup may have another overlay."""
    odd = conditions({"odd": True})
    overlay = Overlay(16, base.slots)
    before = overlay.snapshot()
    overlay.reprice([ChangedAttributes(image_pk(0), {"odd": True})])
    assert subset(base, overlay.snapshot(), odd).count == 31
    assert subset(base, before, odd).count == 30
    assert subset(base, overlay.snapshot(), odd).count == 31
