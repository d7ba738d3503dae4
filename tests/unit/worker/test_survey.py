"""Figures of the whole service: no scrape waits for a server that is away, or asks twice for the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from redis.exceptions import ConnectionError as RedisAway

from worker import survey
from worker.survey import FRESH, Part


class Source:
    """Something that figures are looked up in."""

    def __init__(self) -> None:
        self.looks = 0
        self.trouble: Exception | None = None
        self.now = 0.0
        self.free = threading.Event()
        self.free.set()

    def look(self) -> Iterator[Metric]:
        self.looks += 1
        assert self.free.wait(20)
        if self.trouble is not None:
            raise self.trouble
        yield GaugeMetricFamily("lookalike_thing", "A thing.", value=self.looks)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def read(source: Source) -> Callable[[], tuple[float | None, float | None]]:
    """Whether the source is up, and the figure."""
    registry = CollectorRegistry()
    registry.register(Part("source", source.look, clock=lambda: source.now))
    assert source.looks == 0  # nothing is looked up to register it

    def read() -> tuple[float | None, float | None]:
        found = {
            sample.name: sample.value for family in registry.collect() for sample in family.samples
        }
        return found.get("lookalike_source_up"), found.get("lookalike_thing")

    return read


Read = Callable[[], tuple[float | None, float | None]]


def test_figures_are_good_for_a_moment(source: Source, read: Read) -> None:
    assert read() == (1, 1)
    source.now += FRESH / 2
    assert read() == (1, 1)
    source.now += FRESH
    assert read() == (1, 2)


@pytest.mark.parametrize("trouble", [RedisAway("refused"), ValueError("a bug")], ids=type)
def test_what_fails_is_away_and_comes_back(source: Source, read: Read, trouble: Exception) -> None:
    assert read() == (1, 1)
    source.trouble = trouble
    source.now += 2 * FRESH
    assert read() == (0, None)
    source.trouble = None
    source.now += 2 * FRESH
    assert read() == (1, 3)


def test_what_hangs_is_away_and_asked_only_once(
    source: Source, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "PATIENCE", 0.05)
    source.free.clear()
    assert [read(), read(), read()] == [(0, None)] * 3
    assert source.looks == 1
    monkeypatch.setattr(survey, "PATIENCE", 20.0)
    source.free.set()
    source.now += 2 * FRESH
    assert read()[0] == 1
