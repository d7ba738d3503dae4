"""Pictures from a real http server, behaved and not."""

from __future__ import annotations

import gzip
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from redis import Redis

from producer.messages import Reason, UrlImage
from worker.images.errors import ImageError
from worker.images.fetch import Fetcher, FetchPolicy, Picture

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class Site:
    """A server on this machine: what each path answers, and what was asked."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.asked: list[str] = []
        self.connections = 0
        self.stopping = threading.Event()
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                site.connections += 1
                super().setup()

            def do_GET(self) -> None:
                site.asked.append(self.path)
                answers[self.path.partition("?")[0]](self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.stopped = self.stopping  # type: ignore[attr-defined]
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def site(**answers: Answer) -> Iterator[Site]:
    running = Site({f"/{name}": answer for name, answer in answers.items()})
    try:
        yield running
    finally:
        running.stop()


def fetcher(*hosts: str, timeout: float = 5.0, limit: int = 10_000) -> Fetcher:
    policy = FetchPolicy(hosts=hosts, timeout=timeout, connect_timeout=1.0, max_bytes=limit)
    return Fetcher(policy, cast(Redis, None))


def get(url: str, *hosts: str, timeout: float = 5.0) -> Picture:
    with fetcher(*hosts, timeout=timeout) as opened:
        return opened.fetch(UrlImage(url=url))


def refusal(url: str, *hosts: str, timeout: float = 5.0) -> ImageError:
    with pytest.raises(ImageError) as caught:
        get(url, *hosts, timeout=timeout)
    return caught.value


def body(data: bytes, **headers: str) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        for name, value in ({"Content_Length": str(len(data))} | headers).items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(data)

    return answer


def status(code: int, location: str | None = None) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        if location is not None:
            request.send_header("Location", location)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def endless(block: bytes, pause: float) -> Answer:
    """A body without an end: a drip with a pause, a flood without."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        request.close_connection = True
        try:
            while not cast(Any, request.server).stopped.wait(pause):
                request.wfile.write(block)
        except OSError:
            pass

    return answer


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment must not matter: were it used, every test here would fail."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")


def test_a_picture_and_its_source_without_secrets() -> None:
    with site(a=body(b"picture")) as server:
        picture = get(f"http://user:pw@{server.host}/a?token=secret#part", server.host)

    assert picture.data == b"picture"
    assert picture.source == f"http://{server.host}/a"
    assert server.asked == ["/a?token=secret"]


def test_connections_are_kept() -> None:
    with site(a=body(b"picture")) as server, fetcher(server.host) as opened:
        for _ in range(5):
            opened.fetch(UrlImage(url=f"http://{server.host}/a"))

    assert server.connections == 1


@pytest.mark.parametrize(
    ("code", "reason", "transient"),
    [
        (404, Reason.NOT_FOUND, False),
        (410, Reason.NOT_FOUND, False),
        (403, Reason.FETCH_FAILED, False),
        (204, Reason.FETCH_FAILED, False),
        (429, Reason.FETCH_FAILED, True),
        (500, Reason.FETCH_FAILED, True),
        (503, Reason.FETCH_FAILED, True),
    ],
)
def test_statuses(code: int, reason: Reason, transient: bool) -> None:
    with site(a=status(code)) as server:
        error = refusal(f"http://{server.host}/a", server.host)

    assert (error.reason, error.transient) == (reason, transient)


def test_redirects_are_followed_within_reason() -> None:
    with site(
        a=status(302, "/b"), b=status(301, "c"), c=body(b"picture"), d=status(302, "/d")
    ) as server:
        assert get(f"http://{server.host}/a", server.host).source == f"http://{server.host}/c"
        assert refusal(f"http://{server.host}/d", server.host).reason is Reason.FETCH_FAILED

    assert server.asked.count("/d") == 4


@pytest.mark.parametrize(
    "location", ["http://169.254.169.254/latest", "http://127.0.0.1:9/", "http://localhost:9/"]
)
def test_redirects_inwards_are_refused(location: str) -> None:
    with site(a=status(302, location)) as server:
        assert refusal(f"http://{server.host}/a", server.host).reason is Reason.BLOCKED_ADDRESS


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/", "gopher://x/", "http://"]
)
def test_redirects_to_other_kinds_are_refused(location: str) -> None:
    with site(a=status(302, location)) as server:
        assert not refusal(f"http://{server.host}/a", server.host).transient


