"""The recall of the live index is measured on real lookups, and costs them nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from db.session import Database
from tests.unit.worker.index.factories import (
    QUICK,
    Shop,
    build,
    by_picture,
    found,
    prefer_the_index,
    vectors,
)
from worker import sampling
from worker.index import builder
from worker.index.follower import Follower
from worker.lookup import Answerer
from worker.measures import REGISTRY
from worker.sampling import Sample, Sampler, recall

POOR = replace(QUICK, trees=1, search_k=1, rerank=12, reduce_to=2)
"""An index that finds few of the nearest."""


class Keeping(Sampler):
    """Keeps the samples that it takes."""

    def __init__(self) -> None:
        super().__init__(1e-9, lambda: False)
        self.samples: list[Sample] = []

    def offer(self, make: Callable[[], Sample]) -> None:
        self.samples.append(make())


@pytest.fixture
def shop(sqlite_database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr(builder, "check_in_child", lambda *_: None)  # tested elsewhere, and slow
    prefer_the_index(monkeypatch)
    shop = Shop(sqlite_database)
    shop.fill(600, seed=5)
    build(sqlite_database, data_dir, POOR)
    return shop


def test_it_is_the_share_of_the_true_ten_nearest(shop: Shop, data_dir: Path) -> None:
    sampler = Keeping()
    answers = Answerer(shop.database, Follower(shop.database, data_dir), sampler)
    measured, true = [], []
    for product in [f"p{i}" for i in range(40)]:
        got = {other for other, _ in found(answers, product)}
        nearest = {other for other, _ in shop.nearest(product, 10)}
        true.append(len(got & nearest) / 10)
        share = recall(sampler.samples[-1])
        assert share is not None
        measured.append(share[0])
        assert share[1].startswith("annoy")
    assert measured == pytest.approx(true)
    assert 0.1 < np.mean(true) < 0.95  # else it would tell nothing


def test_it_is_measured_under_the_lookups_own_conditions(shop: Shop, data_dir: Path) -> None:
    sampler = Keeping()
    answers = Answerer(shop.database, Follower(shop.database, data_dir), sampler)
    found(answers, "p1", where={"category": "c1"}, limit=3)
    by_picture(answers, vectors(1, seed=9)[0], where={"even": True})
    for sample in sampler.samples:
        assert recall(sample) is not None
    assert sampler.samples[0].ask.conditions.categories == frozenset({"c1"})
    found(answers, "p1", where={"category": "nowhere"})
    assert recall(sampler.samples[-1]) is None


def count() -> float:
    family = next(
        each for each in REGISTRY.collect() if each.name == "lookalike_sampled_recall_ratio"
    )
    return sum(s.value for s in family.samples if s.name.endswith("_count"))


def test_at_most_one_is_taken_in_its_time_and_none_while_the_process_is_busy(
    shop: Shop, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = threading.Event()
    real = sampling.recall
    at_peace = threading.Event()

    def noting(sample: Sample) -> tuple[float, str] | None:
        assert at_peace.is_set()
        result = real(sample)
        measured.set()
        return result

    monkeypatch.setattr(sampling, "recall", noting)
    asked = threading.Event()

    def is_busy() -> bool:
        asked.set()
        return not at_peace.is_set()

    with Sampler(3600.0, is_busy) as sampler:
        answers = Answerer(shop.database, Follower(shop.database, data_dir), sampler)
        before = count()
        for product in ("p1", "p2", "p3"):
            found(answers, product)
        assert asked.wait(20)
        assert not measured.is_set()
        at_peace.set()
        assert measured.wait(20)
    assert count() == before + 1


def test_after_one_that_took_long_there_is_a_long_rest(
    shop: Shop, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def long(_: Sample) -> tuple[float, str]:
        begun.set()
        threading.Event().wait(0.05)
        return 1.0, "annoy"

    monkeypatch.setattr(sampling, "recall", long)
    with Sampler(1e-9, lambda: False) as sampler:
        before = sampler._due
        found(Answerer(shop.database, Follower(shop.database, data_dir), sampler), "p1")
        assert begun.wait(20)
    assert sampler._due > before + 0.05 * sampling.REST


def test_with_0_nothing_is_measured(shop: Shop, data_dir: Path) -> None:
    with Sampler(0.0, lambda: False) as sampler:
        sampler.offer(lambda: pytest.fail("nothing is to be taken"))


def test_what_fails_is_logged_and_the_next_is_measured(
    shop: Shop, data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed, went_on = threading.Event(), threading.Event()

    def fails(_: Sample) -> tuple[float, str]:
        if not failed.is_set():
            failed.set()
            raise ValueError("a bug")
        went_on.set()
        return 1.0, "annoy"

    monkeypatch.setattr(sampling, "recall", fails)
    monkeypatch.setattr(sampling, "REST", 0)
    with Sampler(1e-9, lambda: False) as sampler:
        answers = Answerer(shop.database, Follower(shop.database, data_dir), sampler)
        found(answers, "p1")
        assert failed.wait(20)
        found(answers, "p2")
        assert went_on.wait(20)
    assert "recall was not measured" in caplog.text
