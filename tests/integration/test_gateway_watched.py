"""The gateway's figures and health: on a port of their own, without a key, with nothing that a client chooses."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from producer.ids import new_id
from tests.http import Gateway, gateway
from tests.services import RedisServer, free_port, start_valkey

ROUTE = "/lookups/{lookup_id}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    running = start_valkey(folder=tmp_path_factory.mktemp("watched-valkey"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def running(
    server: RedisServer, port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("watched-gateway")
    with gateway(server.url, folder, metrics_port=port) as started:
        yield started


def samples(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def requests(port: int, method: str, route: str, status: str) -> float:
    labels = (("method", method), ("route", route), ("status", status))
    return samples(port).get(("lookalike_http_requests_total", labels), 0.0)


def test_requests_are_counted_by_address_and_status(running: Gateway, port: int) -> None:
    before = requests(port, "GET", ROUTE, "404"), requests(port, "other", "other", "404")
    with running.client() as http_client:
        for _ in range(3):
            assert http_client.get(f"/lookups/{new_id()}").status_code == 404
    for path in ("/nowhere", "/nowhere/else"):
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
        connection.request("BREW", path)
        connection.getresponse().read()
        connection.close()
    found = samples(port)
    assert requests(port, "GET", ROUTE, "404") == before[0] + 3
    assert requests(port, "other", "other", "404") == before[1] + 2
    observed = found["lookalike_http_request_seconds_count", (("method", "GET"), ("route", ROUTE))]
    assert observed >= 3
    assert not any("nowhere" in value for _, labels in found for _, value in labels)


def test_who_waits_is_counted(running: Gateway, port: int) -> None:
    with running.client() as shop:
        asked = shop.post("/lookups", json={"product_id": "nobody answers"})
        with shop.stream("GET", asked.headers["location"] + "/events"):
            deadline = time.monotonic() + 10
            while samples(port)["lookalike_http_mailbox_watchers", ()] < 1:
                assert time.monotonic() < deadline
    found = samples(port)
    assert found["lookalike_http_pool_threads", (("pool", "asking"),)] > 0
    assert found["lookalike_http_pool_requests", (("pool", "loading"),)] == 0


def test_the_public_port_shows_no_figures(running: Gateway) -> None:
    with running.client() as shop:
        assert shop.get("/metrics").status_code == 404


def test_it_says_that_it_is_ready_and_that_it_is_not(
    server: RedisServer, running: Gateway, port: int
) -> None:
    url = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{url}/ready").json() == {
        "role": "gateway",
        "redis": "ok",
        "state": "consuming",
    }
    assert httpx.get(f"{url}/live").status_code == 200
    server.stop()
    try:
        away = httpx.get(f"{url}/ready", timeout=20)
        assert away.status_code == 503
        assert "cannot be used" in away.json()["redis"]
        assert httpx.get(f"{url}/live").status_code == 200
    finally:
        server.start()


def test_a_stuck_gateway_says_nothing_or_that_it_is_stuck(
    server: RedisServer, tmp_path: Path
) -> None:
    """Stopped as a whole it cannot answer at all: that counts as stuck for whoever asks."""
    port = free_port()
    with gateway(server.url, tmp_path, metrics_port=port) as started:
        assert httpx.get(f"http://127.0.0.1:{port}/live").json()["state"] == "working"
        os.kill(started.process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(httpx.TimeoutException):
                httpx.get(f"http://127.0.0.1:{port}/live", timeout=0.5)
        finally:
            os.kill(started.process.pid, signal.SIGCONT)
        assert json.loads(httpx.get(f"http://127.0.0.1:{port}/live").text)["state"] == "working"
