from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from db.queries.catalogue import ChangedImage, VectorBlock
from tests.unit.worker.index.factories import DIMENSION, half, vectors
from tests.unit.worker.index.generations import image_pk, product_pk, spooled
from worker.index import score, spool
from worker.index.errors import BadVectors
from worker.index.overlay import Overlay
from worker.index.rebuild import IndexState, RebuildLimits, due, outgrown
from worker.index.rotation import Moments, Rotation
from worker.index.spool import Spool

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


# -- score ----------------------------------------------------------------------------------------


def test_widen_is_exact_for_every_finite_half() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    assert np.array_equal(score.widen(halves), halves.astype(np.float32))


def test_equal_vectors_are_at_no_distance() -> None:
    rows = score.rounded(vectors(5))
    assert score.squared(rows, rows[:, None, :].copy()).max() == 0.0


def test_squared_is_the_euclidean_distance() -> None:
    rows = vectors(20)
    got = score.squared(rows[:2], np.stack([rows[2:11], rows[11:20]]))
    assert np.allclose(got[0], np.linalg.norm(rows[0] - rows[2:11], axis=1) ** 2, atol=1e-6)
    assert np.allclose(got[1], np.linalg.norm(rows[1] - rows[11:20], axis=1) ** 2, atol=1e-6)


# -- rotation -------------------------------------------------------------------------------------


def test_reduced_distances_are_those_of_the_widest_axes(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    flat = random.standard_normal((500, 4)) @ random.standard_normal((4, DIMENSION))
    rows = flat.astype(np.float32)
    moments = Moments(DIMENSION)
    for start in range(0, 500, 100):
        moments.add(rows[start : start + 100])
    rotation = moments.rotation(4)
    rotation.save(tmp_path / "rotation.npy")
    reduced = Rotation.load(tmp_path / "rotation.npy", DIMENSION, 4).reduce(rows)
    assert rotation.kept == pytest.approx(1.0, abs=1e-5)
    distances = np.linalg.norm(rows[:50] - rows[50:100], axis=1)
    assert np.allclose(np.linalg.norm(reduced[:50] - reduced[50:100], axis=1), distances, rtol=1e-3)


def test_full_width_is_left_as_it_is() -> None:
    moments = Moments(DIMENSION)
    moments.add(vectors(30))
    rows = vectors(3, seed=1)
    assert np.array_equal(moments.rotation(99).reduce(rows), rows)


def test_axes_are_found_once_for_all_widths_and_anew_for_further_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a wide network's vectors that takes longer than all else of a small catalogue's build."""
    real, calls = np.linalg.eigh, []

    def eigh(matrix: NDArray[np.float64]) -> Any:
        calls.append(len(matrix))
        return real(matrix)

    monkeypatch.setattr(np.linalg, "eigh", eigh)
    moments, fresh = Moments(DIMENSION), Moments(DIMENSION)
    moments.add(vectors(30))
    narrow, wide = moments.rotation(2), moments.rotation(4)
    assert len(calls) == 1
    assert np.array_equal(narrow.axes, wide.axes[:, :2])
    moments.add(vectors(30, seed=1))
    for seed in range(2):
        fresh.add(vectors(30, seed=seed))
    assert np.array_equal(moments.rotation(4).axes, fresh.rotation(4).axes)


# -- spool ----------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([None, "b", "a", "é"]), max_size=40))
def test_slots_are_in_order_of_category(categories: list[str | None]) -> None:
    """Within one, neighbours are beside each other, and every picture has one slot."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        rows = vectors(40)[: len(categories)]
        taken = spooled(Path(folder), rows, categories)
        table = spool.sort(taken, Path(folder) / "sorted").slots
        stored = np.fromfile(Path(folder) / "sorted", dtype="<f2").reshape(-1, DIMENSION)
    places = (table.image_pks - 1) // 3
    assert sorted(table.image_pks.tolist()) == [image_pk(i) for i in range(len(rows))]
    assert table.product_pks.tolist() == [product_pk(i) for i in places.tolist()]
    laid = [(c is not None, c or "") for c in (categories[i] for i in places.tolist())]
    assert laid == sorted(laid)
    assert np.array_equal(stored, rows.astype(np.float16)[places])
    assert table.slots_of(table.image_pks).tolist() == list(range(len(rows)))
    assert table.slots_of(np.array([0, 2, 10**9])).tolist() == [-1, -1, -1]
    (start, stop), *_ = [*table.slices({"a"}), (0, 0)]
    wanted = [image_pk(i) for i, c in enumerate(categories) if c == "a"]
    assert sorted(table.image_pks[start:stop].tolist()) == wanted


def test_a_vector_that_is_not_finite_is_named(tmp_path: Path) -> None:
    rows = vectors(9)
    rows[4, 0] = np.inf
    with pytest.raises(BadVectors, match=r"\[13\]"):
        spooled(tmp_path, rows)


# -- overlay --------------------------------------------------------------------------------------


def _change(pk: int, vector: bytes | None) -> ChangedImage:
    return ChangedImage(pk, pk + 100, f"c{pk % 2}", {}, 1, vector)


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(-1, 9)), max_size=8), max_size=30)
)
def test_a_snapshot_stays_what_it_was(batches: list[list[tuple[int, int]]]) -> None:
    """Against a plain dictionary, looked at only after all later changes were made."""
    rows = vectors(10)
    overlay, model = Overlay(DIMENSION, None), dict[int, int]()
    taken = [(overlay.snapshot(), dict(model))]
    for batch in batches:
        newest = dict(batch)
        overlay.apply(
            [_change(pk, None if i < 0 else rows[i].tobytes()) for pk, i in newest.items()]
        )
        model |= newest
        taken.append((overlay.snapshot(), dict(model)))
    for snapshot, then in taken:
        alive = np.flatnonzero(snapshot.rows(None))
        living = {pk: i for pk, i in then.items() if i >= 0}
        assert sorted(snapshot.image_pks[alive].tolist()) == sorted(living)
        for row in alive.tolist():
            expected = half(rows[living[int(snapshot.image_pks[row])]])
            assert np.array_equal(snapshot.vectors[row], expected)
        assert (snapshot.alive, snapshot.changes) == (len(living), len(then))
        odd = snapshot.image_pks[: snapshot.count][snapshot.rows({"c1"})]
        assert sorted(odd.tolist()) == sorted(pk for pk in living if pk % 2)


