"""The endpoint by which a process is watched: it answers, whoever else talks to it, and however."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from producer import endpoint as module
from producer.endpoint import MOST_CONNECTIONS, MOST_HEAD, Endpoint, Verdict, offered

FINE = Verdict(well=True, document={"state": "idle"})


@contextmanager
def serving(
    *,
    metrics: Callable[[str], tuple[str, bytes]] = lambda accept: (accept, b"figures 1\n"),
    live: Callable[[], Verdict] = lambda: FINE,
    ready: Callable[[], Verdict] = lambda: FINE,
) -> Iterator[int]:
    with Endpoint("127.0.0.1", 0, metrics=metrics, live=live, ready=ready) as endpoint:
        yield endpoint.port


def ask(
    port: int, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    told = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    connection.close()
    return told


def test_it_gives_figures_in_the_form_that_is_asked_for() -> None:
    with serving() as port:
        status, headers, body = ask(port, "/metrics?debug=1")
        assert (status, headers["content-type"], body) == (200, "text/plain", b"figures 1\n")
        assert headers["cache-control"] == "no-store"
        accept = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;q=0.5"
        assert ask(port, "/metrics", Accept=accept)[1]["content-type"].startswith(
            "application/openmetrics-text"
        )


def test_what_is_not_well_is_503_and_says_why() -> None:
    stuck = Verdict(well=False, document={"complaints": ["work does not end"]})
    with serving(live=lambda: stuck) as port:
        status, headers, body = ask(port, "/live")
        assert (status, headers["content-type"]) == (503, "application/json")
        assert json.loads(body) == {"complaints": ["work does not end"]}
        assert ask(port, "/ready")[0] == 200


def test_what_it_does_not_have_or_do_is_refused() -> None:
    with serving() as port:
        assert ask(port, "/")[0] == 404
        assert ask(port, "/metrics/")[0] == 404
        status, headers, _ = ask(port, "/metrics", "POST")
        assert (status, headers["allow"]) == (405, "GET, HEAD")
        assert ask(port, "/metrics", "HEAD")[2] == b""


def was_let_go(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n",
        b"GET /metrics\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET " + b"x" * (4 * MOST_HEAD) + b" HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1 more\r\n\r\n",
    ],
    ids=["nothing", "http-0.9", "tls", "long", "words"],
)
def test_rubbish_costs_only_who_sends_it(sent: bytes) -> None:
    with serving() as port:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(sent)
            try:
                answer = client.recv(100)
            except ConnectionResetError:
                answer = b""
            assert answer.startswith(b"HTTP/1.1 400") or not answer
        assert ask(port, "/metrics")[0] == 200


def test_who_sends_nothing_holds_nobody_up_and_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TALK_WITHIN", 0.3)
    with serving() as port, ExitStack() as silent:
        clients = [
            silent.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(MOST_CONNECTIONS // 2)
        ]
        assert ask(port, "/live")[0] == 200
        for each in clients:
            assert was_let_go(each)


def test_a_crowd_that_says_nothing_makes_room_for_who_asks() -> None:
    with serving() as port, ExitStack() as crowd:
        silent = [
            crowd.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(3 * MOST_CONNECTIONS)
        ]
        assert ask(port, "/live")[0] == 200
        assert all(was_let_go(each) for each in silent[: 2 * MOST_CONNECTIONS])


def test_what_fails_or_does_not_end_is_said_and_does_not_hold_up_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN", 0.2)
    release, begun = threading.Event(), []

    def hangs() -> Verdict:
        begun.append(1)
        release.wait(20)
        return FINE

    def fails(_: str) -> tuple[str, bytes]:
        raise ValueError("a bug")

    with serving(metrics=fails, ready=hangs) as port:
        assert ask(port, "/metrics")[0] == 500
        for _ in range(2):
            status, _, body = ask(port, "/ready")
            assert status == 503
            assert "no answer within" in json.loads(body)["problem"]
        assert ask(port, "/live")[0] == 200
        assert begun == [1]  # those who ask share what is begun
        release.set()
        deadline = time.monotonic() + 10
        while ask(port, "/ready")[0] != 200:
            assert time.monotonic() < deadline


def test_a_port_that_is_taken_is_said_and_keeps_nobody_from_working(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parts = {"metrics": lambda _: ("", b""), "live": lambda: FINE, "ready": lambda: FINE}
    with serving() as port, offered("127.0.0.1", port, **parts) as second:  # type: ignore[arg-type]
        assert second is None
    assert "LOOKALIKE_METRICS_PORT" in caplog.text
    with offered("127.0.0.1", None, **parts) as third:  # type: ignore[arg-type]
        assert third is None
