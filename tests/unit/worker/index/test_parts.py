from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.queries.catalogue import ChangedImage, VectorBlock
from tests.unit.worker.index.factories import DIMENSION, half, vectors
from worker.index import annoy_engine, score, spool
from worker.index.annoy_engine import Tree, TreeBuilder
from worker.index.errors import AnnoyBroken, BadVectors, GenerationDamaged
from worker.index.overlay import Overlay
from worker.index.rebuild import IndexState, RebuildLimits, due
from worker.index.rotation import Moments, Rotation
from worker.index.spool import Spool, Spooled

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


# -- annoy ----------------------------------------------------------------------------------------


def test_the_installed_annoy_passes_its_self_test() -> None:
    annoy_engine.self_test()


@pytest.mark.parametrize(
    ("found", "problem"),
    [([[0]] * 64, "returned 1"), ([[0, 1, 2, 3, 4]] * 64, "not the nearest")],
)
def test_a_broken_annoy_is_named_with_the_way_out(found: list[list[int]], problem: str) -> None:
    with pytest.raises(AnnoyBroken, match=problem) as caught:
        annoy_engine.verify_answers(vectors(64, 8), found)
    assert "ANNOY_COMPILER_ARGS" in str(caught.value)


def test_annoy_is_never_given_nan() -> None:
    rows = vectors(4)
    rows[2, 3] = np.nan
    with pytest.raises(BadVectors):
        TreeBuilder(4, DIMENSION, seed=1).add(0, rows)


def _tree(path: Path, rows: score.Vectors, *, jobs: int = 1) -> Path:
    builder = TreeBuilder(len(rows), rows.shape[1], seed=1)
    builder.reserve(rows[-1])
    builder.add(0, rows)
    builder.build(4, jobs)
    builder.save(path)
    return path


@pytest.mark.parametrize("count", [1, 2, 50])
def test_a_tree_finds_all_and_pads(tmp_path: Path, count: int) -> None:
    rows = vectors(count)
    tree = Tree(_tree(tmp_path / "tree.ann", rows), DIMENSION, count)
    slots = tree.search(rows[:1], count + 3, 10_000)
    assert sorted(slots[0].tolist()) == [-1, -1, -1, *range(count)]
    assert slots[0, 0] == 0


def test_the_same_seed_and_one_job_give_the_same_file(tmp_path: Path) -> None:
    rows = vectors(300)
    first, second = _tree(tmp_path / "a", rows), _tree(tmp_path / "b", rows)
    assert first.read_bytes() == second.read_bytes()


def test_a_tree_of_another_count_is_refused(tmp_path: Path) -> None:
    path = _tree(tmp_path / "tree.ann", vectors(20))
    with pytest.raises(GenerationDamaged):
        Tree(path, DIMENSION, 21)


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


# -- spool ----------------------------------------------------------------------------------------


def _blocks(rows: score.Vectors, categories: list[str | None], size: int = 7) -> list[VectorBlock]:
    pks = [3 * i + 1 for i in range(len(rows))]
    return [
        VectorBlock(
            pks[a : a + size],
            [pk + 1000 for pk in pks[a : a + size]],
            categories[a : a + size],
            rows[a : a + size].tobytes(),
        )
        for a in range(0, len(rows), size)
    ]


def _spooled(tmp_path: Path, rows: score.Vectors, categories: list[str | None]) -> Spooled:
    into = Spool(tmp_path / "spool", rows.shape[1], len(rows))
    return into.read(iter(_blocks(rows, categories)), lambda done: None)


@given(st.lists(st.sampled_from([None, "b", "a", "é"]), max_size=40))
def test_slots_are_in_order_of_category_and_image(categories: list[str | None]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        rows = vectors(40)[: len(categories)]
        table = spool.sort(_spooled(Path(folder), rows, categories), Path(folder) / "sorted")
        stored = np.fromfile(Path(folder) / "sorted", dtype="<f2").reshape(-1, DIMENSION)
    keys = [(c is not None, c or "", 3 * i + 1) for i, c in enumerate(categories)]
    assert table.image_pks.tolist() == [pk for _, _, pk in sorted(keys)]
    assert table.product_pks.tolist() == [pk + 1000 for _, _, pk in sorted(keys)]
    assert np.array_equal(stored, rows.astype(np.float16)[(table.image_pks - 1) // 3])
    assert table.slots_of(table.image_pks).tolist() == list(range(len(rows)))
    assert table.slots_of(np.array([0, 2, 10**9])).tolist() == [-1, -1, -1]
    (start, stop), *_ = [*table.slices({"a"}), (0, 0)]
    wanted = [3 * i + 1 for i, c in enumerate(categories) if c == "a"]
    assert table.image_pks[start:stop].tolist() == wanted


def test_a_vector_that_is_not_finite_is_named(tmp_path: Path) -> None:
    rows = vectors(9)
    rows[4, 0] = np.inf
    with pytest.raises(BadVectors, match=r"\[13\]"):
        _spooled(tmp_path, rows, [None] * 9)


# -- overlay --------------------------------------------------------------------------------------


def _change(pk: int, vector: bytes | None) -> ChangedImage:
    return ChangedImage(pk, pk + 100, f"c{pk % 2}", 1, vector)


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
    table = spool.sort(_spooled(tmp_path, vectors(5), [None] * 5), tmp_path / "sorted")
    overlay = Overlay(DIMENSION, table)
    before = overlay.snapshot()
    overlay.apply([_change(4, None), _change(999, None)])
    after = overlay.snapshot()
    slots = np.arange(5)
    assert not before.hides(slots).any()
    assert after.hides(slots).tolist() == [False, True, False, False, False]


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


def test_bad_vectors_are_refused_with_what_can_be_done(tmp_path: Path) -> None:
    block = VectorBlock([1, 2], [1, 2], [None, None], bytes(4 * DIMENSION + 4))
    with pytest.raises(
        BadVectors, match=rf"length\(vector\) <> {4 * DIMENSION}, then add"
    ) as short:
        Spool(tmp_path / "a", DIMENSION, 2).read(iter([block]), lambda _: None)
    block = block._replace(vectors=np.full((2, DIMENSION), np.nan, "<f4").tobytes())
    with pytest.raises(BadVectors, match=r"\[1, 2\].*then add those pictures again") as odd:
        Spool(tmp_path / "b", DIMENSION, 2).read(iter([block]), lambda _: None)
    assert "verify" not in f"{short.value} {odd.value}"
