"""Pictures from a real http server, behaved and not."""

from __future__ import annotations

import gzip
import http.server
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import httpcore
import httpx
import pytest
from redis import Redis

from producer.messages import UrlImage
from producer.reasons import Reason
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
        found = get(f"http://{server.host}/a", server.host)
        # What was asked for: only that can be asked for again, or compared with what a shop says.
        assert (found.data, found.source) == (b"picture", f"http://{server.host}/a")
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


ODD = [
    *(
        "http://a:port/",
        "http://a:-1/",
        "http://a:99999/",
        "http://a:8 0/",
        "//a:port/x",
        "http://[::1",
    ),
    *(
        "http://[::1]:x/",
        "//[",
        "http://[v1.x]/",
        "http://[]/",
        "http://",
        "http:///",
        "http:",
        "https:///x",
    ),
    *(
        "http://xn--a/",
        "http://xn--zz--/",
        "http://xn--/",
        "http://a..b/",
        "http://.a/",
        "http://./",
    ),
    *(
        "http://" + "a" * 300 + "/",
        "http://" + "a" * 70 + ".b/",
        "http://\u2100/",
        "http://\u00ff\u00fe/",
    ),
    *(
        "http://a b/",
        "http://a\\b/",
        "http://a%00b/",
        "http://%31/",
        "http://a_b\x7f/",
        "http://user@:80/",
    ),
    *("http://@/", "http://a@b@c/", "http://1.2.3.4.5/", "http://256.256.256.256/", "http://0x/"),
    *(
        "javascript:alert(1)",
        "data:image/png;base64,AA",
        "file:///etc/passwd",
        "ftp://a/",
        "ws://a/",
    ),
    *(
        "http://a/\x01",
        "/" + "x" * 5000,
        "/%",
        "/%zz",
        "/\x80\xff",
        "?",
        "#",
        "",
        " ",
        "\\\\a\\b",
        ":80/",
        "::",
    ),
]


@pytest.mark.parametrize("location", ODD)
def test_odd_redirects_are_answers_like_any_other(
    location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception of another kind would be taken for a fault of ours."""
    names(monkeypatch, ["127.0.0.1"])

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        data = location.encode("latin-1", "ignore").replace(b"\n", b"")
        request._headers_buffer.append(b"Location: " + data + b"\r\nContent-Length: 0\r\n")  # type: ignore[attr-defined]
        request.end_headers()

    class Answers(dict[str, Answer]):
        def __missing__(self, path: str) -> Answer:
            return answer if path == "/a" else status(404)

    running = Site(Answers())
    try:
        error = refusal(f"http://{running.host}/a", running.host, "*")
    finally:
        running.stop()
    assert error.reason in {
        *(Reason.FETCH_FAILED, Reason.BLOCKED_ADDRESS, Reason.NOT_FOUND),
    }
    assert not error.transient


@pytest.mark.parametrize("url", [each for each in ODD if each.startswith("http")])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_odd_addresses_are_refused(url: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, ["93.184.215.14"])

    def dial(*_: object, **__: object) -> socket.socket:
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", dial)
    with pytest.raises(ImageError), fetcher("*") as opened:
        opened.fetch(UrlImage.model_construct(url=url.replace("http:", f"{scheme}:", 1)))


@pytest.mark.parametrize(
    "head",
    [
        *(
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        ),
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: odd\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        *(b"HTTP/1.1 200 OK\r\n\xff\xfe: \x00\r\n\r\n", b"HTTP/1.1 200 OK\r\n: x\r\n\r\n"),
        *(
            b"HTTP/9.9 999 ?\r\n\r\n",
            b"HTTP/1.1 -5 x\r\n\r\n",
            b"\x16\x03\x01",
            b"",
            b"SSH-2.0-x\r\n",
        ),
        *(
            b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
            b"HTTP/1.1 302 Found\r\nLocation:\r\n\r\n",
        ),
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: \xff\r\nContent-Length: 1\r\n\r\nx",
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_odd_answers_are_refused(head: bytes, scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as odd:

        def serve() -> None:
            while True:
                try:
                    connection, _ = odd.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    try:
                        connection.recv(65536)
                        connection.sendall(head)
                    except OSError:
                        pass

        threading.Thread(target=serve, daemon=True).start()
        host = f"127.0.0.1:{odd.getsockname()[1]}"
        assert refusal(f"{scheme}://{host}/a", host).reason is Reason.FETCH_FAILED
        odd.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (ssl.SSLError("bad record"), True),
        (ssl.CertificateError("not you"), True),
        (UnicodeError("label too long"), False),
        (ValueError("odd header"), True),
        (RuntimeError("cannot schedule new futures after shutdown"), True),
        (httpcore.LocalProtocolError("Illegal target"), False),
        (httpcore.RemoteProtocolError("Illegal status"), True),
        (httpcore.UnsupportedProtocol("odd"), False),
        (httpx.InvalidURL("odd"), False),
    ],
)
def test_what_the_layers_below_raise(
    error: Exception, transient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(httpcore.ConnectionPool, "handle_request", fail)
    refused = refusal("http://cdn.example/", "*")
    assert (refused.reason, refused.transient) == (Reason.FETCH_FAILED, transient)


def test_a_name_that_does_not_decode_is_still_named_in_the_refusal() -> None:
    """`xn--a` cannot be shown in its own letters: saying that it cannot be asked must not fail too."""
    assert "xn--a:" in refusal("http://xn--a/", "*").detail