def test_a_change_hides_the_base_from_later_snapshots_only(tmp_path: Path) -> None:
    table = spool.sort(spooled(tmp_path, vectors(5)), tmp_path / "sorted").slots
    overlay = Overlay(DIMENSION, table)
    before = overlay.snapshot()
    overlay.apply([_change(4, None), _change(999, None)])
    after = overlay.snapshot()
    slots = np.arange(5)
    assert not before.hides(slots).any()
    assert after.hides(slots).tolist() == [pk == 4 for pk in table.image_pks.tolist()]


def test_a_vector_that_cannot_be_searched_is_left_out_and_named() -> None:
    overlay = Overlay(DIMENSION, None)
    bad = vectors(1)[0]
    bad[0] = np.nan
    changes = [_change(1, b"abcd"), _change(2, bad.tobytes()), _change(3, vectors(1)[0].tobytes())]
    assert overlay.apply(changes) == [1, 2]
    assert overlay.snapshot().image_pks[:1].tolist() == [3]


# -- when to rebuild ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (IndexState(None, None, 0, 0, model_changed=False), None),
        (IndexState(None, None, 1, 1, model_changed=False), "first"),
        (IndexState(1, NOW, 9, 0, model_changed=True), "model"),
        (IndexState(1, NOW, 9, 99, model_changed=False), None),
        (IndexState(1, NOW, 9, 100, model_changed=False), "100 changes"),
        (IndexState(1, NOW - timedelta(hours=1), 9, 0, model_changed=False), None),
        (IndexState(1, NOW - timedelta(hours=1), 9, 1, model_changed=False), "3600 s old"),
        (IndexState(1, NOW, 9, 0, model_changed=False, changed_products=999), None),
        (IndexState(1, NOW, 9, 0, model_changed=False, changed_products=1000), "1000 products"),
        (
            IndexState(1, NOW - timedelta(hours=1), 9, 0, model_changed=False, changed_products=1),
            "3600 s old",
        ),
        (IndexState(1, NOW, 9, 0, model_changed=False, damage="cut off"), "cut off"),
        (IndexState(1, NOW, 9, 0, model_changed=True, damage="cut off"), "cut off"),
        (IndexState(None, None, 0, 0, model_changed=False, changed_products=10**6), None),
    ],
)
def test_a_rebuild_is_due(state: IndexState, reason: str | None) -> None:
    limits = RebuildLimits(max_age=timedelta(minutes=30), max_pending=100)
    got = due(state, limits, NOW)
    assert (reason is None and got is None) or (reason is not None and reason in (got or ""))


