"""What is counted of jobs and questions, and what is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from producer.ids import new_id
from producer.ledger import Claim
from producer.messages import (
    Answer,
    AnswerState,
    AsOf,
    BatchReply,
    BytesImage,
    Failure,
    IngestChunk,
    ItemFailure,
    Match,
    Outcome,
    PathImage,
    PictureLookup,
    ProductLookup,
    Question,
    Removal,
    RemoveChunk,
    Reply,
    SearchPath,
    Selection,
    StatusRequest,
    TasteLookup,
)
from producer.messages import ImageItem as Item
from producer.reasons import Reason
from worker import measures
from worker.measures import REGISTRY, Drift

PICTURE = BytesImage(key="0" * 64)
DONE = Answer(state=AnswerState.DONE, reply="{}")


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def added(work: Callable[[], object], name: str, **labels: str) -> float:
    """What a figure grows by."""
    before = value(name, **labels)
    work()
    return value(name, **labels) - before


def reply(path: SearchPath = "annoy", matches: int = 12, generation: int = 1) -> Reply:
    found = tuple(
        Match(product_id=f"p{i}", name="main", distance=0.1 + 0.01 * i) for i in range(matches)
    )
    as_of = AsOf(revision=1, at=datetime.now(UTC))
    return Reply(
        matches=found, generation=generation, model_version="m", as_of=as_of, pending=0, path=path
    )


def products(*ids: str, **selection: object) -> ProductLookup:
    chosen = Selection(**selection)  # type: ignore[arg-type]
    return ProductLookup(id=new_id(), expires_at=1e12, product_ids=ids or ("a",), selection=chosen)


def pictures(*images: BytesImage, **more: object) -> PictureLookup:
    given = images or (PICTURE,)
    return PictureLookup(id=new_id(), expires_at=1e12, images=given, **more)  # type: ignore[arg-type]


# -- jobs -----------------------------------------------------------------------------------------


def chunk(ago: float, count: int = 3) -> Claim[IngestChunk]:
    items = tuple(
        Item(product_id=f"p{i}", image=PathImage(path="/a.jpg"), version=1) for i in range(count)
    )
    job = IngestChunk(id=new_id(), accepted_at=time.time() - ago, items=items)
    return Claim(job, 1, 0)


def failure(reason: Reason, retried_as: str | None = None) -> ItemFailure:
    return ItemFailure(product_id="p", name="main", reason=reason, detail="", retried_as=retried_as)


def test_items_are_counted_by_what_became_of_them() -> None:
    failures = (
        failure(Reason.NOT_FOUND),
        failure(Reason.FETCH_TIMEOUT, new_id()),
        failure(Reason.FETCH_TIMEOUT, new_id()),
    )
    outcome = Outcome(applied=2, failures=failures)

    def work() -> None:
        measures.ended(chunk(ago=70), outcome)

    assert added(work, "lookalike_items_applied_total", kind="add") == 2
    assert added(work, "lookalike_items_failed_total", reason="fetch_timeout") == 2
    assert added(work, "lookalike_items_given_up_total", reason="fetch_timeout") == 0
    assert added(work, "lookalike_items_given_up_total", reason="not_found") == 1
    assert added(work, "lookalike_committed_seconds_count") == 2
    assert added(work, "lookalike_committed_seconds_bucket", le="60.0") == 0
    assert added(work, "lookalike_committed_seconds_bucket", le="300.0") == 2


def test_removals_are_counted_apart_and_a_clock_ahead_counts_as_now() -> None:
    job = RemoveChunk(
        id=new_id(), accepted_at=time.time() + 50, items=(Removal(product_id="p", version=1),)
    )

    def work() -> None:
        measures.ended(Claim(job, 1, 0), Outcome(applied=1))

    assert added(work, "lookalike_items_applied_total", kind="remove") == 1
    assert added(work, "lookalike_committed_seconds_bucket", le="0.05") == 1


def test_a_stage_that_fails_is_not_timed() -> None:
    def work() -> None:
        with pytest.raises(OSError, match="gone"), measures.stage("fetch"):
            raise OSError("gone")

    assert added(work, "lookalike_stage_seconds_count", stage="fetch") == 0


# -- questions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        (products("a"), "product"),
        (products("a", "b"), "batch"),
        (TasteLookup(id=new_id(), expires_at=1e12, liked=("a",)), "taste"),
        (pictures(), "picture"),
        (StatusRequest(id=new_id(), expires_at=1e12), None),
    ],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
def test_kinds_of_lookups(question: Question, kind: str | None) -> None:
    assert measures.kind_of(question) == kind


def test_the_path_of_a_batch_is_that_of_all_or_mixed() -> None:
    assert measures.path_of(reply("exact")) == "exact"
    assert measures.path_of(BatchReply(replies=(reply("annoy"), reply("annoy")))) == "annoy"
    assert measures.path_of(BatchReply(replies=(reply("annoy"), reply("subset")))) == "mixed"
    assert measures.path_of(BatchReply(replies=(), not_found=("a",))) == "none"
    assert measures.path_of(None) == "none"


def test_a_lookup_is_timed_and_one_that_fails_is_counted_by_its_reason() -> None:
    question = products("a")

    def answer() -> None:
        measures.answered(question, measures.begun(question), reply("category"), DONE)

    def fail() -> None:
        failed = Failure(reason=Reason.UNAVAILABLE, detail="")
        none = Answer(state=AnswerState.FAILED, failure=failed)
        measures.answered(question, measures.begun(question), None, none)

    def expire() -> None:
        measures.answered(question, 0.0, None, Answer(state=AnswerState.EXPIRED))

    timed = {"kind": "product", "path": "category"}
    assert added(answer, "lookalike_lookup_seconds_count", **timed) == 1
    assert added(answer, "lookalike_lookup_queued_seconds_count", kind="product") == 1
    failures = "lookalike_lookup_failures_total"
    assert added(fail, failures, kind="product", reason="unavailable") == 1
    assert added(expire, failures, kind="product", reason="expired") == 1
    assert added(fail, "lookalike_lookup_seconds_count", **timed) == 0


def test_other_questions_are_no_lookups() -> None:
    question = StatusRequest(id=new_id(), expires_at=1e12)

    def answer() -> None:
        measures.answered(question, measures.begun(question), Outcome(applied=0), DONE)

    assert added(answer, "lookalike_question_seconds_count", question="status") == 1


# -- distances ------------------------------------------------------------------------------------


def distances_noted(question: Question, answer: Reply | BatchReply, rank: str) -> float:
    def work() -> None:
        measures.answered(question, measures.begun(question), answer, DONE)

    return added(work, "lookalike_match_distance_count", rank=rank)


def test_distances_are_those_of_lookups_without_conditions() -> None:
    assert distances_noted(products("a", limit=12), reply(), "1") == 1
    assert distances_noted(products("a"), reply(), "10") == 1
    assert distances_noted(products("a"), reply(matches=9), "10") == 0
    assert distances_noted(products("a"), reply(matches=0), "1") == 0
    assert distances_noted(pictures(), reply(), "1") == 1
    for conditions in (
        {"where": {"category": "dress"}}, {"diversity": 0.5}, {"min_similarity": 0.5},
        {"collapse": 0.1}, {"at_most": {"brand": 1}},
    ):  # fmt: skip
        assert distances_noted(products("a", **conditions), reply(), "1") == 0
    assert distances_noted(pictures(PICTURE, PICTURE), reply(), "1") == 0
    assert distances_noted(pictures(liked=("a",)), reply(), "1") == 0


def test_of_a_large_batch_some_are_noted() -> None:
    batch = BatchReply(replies=(reply(),) * 100)
    noted = distances_noted(products(*(f"p{i}" for i in range(100))), batch, "1")
    assert noted == measures.MOST_OBSERVED


def noted(drift: Drift, generation: int, *distances: float, model: str = "m") -> float | None:
    for distance in distances:
        drift.note(model, generation, distance)
    return drift.ratio


def test_drift_is_the_mean_of_the_last_lookups_over_that_when_the_generation_came() -> None:
    drift = Drift(samples=4)
    assert noted(drift, 7, 0.1, 0.3, 0.2) is None
    assert noted(drift, 7, 0.2) == pytest.approx(1.0)
    assert noted(drift, 7, 0.5, 0.5, 0.5, 0.5) == pytest.approx(2.5)
    assert noted(drift, 8, 0.5) == pytest.approx(1.0)  # that is how it was when 8 came
    assert noted(drift, 8, 0.25, 0.25, 0.25, 0.25) == pytest.approx(0.5)


def test_a_generation_that_finds_worse_matches_drifts_from_its_beginning() -> None:
    drift = Drift(samples=2)
    noted(drift, 7, 0.2, 0.2)
    assert noted(drift, 8, 0.6) == pytest.approx(2.0)


def test_another_model_begins_anew() -> None:
    drift = Drift(samples=2)
    assert noted(drift, 7, 0.2, 0.2, 0.4, 0.4) == pytest.approx(2.0)
    assert noted(drift, 8, 0.9, model="other") is None
    assert noted(drift, 8, 0.9, model="other") == pytest.approx(1.0)


def test_where_all_nearest_are_the_same_there_is_no_drift_to_say() -> None:
    assert noted(Drift(samples=1), 7, 0.0, 0.3) is None