@pytest.mark.parametrize(
    "spelling",
    [
        *("127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "0.0.0.0"),
        *("[::1]", "[::ffff:127.0.0.1]", "[::]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "0"),
        *(
            "169.254.169.254",
            "10.0.0.1",
            "192.168.0.1",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "224.0.0.1",
        ),
        *("100.64.0.1", "198.18.0.1", "255.255.255.255", "127.0.0.1.", "LOCALHOST"),
    ],
)
def test_special_addresses_in_every_spelling(
    spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled: list[object] = []
    monkeypatch.setattr(socket, "create_connection", lambda *where, **_: dialled.append(where))

    assert refusal(f"http://{spelling}/", "*").reason in {
        Reason.BLOCKED_ADDRESS,
        Reason.FETCH_FAILED,
    }
    assert dialled == []


def names(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
    """Let every name resolve to these addresses, one list after the other."""
    left = list(answers)

    def resolve(_host: str, port: int, *_: object, **__: object) -> list[Any]:
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_one_private_address_among_public_ones_refuses_all(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, ["93.184.215.14", "127.0.0.1"])

    assert refusal("http://cdn.example/", "*").reason is Reason.BLOCKED_ADDRESS


def test_the_checked_address_is_the_one_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that turns to this machine after its first lookup gains nothing: there is no second."""
    names(monkeypatch, ["93.184.215.14"], ["127.0.0.1"])
    dialled: list[object] = []

    def dial(where: tuple[str, int], *_: object, **__: object) -> socket.socket:
        dialled.append(where[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", dial)

    assert refusal("http://cdn.example/", "*").transient
    assert dialled == ["93.184.215.14"]


def test_a_host_that_nobody_listed() -> None:
    error = refusal("http://cdn.example/")

    assert error.reason is Reason.BLOCKED_ADDRESS
    assert "LOOKALIKE_IMAGE_HOSTS" in error.detail


def test_a_listed_name_may_be_private_but_not_link_local(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, ["169.254.169.254"])

    assert refusal("http://cdn.example/", "cdn.example").reason is Reason.BLOCKED_ADDRESS


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
        error = refusal(f"http://{host}/", host)

    assert error.reason is Reason.FETCH_FAILED
    assert error.transient


@pytest.mark.parametrize("block", [b"x" * 65536, b"x"])
def test_a_body_without_end(block: bytes) -> None:
    pause = 0.0 if len(block) > 1 else 0.02
    with site(a=endless(block, pause)) as server:
        begun = time.monotonic()
        error = refusal(f"http://{server.host}/a", server.host, timeout=0.5)

    assert error.reason is (Reason.TOO_LARGE if len(block) > 1 else Reason.FETCH_TIMEOUT)
    assert time.monotonic() - begun < 3


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        error = refusal(f"http://{host}/", host, timeout=0.3)

    assert error.reason is Reason.FETCH_TIMEOUT
    assert error.transient


def test_a_length_over_the_limit_is_believed() -> None:
    with site(a=body(b"", Content_Length="10001")) as server:
        assert refusal(f"http://{server.host}/a", server.host).reason is Reason.TOO_LARGE


def test_a_body_cut_short_is_tried_again() -> None:
    def cut(request: http.server.BaseHTTPRequestHandler) -> None:
        body(b"half", Content_Length="100")(request)
        request.close_connection = True

    with site(a=cut) as server:
        error = refusal(f"http://{server.host}/a", server.host)

    assert error.reason is Reason.FETCH_FAILED
    assert error.transient


def test_the_limit_counts_after_decompression() -> None:
    bomb, small = gzip.compress(bytes(5_000_000)), gzip.compress(b"picture")
    with site(
        a=body(bomb, Content_Encoding="gzip"), b=body(small, Content_Encoding="gzip")
    ) as server:
        assert refusal(f"http://{server.host}/a", server.host).reason is Reason.TOO_LARGE
        assert get(f"http://{server.host}/b", server.host).data == b"picture"


def test_unknown_and_broken_compression() -> None:
    answers = {"a": body(b"x", Content_Encoding="br"), "b": body(b"x", Content_Encoding="gzip")}
    with site(**answers) as server:
        assert refusal(f"http://{server.host}/a", server.host).reason is Reason.FETCH_FAILED
        assert refusal(f"http://{server.host}/b", server.host).reason is Reason.CORRUPT_IMAGE


@pytest.mark.parametrize("url", ["http://[::1", "http:///x", "http://exa mple/", "http://x:99999/"])
def test_addresses_that_are_none(url: str) -> None:
    assert not refusal(url, "*").transient