@pytest.mark.parametrize(
    "state",
    [
        IndexState(None, None, 1, 1, model_changed=False),
        IndexState(1, NOW, 9, 0, model_changed=True),
        IndexState(1, NOW, 9, 100, model_changed=False),
        IndexState(1, NOW - timedelta(hours=1), 9, 1, model_changed=False),
    ],
)
@pytest.mark.parametrize(
    ("failures", "minutes"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 15), (6, 15), (10_000, 15)]
)
def test_a_rebuild_that_failed_is_not_due_at_once(
    state: IndexState, failures: int, minutes: int
) -> None:
    limits = RebuildLimits(max_age=timedelta(minutes=30), max_pending=100)
    for apart, expected in ((timedelta(seconds=1), False), (-timedelta(seconds=1), True)):
        failed_at = NOW - timedelta(minutes=minutes) + apart
        failed = replace(state, failures=failures, failed_at=failed_at)
        assert bool(due(failed, limits, NOW)) is expected
    ahead = replace(state, failures=failures, failed_at=NOW + timedelta(days=1))
    assert due(ahead, limits, NOW)  # a clock that was wrong does not stop the index for a day


@pytest.mark.parametrize(
    ("pending", "changed_products", "damage", "reason"),
    [
        (0, 0, None, None),
        (99, 999, None, None),
        (100, 100, None, "100 changes"),
        (0, 1000, None, "1000 products"),
        (0, 0, "cut off", "cut off"),
    ],
)
def test_what_a_rollback_pinned_is_never_due_but_may_be_outgrown(
    pending: int, changed_products: int, damage: str | None, reason: str | None
) -> None:
    limits = RebuildLimits(max_age=timedelta(minutes=30), max_pending=100)
    state = IndexState(
        1,
        NOW - timedelta(days=1),
        9,
        pending,
        model_changed=False,
        changed_products=changed_products,
        damage=damage,
        pinned=True,
    )
    assert due(state, limits, NOW) is None
    got = outgrown(state, limits)
    assert (reason is None and got is None) or (reason is not None and reason in (got or ""))
    assert outgrown(replace(state, pinned=False), limits) is None


def test_bad_vectors_are_refused_with_what_can_be_done(tmp_path: Path) -> None:
    block = VectorBlock([1, 2], [1, 2], [None, None], [{}, {}], bytes(4 * DIMENSION + 4))
    with pytest.raises(
        BadVectors, match=rf"length\(vector\) <> {4 * DIMENSION}, then add"
    ) as short:
        Spool(tmp_path / "a", DIMENSION, 2).read(iter([block]), lambda _: None)
    block = block._replace(vectors=np.full((2, DIMENSION), np.nan, "<f4").tobytes())
    with pytest.raises(BadVectors, match=r"\[1, 2\].*then add those pictures again") as odd:
        Spool(tmp_path / "b", DIMENSION, 2).read(iter([block]), lambda _: None)
    assert "verify" not in f"{short.value} {odd.value}"
