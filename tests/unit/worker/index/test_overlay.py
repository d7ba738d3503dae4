"""Other attributes of pictures that did not change: what `Overlay.reprice` takes in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.queries.catalogue import ChangedAttributes, ChangedImage
from producer.messages import Range
from tests.unit.worker.index.factories import DIMENSION, half, vectors
from tests.unit.worker.index.generations import image_pk, product_pk, spooled
from worker.index import spool
from worker.index.overlay import Overlay, OverlayView
from worker.index.slots import SlotTable
from worker.index.spool import Sorted

CHEAP = {"price": Range(lt=10.0)}
ROWS = vectors(12)


@pytest.fixture
def base(tmp_path: Path) -> Sorted:
    """Five pictures at 0, 10, 20, 30 and 40."""
    taken = spooled(tmp_path, ROWS[:5], attributes=[{"price": 10 * i} for i in range(5)])
    return spool.sort(taken, tmp_path / "sorted")


def changed(place: int, price: float | None, *, gone: bool = False) -> ChangedImage:
    attributes = {} if price is None else {"price": price}
    vector = None if gone else ROWS[place].tobytes()
    return ChangedImage(image_pk(place), product_pk(place), "c", attributes, 1, vector)


def repriced(place: int, price: float) -> ChangedAttributes:
    return ChangedAttributes(image_pk(place), {"price": price})


def cheap_slots(base: Sorted, view: OverlayView) -> set[int]:
    """Places of the base's pictures that are cheap by now."""
    marked = base.attributes.meets("price", CHEAP["price"]).copy()
    view.correct(marked, CHEAP)
    return {(int(pk) - 1) // 3 for pk in base.slots.image_pks[marked]}


def rows(view: OverlayView, *, cheap: bool = False) -> set[int]:
    """Places of the overlay's pictures, all or the cheap ones."""
    chosen = np.flatnonzero(view.rows(None, CHEAP if cheap else None))
    return {(int(pk) - 1) // 3 for pk in view.image_pks[chosen]}


def test_slots_of_the_base_are_patched_for_later_snapshots_only(base: Sorted) -> None:
    overlay = Overlay(DIMENSION, base.slots)
    before = overlay.snapshot()
    overlay.reprice([repriced(0, 99), repriced(3, 5)])
    between = overlay.snapshot()
    overlay.reprice([repriced(3, 6), repriced(0, 1), repriced(4, 2)])
    overlay.reprice([repriced(4, 50)])
    after = overlay.snapshot()
    assert cheap_slots(base, before) == {0}
    assert cheap_slots(base, between) == {3}
    assert cheap_slots(base, after) == {0, 3}
    assert after.count == 0
    assert after.changes == 0
    assert not after.hides(np.arange(5)).any()


def test_a_picture_of_the_overlay_is_moved_with_its_vector(base: Sorted) -> None:
    overlay = Overlay(DIMENSION, base.slots)
    overlay.apply([changed(1, 50), changed(7, 50)])
    before = overlay.snapshot()
    overlay.reprice([repriced(1, 5), repriced(7, 6), repriced(2, 7)])
    after = overlay.snapshot()
    assert (rows(before), rows(before, cheap=True)) == ({1, 7}, set())
    assert (rows(after), rows(after, cheap=True)) == ({1, 7}, {1, 7})
    assert (before.alive, after.alive) == (2, 2)
    assert (before.changes, after.changes) == (2, 2)
    assert cheap_slots(base, after) == {0, 2}
    for place in (1, 7):
        row = after.row_of(image_pk(place))
        assert row is not None
        assert np.array_equal(after.vectors[row], half(ROWS[place]))
        assert after.product_pks[row] == product_pk(place)
        assert after.norms[row] == pytest.approx(1.0, abs=1e-3)
    assert rows(after) == {
        (int(pk) - 1) // 3 for pk in after.image_pks[: after.count][after.rows({"c"})]
    }


def test_what_is_gone_or_unknown_stays_so(base: Sorted) -> None:
    overlay = Overlay(DIMENSION, base.slots)
    overlay.apply([changed(1, None, gone=True)])
    overlay.reprice([repriced(1, 5), repriced(9, 5)])
    view = overlay.snapshot()
    assert rows(view) == set()
    assert view.hides(base.slots.slots_of(np.array([image_pk(1)]))).all()
    assert view.row_of(image_pk(1)) == -1
    assert view.row_of(image_pk(9)) is None


def test_without_a_base_there_is_nothing_to_patch() -> None:
    overlay = Overlay(DIMENSION, None)
    overlay.apply([changed(0, 50)])
    overlay.reprice([repriced(0, 5), repriced(3, 5)])
    assert rows(overlay.snapshot(), cheap=True) == {0}


_STEP = st.tuples(
    st.sampled_from(["picture", "gone", "price"]), st.integers(0, 7), st.integers(0, 3)
)


@given(st.lists(st.lists(_STEP, max_size=4), max_size=25))
def test_a_snapshot_stays_what_it_was(batches: list[list[tuple[str, int, int]]]) -> None:
    """Against plain dictionaries, looked at only after all later changes were made."""
    known = 4
    table = SlotTable.of(
        np.array([image_pk(i) for i in range(known)]),
        np.array([product_pk(i) for i in range(known)]),
        (),
    )
    overlay = Overlay(DIMENSION, table)
    prices = dict.fromkeys(range(known), 0)
    inside: dict[int, bool] = {}
    taken = [(overlay.snapshot(), dict(prices), dict(inside))]
    for batch in batches:
        _take(overlay, {place: (kind, price) for kind, place, price in batch}, prices, inside)
        taken.append((overlay.snapshot(), dict(prices), dict(inside)))
    for view, said, within in taken:
        alive = {place for place, there in within.items() if there}
        assert rows(view) == alive
        assert (view.alive, view.changes) == (len(alive), len(within))
        for price in range(4):
            where = {"price": price}
            found = np.flatnonzero(view.rows(None, where))
            assert sorted((int(pk) - 1) // 3 for pk in view.image_pks[found]) == sorted(
                place for place in alive if said[place] == price
            )
            marked = np.full(known, price == 0)
            view.correct(marked, where)
            visible = [place for place in range(known) if place not in within]
            assert [bool(marked[place]) for place in visible] == [
                said[place] == price for place in visible
            ]


def _take(
    overlay: Overlay,
    batch: dict[int, tuple[str, int]],
    prices: dict[int, int],
    inside: dict[int, bool],
) -> None:
    """Pictures first, then attributes of those that did not change, as a follower does."""
    pictures = {place: (kind, price) for place, (kind, price) in batch.items() if kind != "price"}
    overlay.apply(
        [changed(place, price, gone=kind == "gone") for place, (kind, price) in pictures.items()]
    )
    for place, (kind, price) in pictures.items():
        inside[place], prices[place] = kind == "picture", price
    others = {
        place: price
        for place, (kind, price) in batch.items()
        if kind == "price" and inside.get(place, place in prices)
    }
    overlay.reprice([repriced(place, price) for place, price in others.items()])
    prices |= others
