"""Starting, dying, stopping and starting again, without losing what was accepted."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis import Redis

from producer import Producer, QueueUnavailable, keys
from tests.services import start_valkey
from tests.stack import embedded, producer_of, running, save_picture, stack_settings
from worker import valkey
from worker.departure import DEAF, OUT_OF_TIME
from worker.up import Service, in_words

WAIT = 90.0


def test_what_was_accepted_survives_a_stop_in_the_middle(tmp_path: Path) -> None:
    settings = stack_settings(tmp_path / "data")
    rows = [
        {"product_id": f"p{seed}", "image": save_picture(tmp_path / f"{seed}.jpg", seed)}
        for seed in range(300)
    ]
    with embedded(settings) as first, producer_of(first) as shop:
        shop.add_many(rows)
    with embedded(settings) as second, producer_of(second) as shop:
        wait_until(lambda: shop.backlog() == 0)
        assert shop.status(timeout=WAIT).products == len(rows)


@pytest.fixture
def watched(tmp_path: Path) -> Service:
    """Settings of a service that is watched by a thread, as `up` does it."""
    return Service(stack_settings(tmp_path / "data"), f"redis://127.0.0.1:{valkey.free_port()}/0")


def test_a_killed_worker_is_started_again_and_goes_on(watched: Service, tmp_path: Path) -> None:
    try:
        watched.start()
        watcher = threading.Thread(target=watched.watch)
        watcher.start()
        with producer_of(watched) as shop:
            add(shop, "before", save_picture(tmp_path / "1.jpg", 1))
            killed = {child.name: child.pid for child in watched.children}
            for pid in killed.values():
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
            wait_until(
                lambda: all(
                    child.pid not in (None, killed[child.name]) for child in watched.children
                )
            )
            add(shop, "after", save_picture(tmp_path / "2.jpg", 2))
            reply = shop.find_similar("after").result(WAIT)
            assert [match.product_id for match in reply.matches] == ["before"]
    finally:
        watched.stop()
        watcher.join()


def test_a_server_that_dies_again_and_again_is_started_again(
    watched: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it cannot be started at first, because its port is taken."""
    monkeypatch.setattr("worker.up.RESTART_PAUSE", 0.1)
    monkeypatch.setattr("worker.up.LONGEST_PAUSE", 0.2)
    try:
        watched.start()
        server = watched.server
        assert server is not None
        watcher = threading.Thread(target=watched.watch)
        watcher.start()
        with producer_of(watched) as shop:
            for number in range(3):
                add(shop, f"p{number}", save_picture(tmp_path / f"{number}.jpg", number))
                killed = server.process
                assert killed is not None
                killed.kill()
                killed.wait()
                with socket.create_server(("127.0.0.1", port_of(watched))):
                    wait_until(lambda: server.due is not None)
                    wait_until(lambda: server.pid is None and server.pause == 0.2)
                wait_until(lambda: server.pid is not None)
                wait_until(lambda: _backlog(shop) == 0)
            assert shop.status(timeout=WAIT).products == 3
    finally:
        watched.stop()
        watcher.join()


def port_of(service: Service) -> int:
    port = urlsplit(service.embedded_url).port
    assert port is not None
    return port


def _backlog(shop: Producer) -> int | None:
    try:
        return shop.backlog()
    except QueueUnavailable:
        return None


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, "never ran"),
        (-9, "signal 9, Killed"),
        (1, "exit code 1"),
        (DEAF, "took no more messages"),
        (OUT_OF_TIME, "grace period"),
    ],
)
def test_an_end_is_said_in_words(code: int | None, words: str) -> None:
    assert words in in_words(code)


def test_children_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    environment = os.environ | stack_settings(tmp_path / "data").environment()
    up = subprocess.Popen(
        [sys.executable, "-c", _UP, str(valkey.free_port())],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert up.stdout is not None
    pids = [int(pid) for pid in up.stdout.readline().split()]
    assert len(pids) == 6
    up.kill()
    up.wait()
    up.stdout.close()
    wait_until(lambda: not any(alive(pid) for pid in pids))


_UP = """
import sys, time
from producer.settings import load
from worker.settings import WorkerSettings
from worker.up import Service
service = Service(load(WorkerSettings), f"redis://127.0.0.1:{sys.argv[1]}/0")
service.start()
print(service.server.pid, *[child.pid for child in service.children], flush=True)
time.sleep(600)
"""


def test_up_stops_on_sigterm_and_says_so(tmp_path: Path) -> None:
    with running(tmp_path / "other") as other:
        environment = os.environ | stack_settings(tmp_path / "data").environment()
        environment["LOOKALIKE_REDIS_URL"] = other.settings.redis_url.get_secret_value()[:-1] + "1"
        up = subprocess.Popen(
            [sys.executable, "-m", "worker", "up"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert up.stdout is not None
        lines = []
        for line in up.stdout:
            lines.append(line)
            if "Ready" in line:
                up.terminate()
        assert up.wait(60) == 0
        up.stdout.close()
    text = "".join(lines)
    assert "catalogue" in text
    assert "Stopped" in text


def add(shop: Producer, product: str, path: Path) -> None:
    """Add and wait until it is applied."""
    assert shop.add(product, path).wait(WAIT).applied == 1


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_until(done: Callable[[], bool]) -> None:
    """Look again and again, for as long as a test may take."""
    deadline = threading.Event()
    timer = threading.Timer(WAIT, deadline.set)
    timer.start()
    try:
        while not done():
            assert not deadline.wait(0.05), "it did not happen in time"
    finally:
        timer.cancel()


def test_work_goes_on_after_redis_was_restarted_under_load(tmp_path: Path) -> None:
    server = start_valkey("--appendonly", "yes", folder=tmp_path)
    service = Service(stack_settings(tmp_path / "data", redis_url=server.url))
    watcher = threading.Thread(target=service.watch)
    try:
        service.start()
        watcher.start()
        with producer_of(service) as shop:
            rows = [
                {"product_id": f"p{seed}", "image": save_picture(tmp_path / f"{seed}.jpg", seed)}
                for seed in range(600)
            ]
            shop.add_many(rows)
            wait_until(lambda: shop.backlog() < 15)
            server.stop()
            server.start()
            wait_until(lambda: shop.backlog() == 0)
            assert shop.status(timeout=WAIT).products == len(rows)
    finally:
        service.stop()
        watcher.join()
        server.stop()


def test_a_message_that_celery_cannot_read_costs_nothing_but_itself(tmp_path: Path) -> None:
    with running(tmp_path / "data") as stack, producer_of(stack) as shop:
        add(shop, "here", save_picture(tmp_path / "1.jpg", 1))
        pids = [child.pid for child in stack.children]
        with Redis.from_url(stack.settings.redis_url.get_secret_value()) as redis:
            for body in (b"5", b'{"a": 1}', b"[[], {}, 5]", b'"text"'):
                redis.lpush(keys.queue("lookup"), envelope(body))
        assert shop.find_similar("here").result(WAIT).matches == ()
        assert [child.pid for child in stack.children] == pids


def envelope(body: bytes) -> str:
    """A message as the broker packs it, of the lookup task, with any body."""
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"lang": "py", "task": "lookalike.lookup", "id": "1", "timelimit": "q"},
            "properties": {
                "body_encoding": "base64",
                "delivery_info": {"exchange": "", "routing_key": "lookup"},
                "delivery_mode": 2,
                "delivery_tag": uuid.uuid4().hex,
                "priority": 0,
            },
        }
    )
