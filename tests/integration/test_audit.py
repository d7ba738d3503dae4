"""`verify` names every way in which catalogue, embeddings, index and overlay can disagree, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import delete, update

from db.models import Embedding, Image, ModelVersion
from db.queries import audit as reads
from db.queries import catalogue, leases, models
from db.queries.catalogue import NewEmbedding
from db.queries.generations import LEASE
from db.session import Database
from tests.integration import damaged_catalogue as damaged
from tests.unit.worker.index.factories import QUICK, Shop, build, vectors
from worker.audit.auditor import Auditor, Report
from worker.audit.findings import MEANING, NOTES, Example, Kind
from worker.index import cleanup
from worker.index.follower import Follower
from worker.index.generation import Generation
from worker.index.rollback import rollback
from worker.index.view import View

KEEP = replace(QUICK, keep=5)


def audit(database: Database, data_dir: Path, limit: int = 1000) -> Report:
    """An audit."""
    return Auditor(database, data_dir, overlay_limit=limit).audit()


def counts(report: Report) -> dict[Kind, int]:
    """How many of each kind were found."""
    return {finding.kind: finding.count for finding in report.findings}


def examples(report: Report, kind: Kind) -> tuple[Example, ...]:
    """Those of a kind that are named."""
    (found,) = [finding for finding in report.findings if finding.kind is kind]
    return found.examples


@pytest.fixture
def shop(database: Database, data_dir: Path) -> Shop:
    """60 products in two generations, with changes since the second, on one database and then on the other."""
    return filled(database, data_dir)


def filled(database: Database, data_dir: Path) -> Shop:
    """60 products in two generations, with changes since the second."""
    shop = Shop(database)
    shop.fill(60)
    build(database, data_dir, KEEP)
    shop.add("p1", vectors(1, seed=3)[0], name="side", category="c1")
    build(database, data_dir, KEEP)
    shop.add("late", vectors(1, seed=4)[0], category="c1")
    shop.add("p5", vectors(1, seed=5)[0], category="c0")
    shop.remove("p6")
    return shop


# -- nothing --------------------------------------------------------------------------------------


def test_a_catalogue_in_order_has_no_gaps(
    shop: Shop, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for block in (4096, 7, 1):
        monkeypatch.setattr(reads, "BLOCK", block)
        monkeypatch.setattr("worker.audit.sight.BLOCK", block)
        report = audit(shop.database, data_dir)
        assert (report.gaps, counts(report)) == (0, {Kind.UNUSED_EMBEDDING: 1})  # p5's old picture
        assert (report.images, report.generation, report.pending) == (61, 2, 3)
        assert report.revision == 5


def test_an_empty_catalogue_and_one_without_an_index_have_none(
    database: Database, data_dir: Path
) -> None:
    report = audit(database, data_dir)
    assert (report.findings, report.images, report.generation, report.model) == ((), 0, None, None)
    shop = Shop(database)
    assert audit(database, data_dir).findings == ()
    shop.fill(5)
    assert audit(database, data_dir).findings == ()


def test_a_generation_that_a_rollback_chose_has_none(shop: Shop, data_dir: Path) -> None:
    rollback(shop.database, data_dir)
    report = audit(shop.database, data_dir)
    assert (report.gaps, report.generation, report.kept.pointer.pinned) == (0, 1, True)


# -- each kind ------------------------------------------------------------------------------------


def no_embedding(shop: Shop, data_dir: Path) -> None:
    damaged.lose_vector(shop, "p3", "late")


def bad_embeddings(shop: Shop, data_dir: Path) -> None:
    unit = shop.items["p4"].pictures["main"]
    damaged.put_vector(shop, "p3", b"abcd")
    damaged.put_vector(shop, "p4", damaged.blob(np.where(unit == unit.max(), np.nan, unit)))
    damaged.put_vector(shop, "p7", damaged.blob(1.01 * shop.items["p7"].pictures["main"]))
    damaged.put_vector(shop, "late", damaged.blob(np.zeros(16, np.float32)))


def not_in_view(shop: Shop, data_dir: Path) -> None:
    """It came back to life without a revision: a backup that was partly restored."""
    shop.remove("p8")
    build(shop.database, data_dir, KEEP)
    damaged.set_image(shop, "p8", removed=False)


def not_live(shop: Shop, data_dir: Path) -> None:
    damaged.set_image(shop, "p9", removed=True)


def not_there(shop: Shop, data_dir: Path) -> None:
    damaged.run(shop.database, delete(Image).where(damaged.image_of("p9")))


def another_vector(shop: Shop, data_dir: Path) -> None:
    damaged.put_vector(shop, "p10", damaged.blob(vectors(1, seed=30)[0]))


def another_product(shop: Shop, data_dir: Path) -> None:
    with shop.database.reading() as session:
        other = catalogue.live_images(session, ["p14"])["p14"].product_pk
    damaged.set_image(shop, "p11", product_pk=other, name="moved")


def another_category(shop: Shop, data_dir: Path) -> None:
    damaged.set_product(shop, "p13", category="c9")
    damaged.set_product(shop, "p14", category=None)


def other_attributes(shop: Shop, data_dir: Path) -> None:
    damaged.set_product(shop, "p17", attributes={"price": 17, "even": True})
    damaged.set_product(shop, "p18", attributes={"price": 18})
    damaged.set_product(shop, "p19", attributes={"price": 19, "even": False, "brand": "new"})
    damaged.set_product(shop, "p20", attributes={"price": "20", "even": True})


def doubled(shop: Shop, data_dir: Path) -> None:
    damaged.double_a_picture(shop.database, data_dir, 2)


def doubled_in_an_earlier_one(shop: Shop, data_dir: Path) -> None:
    damaged.double_a_picture(shop.database, data_dir, 1)


def files_lost(shop: Shop, data_dir: Path) -> None:
    damaged.remove_files(data_dir, 2)


def earlier_files_lost(shop: Shop, data_dir: Path) -> None:
    damaged.remove_files(data_dir, 1)


def a_bit_flipped(shop: Shop, data_dir: Path) -> None:
    damaged.flip(damaged.directory_of(data_dir, 2) / "vectors.f16")


def an_earlier_bit_flipped(shop: Shop, data_dir: Path) -> None:
    damaged.flip(damaged.directory_of(data_dir, 1) / "rotation.npy")


def another_model(shop: Shop, data_dir: Path) -> None:
    damaged.forge(shop.database, data_dir, 1, model_digest="f" * 64)


def another_size(shop: Shop, data_dir: Path) -> None:
    damaged.set_generation(shop.database, 1, images=7)


def pointer_at_a_deleted_one(shop: Shop, data_dir: Path) -> None:
    damaged.set_generation(shop.database, 2, removed_at=datetime.now(UTC))
    damaged.remove_files(data_dir, 2)


def revisions_ahead(shop: Shop, data_dir: Path) -> None:
    damaged.set_image(shop, "p15", revision=900)
    damaged.set_product(shop, "p16", revision=901)


def a_counter_set_back(shop: Shop, data_dir: Path) -> None:
    """Below every change since generation 1, and below generation 2."""
    damaged.set_counter(shop.database, 1)


def left_over(shop: Shop, data_dir: Path) -> None:
    damaged.litter(shop.database, data_dir)


def unused(shop: Shop, data_dir: Path) -> None:
    damaged.add_unused(shop.database, shop.model.pk)


@dataclass(frozen=True)
class Case:
    """A damage, and what is found of it: by kind, how many and whose."""

    damage: Callable[[Shop, Path], None]
    found: dict[Kind, int]
    named: tuple[str, ...] = ()


CASES = [
    Case(no_embedding, {Kind.MISSING_EMBEDDING: 2}, ("p3", "late")),
    Case(bad_embeddings, {Kind.BAD_EMBEDDING: 4}, ("p3", "p4", "p7", "late")),
    Case(not_in_view, {Kind.NOT_IN_VIEW: 1}, ("p8",)),
    Case(not_live, {Kind.NOT_LIVE: 1}, ("p9",)),
    Case(not_there, {Kind.NOT_LIVE: 1}),
    Case(another_vector, {Kind.VECTOR_DIFFERS: 1}, ("p10",)),
    Case(another_product, {Kind.WRONG_PRODUCT: 1, Kind.WRONG_ATTRIBUTES: 1}, ("p14",)),
    Case(another_category, {Kind.WRONG_CATEGORY: 2}, ("p13", "p14")),
    Case(other_attributes, {Kind.WRONG_ATTRIBUTES: 4}, ("p17", "p18", "p19", "p20")),
    Case(doubled, {Kind.DOUBLED: 1, Kind.NOT_IN_VIEW: 1}),
    Case(doubled_in_an_earlier_one, {Kind.DOUBLED: 1}),
    Case(files_lost, {Kind.GENERATION_MISSING: 1}),
    Case(earlier_files_lost, {Kind.GENERATION_MISSING: 1}),
    Case(a_bit_flipped, {Kind.GENERATION_DAMAGED: 1}),
    Case(an_earlier_bit_flipped, {Kind.GENERATION_DAMAGED: 1}),
    Case(another_model, {Kind.GENERATION_MISMATCH: 1}),
    Case(another_size, {Kind.GENERATION_MISMATCH: 1}),
    Case(pointer_at_a_deleted_one, {Kind.POINTER_REMOVED: 1}),
    Case(revisions_ahead, {Kind.REVISION_AHEAD: 2}, ("p15",)),
    Case(left_over, {Kind.LITTER: 2}),
    Case(unused, {Kind.UNUSED_EMBEDDING: 4, Kind.UNUSED_THUMBNAIL: 3}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.damage.__name__)
def test_every_gap_is_named_and_no_other(shop: Shop, data_dir: Path, case: Case) -> None:
    case.damage(shop, data_dir)
    report = audit(shop.database, data_dir)
    found = counts(report)
    if case.damage is not unused:
        found.pop(Kind.UNUSED_EMBEDDING, None)  # p5's old picture, and what the damage left
    assert found == case.found
    assert report.gaps == sum(n for kind, n in case.found.items() if kind not in NOTES)
    kind = next(iter(case.found))
    named = [each.product_id for each in examples(report, kind) if each.product_id]
    assert set(case.named) <= set(named)
    assert len(examples(report, kind)) == min(5, case.found[kind])


def test_a_counter_that_was_set_back_is_found(shop: Shop, data_dir: Path) -> None:
    a_counter_set_back(shop, data_dir)
    report = audit(shop.database, data_dir)
    assert report.count(Kind.REVISION_AHEAD) == 4 + 4 + 1  # pictures, products, generation 2
    details = {each.detail for each in examples(report, Kind.REVISION_AHEAD)}
    assert "product 'p1'" in details


def test_what_is_wrong_with_an_embedding_is_said(shop: Shop, data_dir: Path) -> None:
    bad_embeddings(shop, data_dir)
    found = {
        e.product_id: e.detail for e in examples(audit(shop.database, data_dir), Kind.BAD_EMBEDDING)
    }
    assert found == {
        "p3": "4 bytes, for 16 numbers",
        "p4": "not finite",
        "p7": "of length 1.01",
        "late": "of length 0",
    }


def test_rounding_to_half_precision_is_no_difference(shop: Shop, data_dir: Path) -> None:
    near = shop.items["p10"].pictures["main"].copy()
    near += np.float32(2e-4) * np.abs(near)
    damaged.put_vector(shop, "p10", damaged.blob(near))
    assert audit(shop.database, data_dir).gaps == 0
    near[3] += 2e-3
    near /= np.float32(np.linalg.norm(near))
    damaged.put_vector(shop, "p10", damaged.blob(near))
    assert counts(audit(shop.database, data_dir))[Kind.VECTOR_DIFFERS] == 1


def test_attributes_that_filters_cannot_tell_apart_are_the_same(
    database: Database, data_dir: Path
) -> None:
    shop = Shop(database)
    kinds = {
        "whole": 1,
        "part": 0.5,
        "text": "1",
        "yes": True,
        "no": False,
        "several": [1, "1", True, 1.0, "b", "b"],
        "none": [],
        "great": 2**53 + 1,
        "Größe": "ü😀",
    }
    for i in range(8):
        shop.add(f"p{i}", vectors(8)[i], attributes={**kinds, "own": i, f"only {i}": [i, -i]})
    build(database, data_dir, KEEP)
    assert audit(database, data_dir).findings == ()
    again = {**kinds, "whole": 1.0, "several": ["b", True, 1, "1"], "own": 3, "only 3": [3, -3.0]}
    damaged.set_product(shop, "p3", attributes=again)
    assert audit(database, data_dir).findings == ()
    for name, value in (("whole", True), ("yes", 1), ("text", 1), ("none", [0]), ("own", 3.5)):
        damaged.set_product(shop, "p3", attributes={**again, name: value})
        assert counts(audit(database, data_dir)) == {Kind.WRONG_ATTRIBUTES: 1}, name
    damaged.set_product(shop, "p3", attributes={**again, "own": 4})
    (found,) = examples(audit(database, data_dir), Kind.WRONG_ATTRIBUTES)
    assert found.product_id == "p3"


def test_attributes_that_changed_since_the_index_are_the_overlays(
    shop: Shop, data_dir: Path
) -> None:
    for price in (7, 8):
        vector = shop.items["p21"].pictures["main"]
        shop.add("p21", vector, category="c0", attributes={"price": price})
    assert audit(shop.database, data_dir).gaps == 0


def test_many_of_a_kind_are_counted_and_the_first_are_named(
    shop: Shop, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "BLOCK", 7)
    damaged.run(shop.database, update(Image).where(Image.pk <= 40).values(removed=True))
    report = audit(shop.database, data_dir)
    assert counts(report)[Kind.NOT_LIVE] == 40
    named = [(each.product_id, each.name) for each in examples(report, Kind.NOT_LIVE)]
    assert len(set(named)) == 5


def test_a_picture_without_a_row_is_named_by_its_number(shop: Shop, data_dir: Path) -> None:
    not_there(shop, data_dir)
    (example,) = examples(audit(shop.database, data_dir), Kind.NOT_LIVE)
    assert example.product_id is None
    assert "which the catalogue does not have" in (example.detail or "")


def test_an_overlay_beyond_its_limit_is_a_note(shop: Shop, data_dir: Path) -> None:
    report = audit(shop.database, data_dir, limit=2)
    assert (report.gaps, counts(report)[Kind.OVERLAY_LARGE]) == (0, 3)
    assert Kind.OVERLAY_LARGE not in counts(audit(shop.database, data_dir, limit=3))


def test_a_bad_embedding_of_a_removed_picture_is_found_before_it_comes_back(
    shop: Shop, data_dir: Path
) -> None:
    shop.add("gone", vectors(1, seed=40)[0])
    damaged.put_vector(shop, "gone", b"abcd")
    shop.remove("gone")
    assert counts(audit(shop.database, data_dir))[Kind.BAD_EMBEDDING] == 1
    damaged.run(
        shop.database,
        update(Embedding)
        .where(Embedding.vector == b"abcd")
        .values(vector=damaged.blob(vectors(1, seed=40)[0])),
    )
    assert audit(shop.database, data_dir).gaps == 0


def test_every_kind_has_a_meaning() -> None:
    assert set(MEANING) == set(Kind)
    covered = {kind for case in CASES for kind in case.found}
    assert covered | {Kind.OVERLAY_LARGE} == set(Kind)


def test_where_there_is_no_index_to_map_a_large_catalogue_is_not_taken_into_memory(
    shop: Shop, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.audit.auditor.MOST_WITHOUT_INDEX", 60)
    damaged.remove_files(data_dir, 2)
    report = audit(shop.database, data_dir)
    assert (report.generation, report.pending) == (1, 4)
    damaged.remove_files(data_dir, 1)
    damaged.lose_vector(shop, "p3")
    monkeypatch.setattr("worker.audit.auditor.Follower", None)
    report = audit(shop.database, data_dir, limit=60)
    assert (report.generation, report.pending, report.images) == (None, 61, 61)
    found = counts(report)
    found.pop(Kind.UNUSED_EMBEDDING)
    assert found == {
        Kind.MISSING_EMBEDDING: 1,
        Kind.GENERATION_MISSING: 2,
        Kind.OVERLAY_LARGE: 61,
    }


# -- two models -----------------------------------------------------------------------------------


def test_a_view_of_another_model_is_compared_with_that_models_vectors(
    shop: Shop, data_dir: Path
) -> None:
    with shop.database.writing() as session:
        other = models.register(session, "e" * 64, "other", 8, {})
        session.execute(update(ModelVersion).values(active=False))
        one = update(ModelVersion).where(ModelVersion.pk == other.pk)
        session.execute(one.values(active=True))
        first = NewEmbedding(
            damaged.digest_of(shop, "p3"), 8, damaged.blob(np.eye(8, dtype=np.float32)[0])
        )
        catalogue.add_embeddings(session, other.pk, [first])
    report = audit(shop.database, data_dir)
    assert counts(report) == {Kind.MISSING_EMBEDDING: 60, Kind.UNUSED_EMBEDDING: 1}
    damaged.set_product(shop, "p13", category="c9")
    assert counts(audit(shop.database, data_dir))[Kind.WRONG_CATEGORY] == 1


# -- while the service works ----------------------------------------------------------------------


class Overtaken(Follower):
    """A follower after whose first views the catalogue changes at once."""

    changes: list[Callable[[], None]]

    def refresh(self) -> View:
        view = super().refresh()
        if self.changes:
            self.changes.pop(0)()
        return view


def change_everything(shop: Shop, seed: int) -> None:
    """Additions, removals, other pictures, other categories; all of it committed as the service does."""
    fresh = vectors(4, seed=seed)
    shop.add(f"new{seed}", fresh[0], category="c7")
    shop.add("p20", fresh[1], category="c2")
    shop.add("p21", shop.items["p21"].pictures["main"], category=f"c{seed}")
    shop.add("p22", shop.items["p22"].pictures["main"], category="c1", attributes={"n": seed})
    shop.add("late", fresh[2], name=f"n{seed}")
    shop.remove(f"p{seed}")


def test_what_is_committed_between_view_and_snapshot_is_no_gap(
    shop: Shop, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [partial(change_everything, shop, seed) for seed in (30, 31, 32)]
    monkeypatch.setattr(Overtaken, "changes", changes, raising=False)
    monkeypatch.setattr("worker.audit.auditor.Follower", Overtaken)
    report = audit(shop.database, data_dir)
    assert Overtaken.changes == []
    assert report.gaps == 0, report.findings


def test_a_gap_that_changes_do_not_hide_is_found_all_the_same(
    shop: Shop, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_live(shop, data_dir)
    another_vector(shop, data_dir)
    changes = [partial(change_everything, shop, seed) for seed in (30, 31)]
    monkeypatch.setattr(Overtaken, "changes", changes, raising=False)
    monkeypatch.setattr("worker.audit.auditor.Follower", Overtaken)
    found = counts(audit(shop.database, data_dir))
    found.pop(Kind.UNUSED_EMBEDDING, None)
    assert found == {Kind.NOT_LIVE: 1, Kind.VECTOR_DIFFERS: 1}


def test_a_gap_that_a_swap_closes_is_none(
    shop: Shop, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_live(shop, data_dir)
    another_category(shop, data_dir)
    changes: list[Callable[[], object]] = [lambda: build(shop.database, data_dir, KEEP)]
    monkeypatch.setattr(Overtaken, "changes", changes, raising=False)
    monkeypatch.setattr("worker.audit.auditor.Follower", Overtaken)
    assert audit(shop.database, data_dir).gaps == 0


def test_an_audit_of_a_busy_service_finds_nothing(shop: Shop, data_dir: Path) -> None:
    stop, errors = threading.Event(), []

    def work() -> None:
        try:
            for seed in range(30, 59):
                change_everything(shop, seed)
                if seed % 6 == 0:
                    build(shop.database, data_dir)
                if stop.is_set():
                    return
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        while thread.is_alive():
            report = audit(shop.database, data_dir)
            assert report.gaps == 0, report.findings
    finally:
        stop.set()
        thread.join()
    assert errors == []
    assert audit(shop.database, data_dir).gaps == 0


def test_bytes_are_read_whatever_was_read_of_them_before(
    shop: Shop, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        damaged.rot(data_dir, number, monkeypatch)
    report = audit(shop.database, data_dir)
    assert report.count(Kind.GENERATION_DAMAGED) == 2


def test_what_is_being_built_is_no_litter(shop: Shop, data_dir: Path) -> None:
    found: dict[str, int] = {}

    def meanwhile(step: str) -> None:
        if step in {"begun", "renamed", "published"}:
            found[step] = audit(shop.database, data_dir).gaps

    build(shop.database, data_dir, KEEP, checkpoint=meanwhile)
    assert found == {"begun": 0, "renamed": 0, "published": 0}


def test_what_a_dead_builder_left_is_litter_once_its_lease_ran_out(
    sqlite_database: Database, data_dir: Path
) -> None:
    filled(sqlite_database, data_dir)
    (own, *_) = damaged.litter(sqlite_database, data_dir)
    token = int(own.rpartition("-")[2])
    with sqlite_database.writing() as session:
        for _ in range(2, token):  # the two builds had 1 and 2
            taken = leases.acquire(session, LEASE, "dead", 60)
            assert taken is not None
            if taken == token:
                break
            leases.release(session, LEASE, taken)
    names = [e.detail for e in examples(audit(sqlite_database, data_dir), Kind.LITTER)]
    assert own not in names
    with sqlite_database.writing() as session:
        leases.release(session, LEASE, token)
    names = [e.detail for e in examples(audit(sqlite_database, data_dir), Kind.LITTER)]
    assert own in names


def test_a_generation_that_is_deleted_during_the_audit_is_not_missing(
    shop: Shop, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clean-up may take one that the audit was about to read."""
    build(shop.database, data_dir, KEEP)
    opened = Generation.open.__func__  # type: ignore[attr-defined]

    def slow(cls: type[Generation], directory: Path, *args: object) -> Generation:
        found: Generation = opened(cls, directory, *args)
        cleanup.clean(shop.database, data_dir, 2, token=99)
        return found

    monkeypatch.setattr(Generation, "open", classmethod(slow))
    assert audit(shop.database, data_dir).gaps == 0
    assert damaged.kept(shop.database) == [3, 2]
