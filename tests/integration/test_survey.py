"""Figures of the whole service out of real servers, and without one of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from prometheus_client import CollectorRegistry
from redis import Redis

from db.queries import models
from db.session import Database
from producer.settings import ProducerSettings
from producer.transport import client
from tests.services import RedisServer, start_valkey
from tests.unit.worker.index.factories import Shop
from worker import status, survey


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    running = start_valkey(folder=tmp_path)
    yield running
    running.stop()


@pytest.fixture
def registry(
    database: Database, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CollectorRegistry]:
    monkeypatch.setattr(survey, "FRESH", 0.0)
    monkeypatch.setattr(status, "CALM", 0.0)
    settings = ProducerSettings(redis_url=server.url)
    with client(Redis.from_url, settings) as redis:
        registry = CollectorRegistry()
        for part in survey.parts(database, redis):
            registry.register(part)
        yield registry


def figures(registry: CollectorRegistry) -> dict[str, float]:
    return {
        "/".join([sample.name, *sample.labels.values()]): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def test_the_catalogue_and_a_rollout_are_counted(
    database: Database, registry: CollectorRegistry
) -> None:
    assert figures(registry)["lookalike_products"] == 0
    shop = Shop(database)
    shop.fill(5)
    shop.remove("p0")
    found = figures(registry)
    assert (found["lookalike_products"], found["lookalike_images"]) == (4, 4)
    assert (found["lookalike_index_generation"], found["lookalike_pending_changes"]) == (0, 5)
    assert "lookalike_rollout_images/waiting" not in found
    assert "lookalike_index_age_seconds" not in found
    with database.writing() as session:
        other = models.register(session, "e" * 64, "other", 8, {})
        models.begin_rollout(session, other.pk, without_missing=False)
    found = figures(registry)
    assert found["lookalike_rollout_images/waiting"] == 4
    assert found["lookalike_rollout_images/embedded"] == 0
    assert found[f"lookalike_model_info/active/test/{'d' * 12}"] == 1
    assert found[f"lookalike_model_info/incoming/other/{'e' * 12}"] == 1


def test_without_redis_the_catalogue_is_there_all_the_same(
    server: RedisServer, registry: CollectorRegistry
) -> None:
    found = figures(registry)
    assert (found["lookalike_redis_up"], found["lookalike_workers/embed"]) == (1, 0)
    server.stop()
    began = monotonic()
    found = figures(registry)
    assert monotonic() - began < 5
    assert (found["lookalike_redis_up"], found["lookalike_database_up"]) == (0, 1)
    assert "lookalike_ledger_jobs" not in found
    assert found["lookalike_products"] == 0
    server.start()
    assert figures(registry)["lookalike_redis_up"] == 1
