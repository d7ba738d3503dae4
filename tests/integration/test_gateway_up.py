"""The HTTP gateway beside the workers: `lookalike-worker up` starts it, stops it, and does without it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from redis import Redis

from tests.services import free_port
from tests.stack import MODEL
from worker import front
from worker.front import Front
from worker.lookout import Lookout
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
START_TIMEOUT = 120.0


def test_up_starts_it_on_loopback_and_stops_it(empty_valkey_url: str, tmp_path: Path) -> None:
    port, lookout = free_port(), _free_lookout()
    variables = {
        "LOOKALIKE_REDIS_URL": empty_valkey_url, "LOOKALIKE_MODEL": MODEL, "PYTHONPATH": str(ROOT),
        "LOOKALIKE_METRICS_PORT": str(lookout.ports["embed"]),
        "LOOKALIKE_HTTP_PORT": str(port), "LOOKALIKE_DATA_DIR": str(tmp_path / "data"),
    }  # fmt: skip
    log = tmp_path / "up.log"
    with log.open("wb") as output:
        up = subprocess.Popen(
            [sys.executable, "-m", "worker", "up"],
            env=os.environ | variables, cwd=tmp_path, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
            _wait_for(http, up, log)
            said = http.post("/lookups?wait=20", json={"product_id": "nowhere"}).json()
            assert (said["state"], said["not_found"]) == ("done", ["nowhere"])
            for name, where in lookout.ports.items():
                live = httpx.get(f"http://127.0.0.1:{where}/live", timeout=20)
                assert (live.status_code, live.json()["role"]) == (200, name)
            up.send_signal(signal.SIGTERM)
            assert up.wait(60) == 0
            with pytest.raises(httpx.ConnectError):
                http.get("/health")
    finally:
        up.kill()
        up.wait()
    assert f"http://127.0.0.1:{port}/lookbook/" in log.read_text()
    assert lookout.shown in log.read_text()


def _free_lookout() -> Lookout:
    """Six free ports side by side."""
    while True:
        found = Lookout.of(WorkerSettings(metrics_port=min(free_port(), 65_000)))
        if found.ports:
            return found


def _wait_for(http: httpx.Client, up: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            assert http.get("/health").status_code == 200
        except httpx.ConnectError:
            assert up.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        else:
            return


def test_a_port_that_is_taken_is_said_and_breaks_nothing(
    monkeypatch: pytest.MonkeyPatch, valkey_url: str, tmp_path: Path
) -> None:
    with Redis.from_url(valkey_url) as redis:
        taken = redis.connection_pool.connection_kwargs["port"]
    monkeypatch.setenv("LOOKALIKE_HTTP_PORT", str(taken))
    found = Front.of(tmp_path)
    assert found.child is None
    assert f"not started: port {taken} of 127.0.0.1 is taken" in found.shown
    assert "LOOKALIKE_HTTP_PORT" in found.shown


def test_without_its_packages_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(front, "NEEDED", ("fastapi", "no_such_package"))
    found = Front.of(tmp_path)
    assert found.child is None
    assert "no_such_package (pip install 'lookalike[http]')" in found.shown


def test_another_address_is_not_for_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOOKALIKE_HTTP_HOST", "0.0.0.0")
    monkeypatch.setenv("LOOKALIKE_HTTP_PORT", "0")
    found = Front.of(tmp_path)
    assert found.child is not None
    assert found.child.command[-4:-1] == ["--host", "127.0.0.1", "--port"]
