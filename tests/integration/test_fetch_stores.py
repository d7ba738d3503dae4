"""Pictures from a real S3 server, behaved and not: one of our own that checks signatures and counts what it sends.

What needs s3fs is skipped where that is not installed: it is not among the locked versions, as
worker/pyproject.toml explains.
"""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import pytest
from pydantic import SecretStr
from redis import Redis

from producer.errors import SettingsError
from producer.messages import StoreImage
from producer.reasons import Reason
from producer.settings import load
from worker.images import stores
from worker.images.errors import ImageError
from worker.images.fetch import Fetcher, FetchPolicy, Picture
from worker.images.stores import Location, StoreOptions, bucket_rule, store_options
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
KEY, SECRET = "AKIAGEHEIM", "ganz+geheim/secret"
TOKEN = "token-geheim"
LIMIT = 10_000
PNG = b"\x89PNG" + bytes(1000)

Handler = http.server.BaseHTTPRequestHandler
Answer = Callable[[Handler], None]

needs_s3fs = pytest.mark.skipif(find_spec("s3fs") is None, reason="s3fs is not installed")


# -- a server --------------------------------------------------------------------------------------


def signature(request: Handler, secret: str) -> str:
    """The signature that a request should have (AWS Signature Version 4, header form)."""
    fields = dict(
        re.findall(r"(Credential|SignedHeaders)=([^,]+)", request.headers["Authorization"])
    )
    scope = fields["Credential"].partition("/")[2]
    names = fields["SignedHeaders"].split(";")
    path, _, query = request.path.partition("?")
    canonical = "\n".join(
        [
            request.command,
            path,
            query,
            *(f"{name}:{request.headers[name].strip()}" for name in names),
            "",
            fields["SignedHeaders"],
            request.headers["x-amz-content-sha256"],
        ]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    signed = "\n".join(["AWS4-HMAC-SHA256", request.headers["x-amz-date"], scope, digest])
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, signed.encode(), "sha256").hex()


class Store:
    """An S3 server on this machine: objects by `bucket/key`, who asked for what as whom, and bytes sent."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.odd: dict[str, Answer] = {}
        self.public = {"open"}
        self.token: str | None = None
        self.asked: list[tuple[str, str | None]] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.sent = 0
        self.stopping = threading.Event()
        store = self

        class S3(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                store.connections += 1
                super().setup()

            def do_GET(self) -> None:
                store.answer(self)

            do_HEAD = do_GET  # noqa: N815 - what the server calls

            def log_message(self, *_: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), S3)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: Handler) -> None:
        name = unquote(request.path.partition("?")[0].lstrip("/"))
        credential = re.search("Credential=([^/]+)/", request.headers.get("Authorization", ""))
        self.asked.append((name, credential[1] if credential else None))
        self.headers.append({key.lower(): value for key, value in request.headers.items()})
        if refused := self.refusal(request, name, credential):
            self.fail(request, 403, refused)
        elif name in self.odd:
            self.odd[name](request)
        elif name not in self.objects:
            self.fail(request, 404, "NoSuchKey")
        else:
            self.give(request, self.objects[name])

    def refusal(self, request: Handler, name: str, credential: re.Match[str] | None) -> str | None:
        if credential is None:
            return None if name.partition("/")[0] in self.public else "AccessDenied"
        if credential[1] != KEY:
            return "InvalidAccessKeyId"
        if not request.headers["Authorization"].endswith(f"Signature={signature(request, SECRET)}"):
            return "SignatureDoesNotMatch"
        wrong_token = request.headers.get("x-amz-security-token") != self.token
        return "InvalidToken" if wrong_token else None

    def fail(self, request: Handler, code: int, name: str) -> None:
        said = f"<Error><Code>{name}</Code><Message>{KEY} {SECRET}</Message></Error>".encode()
        request.send_response(code)
        request.send_header("Content-Length", str(len(said)))
        request.end_headers()
        request.wfile.write(said)

    def give(self, request: Handler, data: bytes) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if wanted is None:
            return self.give_all(request, data)
        if not data:
            return self.fail(request, 416, "InvalidRange")
        part = data[int(wanted[1]) : int(wanted[2]) + 1]
        request.send_response(206)
        request.send_header("Content-Length", str(len(part)))
        request.send_header("Content-Range", f"bytes 0-{len(part) - 1}/{len(data)}")
        request.end_headers()
        return self.write(request, part)

    def give_all(self, request: Handler, data: bytes) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        self.write(request, data)

    def write(self, request: Handler, data: bytes) -> None:
        request.close_connection = len(data) > LIMIT
        try:
            for start in range(0, len(data), 1 << 16):
                request.wfile.write(data[start : start + (1 << 16)])
                self.sent += len(data[start : start + (1 << 16)])
        except OSError:
            pass


@pytest.fixture
def store() -> Iterator[Store]:
    running = Store()
    running.objects = {"shop/a.png": PNG, "shop/2026/b c+ü.png": PNG, "open/a.png": PNG}
    yield running
    running.stop()


def fetcher(
    store: Store, *buckets: str, timeout: float = 9.0, limit: int = LIMIT, **options: str
) -> Fetcher:
    said = {"s3": {"endpoint_url": store.url} | options}
    policy = FetchPolicy(
        buckets=buckets or ("s3://shop", "s3://open"),
        store_options=SecretStr(json.dumps(said)),
        timeout=timeout,
        connect_timeout=1.0,
        max_bytes=limit,
    )
    return Fetcher(policy, cast(Redis, None))


def get(store: Store, url: str, **options: Any) -> Picture:
    with fetcher(store, **({"key": KEY, "secret": SECRET} | options)) as opened:
        return opened.fetch(StoreImage(url=url))


def refusal(store: Store, url: str, **options: Any) -> ImageError:
    with pytest.raises(ImageError) as caught:
        get(store, url, **options)
    error = caught.value
    assert not re.search("(?i)geheim|secret", f"{error} {error.detail} {error!r}")
    assert error.__cause__ is None
    return error


# -- what is allowed -------------------------------------------------------------------------------

DENIED = [
    "s3://other/a.png",
    "s3://shop2/a.png",
    "s3://shop.other/a.png",
    "gs://shop/2026/a.png",
    "az://shop/2026/a.png",
    "s3://shop/a.png",
    "s3://shop/2026a/b.png",
    "s3://shop/20/26/b.png",
    "s3://shop/2026/../a.png",
    "s3://shop/2026/..",
    "s3://shop/2026/./a.png",
    "s3://shop/2026//a.png",
    "s3://shop//2026/a.png",
    "s3://shop/2026/",
    "s3://shop/",
    "s3://shop",
    "s3:///2026/a.png",
    "s3://shop/2026/%2e%2e/a.png",
    "s3://shop/2026/..%2fa.png",
    "s3://shop/2026/..\\a.png",
    "s3://shop/2026/a\x00.png",
    "s3://shop/2026/a\n.png",
    "s3://shop/2026/a.png?versionId=1",
    "s3://shop/2026/a.png#x",
    "s3://shop/2026/a.zip::file:///etc/passwd",
    "s3://user:pw@shop/2026/a.png",
    "s3://shop:80/2026/a.png",
    "s3://shop../2026/a.png",
    "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/shop/a.png",
    "s3://[::1]/2026/a.png",
    "S3://shop/2026/a.png",
    "zip://2026/a.png::s3://shop/2026/a.zip",
    "file:///etc/passwd",
    "",
]


@pytest.mark.parametrize("url", DENIED)
def test_what_is_not_in_a_listed_bucket_is_never_asked_for(store: Store, url: str) -> None:
    with pytest.raises(ImageError) as caught, fetcher(store, "s3://shop/2026") as opened:
        opened.fetch(StoreImage.model_construct(url=url))
    assert caught.value.reason is Reason.BUCKET_DENIED
    assert not caught.value.transient
    assert store.asked == []


def test_without_a_list_nothing_is_allowed() -> None:
    with pytest.raises(ImageError) as caught, Fetcher(FetchPolicy(), cast(Redis, None)) as opened:
        opened.fetch(StoreImage(url="s3://shop/a.png"))
    assert caught.value.reason is Reason.BUCKET_DENIED
    assert "LOOKALIKE_IMAGE_BUCKETS" in caught.value.detail


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("s3://shop", "s3://shop/a"),
        ("s3://shop/", "s3://shop/a/b"),
        ("s3://shop/a/b/", "s3://shop/a/b/c d+ü%20*[x].png"),
        ("s3://shop/a.png", "s3://shop/a.png"),
        ("gs://my_shop.example", "gs://my_shop.example/a"),
    ],
)
def test_what_is_listed_holds_what_is_below_it(entry: str, url: str) -> None:
    place = Location.parse(url)
    assert bucket_rule(entry).holds(place)
    assert str(place) == url


@pytest.mark.parametrize(
    "entry", ["shop", "http://shop", "az://shop", "s3:shop", "s3://", "s3://*", "s3://a/../b"]
)
def test_an_entry_that_is_none_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="every bucket must"):
        bucket_rule(entry)


@pytest.mark.parametrize(
    "text",
    [
        "geheim",
        '"geheim"',
        '["geheim"]',
        '{"geheim": {}}',
        '{"az": {"key": "geheim"}}',
        '{"s3": "geheim"}',
        '{"s3": {"geheim": "x"}}',
        '{"s3": {"profile": "geheim"}}',
        '{"s3": {"key": "geheim"}}',
        '{"s3": {"secret": "geheim"}}',
        '{"s3": {"token": "geheim"}}',
        '{"s3": {"key": "geheim", "secret": ""}}',
        '{"s3": {"key": "geheim", "secret": 1}}',
        '{"s3": {"endpoint_url": "geheim"}}',
        '{"s3": {"addressing_style": "geheim"}}',
    ],
)
def test_options_that_are_wrong_are_refused_without_repeating_them(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        store_options(text)
    assert "geheim" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_nothing_shows_a_secret(store: Store) -> None:
    said = json.dumps({"s3": {"key": KEY, "secret": SECRET, "token": TOKEN}})
    policy = FetchPolicy(buckets=("s3://shop",), store_options=SecretStr(said))
    with fetcher(store, key=KEY, secret=SECRET) as opened:
        shown = f"{policy!r} {store_options(said)!r} {opened!r} {opened._stores!r}"
    assert not re.search("(?i)geheim", shown)


def test_a_missing_package_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    error = refusal(store, "s3://shop/a.png")
    assert error.reason is Reason.FETCH_FAILED
    assert "pip install s3fs" in error.detail
    assert not error.transient


def test_it_is_not_imported_before_it_is_used() -> None:
    code = "import sys, worker.embedder; print({'s3fs', 'fsspec', 'botocore'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded_by_torch = "{'fsspec'}"
    assert done.stdout.strip() in {"set()", loaded_by_torch}


# -- settings --------------------------------------------------------------------------------------


@pytest.fixture
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in WorkerSettings.model_fields:
        monkeypatch.delenv(f"LOOKALIKE_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_no_settings")
def test_settings_reach_children_as_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = json.dumps({"s3": {"key": KEY, "secret": SECRET}})
    lines = f"LOOKALIKE_IMAGE_BUCKETS=s3://shop/2026, gs://open\nLOOKALIKE_STORE_OPTIONS='{said}'\n"
    (tmp_path / ".env").write_text(lines)
    settings = load(WorkerSettings)
    assert settings.image_buckets == ("s3://shop/2026", "gs://open")
    assert settings.store_options == SecretStr(said)
    assert not re.search("(?i)geheim", f"{settings!r} {settings} {settings.model_dump_json()}")
    (tmp_path / ".env").unlink()
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert load(WorkerSettings) == settings


@pytest.mark.usefixtures("_no_settings")
def test_without_settings_there_are_no_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (load(WorkerSettings).image_buckets, load(WorkerSettings).store_options) == ((), None)
    monkeypatch.setenv("LOOKALIKE_IMAGE_BUCKETS", "")
    assert load(WorkerSettings).image_buckets == ()


@pytest.mark.usefixtures("_no_settings")
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LOOKALIKE_IMAGE_BUCKETS", "s3://shop,geheim"),
        ("LOOKALIKE_IMAGE_BUCKETS", "az://geheim"),
        ("LOOKALIKE_IMAGE_BUCKETS", "s3://key:geheim@shop"),
        ("LOOKALIKE_STORE_OPTIONS", "geheim"),
        ("LOOKALIKE_STORE_OPTIONS", '{"s3": {"password": "geheim"}}'),
        ("LOOKALIKE_STORE_OPTIONS", ""),
    ],
)
def test_settings_that_are_wrong_are_named_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=variable) as caught:
        load(WorkerSettings)
    assert "geheim" not in str(caught.value)
    assert caught.value.__cause__ is None


# -- what is fetched -------------------------------------------------------------------------------


@needs_s3fs
def test_an_object_is_fetched_with_the_keys_of_the_settings(store: Store) -> None:
    picture = get(store, "s3://shop/2026/b c+ü.png")
    assert picture.data == PNG
    assert picture.source == "s3://shop/2026/b c+ü.png"
    assert store.asked == [("shop/2026/b c+ü.png", KEY)]
    assert store.headers[0]["range"] == f"bytes=0-{LIMIT}"


@needs_s3fs
def test_a_token_goes_with_the_keys(store: Store) -> None:
    store.token = TOKEN
    assert get(store, "s3://shop/a.png", token=TOKEN).data == PNG
    assert refusal(store, "s3://shop/a.png").reason is Reason.FETCH_FAILED


@needs_s3fs
def test_without_keys_it_is_asked_anonymously(store: Store) -> None:
    with fetcher(store) as opened:
        assert opened.fetch(StoreImage(url="s3://open/a.png")).data == PNG
        with pytest.raises(ImageError) as caught:
            opened.fetch(StoreImage(url="s3://shop/a.png"))
    assert (caught.value.reason, caught.value.transient) == (Reason.FETCH_FAILED, False)
    assert {who for _, who in store.asked} == {None}


@needs_s3fs
def test_google_is_asked_in_the_same_way(store: Store) -> None:
    said = {"gs": {"endpoint_url": store.url, "key": KEY, "secret": SECRET}}
    policy = FetchPolicy(buckets=("gs://shop",), store_options=SecretStr(json.dumps(said)))
    with Fetcher(policy, cast(Redis, None)) as opened:
        picture = opened.fetch(StoreImage(url="gs://shop/a.png"))
    assert (picture.data, picture.source) == (PNG, "gs://shop/a.png")


@needs_s3fs
@pytest.mark.parametrize("wrong", [{"key": "AKIAOTHER"}, {"secret": "other"}])
def test_wrong_keys_are_a_failure_that_stays(store: Store, wrong: dict[str, str]) -> None:
    error = refusal(store, "s3://shop/a.png", **wrong)
    assert (error.reason, error.transient) == (Reason.FETCH_FAILED, False)
    assert "403" in error.detail
    assert len(store.asked) == 1


@needs_s3fs
def test_keys_are_of_one_fetcher_and_no_other(store: Store) -> None:
    """fsspec would hand the same file system to whoever asks in the same words."""
    with fetcher(store, key=KEY, secret=SECRET) as first, fetcher(store) as second:
        assert first.fetch(StoreImage(url="s3://shop/a.png")).data == PNG
        with pytest.raises(ImageError):
            second.fetch(StoreImage(url="s3://shop/a.png"))
    assert [who for _, who in store.asked] == [KEY, None]


@needs_s3fs
def test_a_host_with_a_name_has_the_bucket_in_the_path(store: Store) -> None:
    url = f"http://localhost:{store.port}"
    assert get(store, "s3://shop/a.png", endpoint_url=url).data == PNG


@needs_s3fs
def test_threads_share_connections_that_are_kept(store: Store) -> None:
    with fetcher(store, key=KEY, secret=SECRET) as opened, ThreadPoolExecutor(16) as pool:
        jobs = [pool.submit(opened.fetch, StoreImage(url="s3://shop/a.png")) for _ in range(200)]
        assert all(job.result().data == PNG for job in jobs)
    assert len(store.asked) == 200
    assert store.connections <= stores.MAX_CONNECTIONS


@needs_s3fs
def test_a_fetcher_that_was_closed_says_so(store: Store) -> None:
    opened = fetcher(store, key=KEY, secret=SECRET)
    opened.fetch(StoreImage(url="s3://shop/a.png"))
    opened.close()
    with pytest.raises(ImageError) as caught:
        opened.fetch(StoreImage(url="s3://shop/a.png"))
    assert caught.value.transient


@needs_s3fs
def test_closing_ends_what_is_being_read(store: Store) -> None:
    def hang(_: Handler) -> None:
        store.stopping.wait(30)

    store.odd["shop/a.png"] = hang
    opened = fetcher(store, key=KEY, secret=SECRET)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(opened.fetch, StoreImage(url="s3://shop/a.png"))
        while not store.asked:
            time.sleep(0.01)
        begun = time.monotonic()
        opened.close()
        with pytest.raises(ImageError) as caught:
            job.result()
    assert caught.value.transient
    assert time.monotonic() - begun < 3


# -- what goes wrong -------------------------------------------------------------------------------


@needs_s3fs
def test_no_such_object(store: Store) -> None:
    error = refusal(store, "s3://shop/nothing.png")
    assert (error.reason, error.transient) == (Reason.NOT_FOUND, False)


@needs_s3fs
def test_an_empty_object(store: Store) -> None:
    store.objects["shop/a.png"] = b""
    assert refusal(store, "s3://shop/a.png").reason is Reason.CORRUPT_IMAGE


@needs_s3fs
@pytest.mark.parametrize(
    ("status", "code", "reason", "transient"),
    [
        (500, "InternalError", Reason.FETCH_FAILED, True),
        (503, "SlowDown", Reason.FETCH_FAILED, True),
        (429, "TooManyRequests", Reason.FETCH_FAILED, True),
        (400, "RequestTimeout", Reason.FETCH_FAILED, True),
        (400, "InvalidArgument", Reason.FETCH_FAILED, False),
        (403, "AccessDenied", Reason.FETCH_FAILED, False),
        (410, "Gone", Reason.NOT_FOUND, False),
        (404, "NoSuchBucket", Reason.NOT_FOUND, False),
        (500, f"{KEY}</Code><Code>{SECRET}", Reason.FETCH_FAILED, True),
    ],
)
def test_what_the_server_says(
    store: Store, status: int, code: str, reason: Reason, transient: bool
) -> None:
    store.odd["shop/a.png"] = lambda request: store.fail(request, status, code)
    error = refusal(store, "s3://shop/a.png")
    assert (error.reason, error.transient) == (reason, transient)
    assert len(store.asked) == 1


@needs_s3fs
def test_a_redirect_to_another_host_is_not_followed(store: Store) -> None:
    elsewhere = Store()

    def redirect(request: Handler) -> None:
        request.send_response(307)
        request.send_header("Location", f"{elsewhere.url}/open/a.png")
        request.send_header("Content-Length", "0")
        request.end_headers()

    store.odd["shop/a.png"] = redirect
    try:
        assert refusal(store, "s3://shop/a.png").reason is Reason.FETCH_FAILED
    finally:
        elsewhere.stop()
    assert elsewhere.asked == []


@needs_s3fs
def test_nobody_listens(store: Store) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        error = refusal(store, "s3://shop/a.png", endpoint_url=url)
    assert (error.reason, error.transient) == (Reason.FETCH_FAILED, True)
    assert "127.0.0.1" not in error.detail


@needs_s3fs
@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1, 200 * LIMIT, 30_000_000])
@pytest.mark.parametrize("ranges", [True, False])
def test_no_more_than_the_limit_is_read(store: Store, size: int, ranges: bool) -> None:
    data = bytes(size)
    store.objects["shop/a.png"] = data
    if not ranges:
        store.odd["shop/a.png"] = lambda request: store.give_all(request, data)
    if size <= LIMIT:
        assert len(get(store, "s3://shop/a.png").data) == size
    else:
        error = refusal(store, "s3://shop/a.png")
        assert (error.reason, error.transient) == (Reason.TOO_LARGE, False)
        # What a server sends that takes no notice of the range stays in the kernel's buffers.
        assert store.sent <= (LIMIT + 1 if ranges else 8_000_000)


def endless(store: Store, block: bytes, pause: float, status: int = 200) -> Answer:
    """A body without an end: a drip with a pause, a flood without."""

    def answer(request: Handler) -> None:
        request.send_response(status)
        request.end_headers()
        request.close_connection = True
        try:
            while not store.stopping.wait(pause):
                request.wfile.write(block)
                store.sent += len(block)
        except OSError:
            pass

    return answer


@needs_s3fs
def test_a_flood_without_a_length(store: Store) -> None:
    store.odd["shop/a.png"] = endless(store, bytes(65536), 0)
    assert refusal(store, "s3://shop/a.png").reason is Reason.TOO_LARGE


@needs_s3fs
@pytest.mark.parametrize("status", [307, 404, 500])
def test_an_error_that_is_explained_without_end(store: Store, status: int) -> None:
    store.odd["shop/a.png"] = endless(store, bytes(65536), 0, status)
    error = refusal(store, "s3://shop/a.png")
    assert (error.reason, error.transient) == (Reason.FETCH_FAILED, True)
    assert store.sent <= 8_000_000


@needs_s3fs
def test_a_drip(store: Store) -> None:
    store.odd["shop/a.png"] = endless(store, b"x", 0.05)
    begun = time.monotonic()
    error = refusal(store, "s3://shop/a.png", timeout=2.0)
    assert (error.reason, error.transient) == (Reason.FETCH_TIMEOUT, True)
    assert time.monotonic() - begun < 9


@needs_s3fs
def test_a_server_that_says_nothing(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        error = refusal(store, "s3://shop/a.png", endpoint_url=url, timeout=2.0)
    assert (error.reason, error.transient) == (Reason.FETCH_TIMEOUT, True)
    assert time.monotonic() - begun < 9


@needs_s3fs
def test_a_body_cut_short_is_tried_again(store: Store) -> None:
    def cut(request: Handler) -> None:
        request.send_response(206)
        request.send_header("Content-Length", "100")
        request.end_headers()
        request.wfile.write(b"half")
        request.close_connection = True

    store.odd["shop/a.png"] = cut
    error = refusal(store, "s3://shop/a.png")
    assert (error.reason, error.transient) == (Reason.FETCH_FAILED, True)


@needs_s3fs
@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Range: bytes x/y\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 500 Odd\r\nContent-Length: 5\r\n\r\n<a><b",
        b"HTTP/1.1 403 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 206 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_odd_answers_are_failures(store: Store, head: bytes) -> None:
    def odd(request: Handler) -> None:
        request.wfile.write(head)
        request.close_connection = True

    store.odd["shop/a.png"] = odd
    assert refusal(store, "s3://shop/a.png").reason is Reason.FETCH_FAILED


# -- the environment -------------------------------------------------------------------------------

SCRIPT = """
import json, os, sys
opened = []
def watch(event, args):
    if event == "open" and str(args[0]).startswith(os.environ["HOME"]):
        opened.append(str(args[0]))
sys.addaudithook(watch)
from pydantic import SecretStr
from producer.messages import StoreImage
from worker.images.fetch import Fetcher, FetchPolicy
from worker.images.stores import StoreOptions, _Loop, _file_system, _session
options, url = SecretStr(sys.argv[1]), sys.argv[2]
with Fetcher(FetchPolicy(buckets=("s3://shop", "s3://open"), store_options=options), None) as fetcher:
    size = len(fetcher.fetch(StoreImage(url=url)).data)
async def endpoint():
    assert await _session().get_credentials() is None
    client = await _file_system("s3", StoreOptions(), 5.0, 1.0).set_session()
    try:
        return client.meta.endpoint_url
    finally:
        await client.close()
loop = _Loop()
where = loop.run(endpoint(), 9.0)
async def nothing(): pass
loop.close(nothing())
print(json.dumps([size, where, opened]))
"""


def hostile_environment(home: Path, trap: str) -> dict[str, str]:
    """Everything that botocore and fsspec are known to listen to, all of it pointing at a trap."""
    (home / ".aws").mkdir(parents=True)
    profile = f"aws_access_key_id = AKIAFILE\naws_secret_access_key = x\nendpoint_url = {trap}\n"
    (home / ".aws/credentials").write_text(f"[default]\n{profile}[other]\n{profile}")
    settings = f"endpoint_url = {trap}\nregion = eu-west-1\ns3 =\n    addressing_style = virtual\n"
    (home / ".aws/config").write_text(f"[default]\n{settings}[profile other]\n{settings}")
    (home / "fsspec").mkdir()
    told = {"username": "AKIAFSSPEC", "password": "x", "endpoint_url": trap, "profile": "other"}
    (home / "fsspec/conf.json").write_text(json.dumps({"s3": told, "s3a": told}))
    model = home / ".aws/models/s3/2006-03-01/service-2.json"
    model.parent.mkdir(parents=True)
    model.write_text("{}")
    (home / "trap.py").write_text("raise RuntimeError('a plugin was imported')")
    proxies = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    return dict.fromkeys(proxies, trap) | {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(home),
        "NO_PROXY": "",
        "AWS_ACCESS_KEY_ID": "AKIAENVIRONMENT",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_SESSION_TOKEN": "x",
        "AWS_PROFILE": "other",
        "AWS_DEFAULT_PROFILE": "other",
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": trap,
        "AWS_ENDPOINT_URL_S3": trap,
        "AWS_CA_BUNDLE": "/nowhere",
        "REQUESTS_CA_BUNDLE": "/nowhere",
        "AWS_USE_FIPS_ENDPOINT": "true",
        "AWS_USE_DUALSTACK_ENDPOINT": "true",
        "AWS_DEFAULTS_MODE": "auto",
        "AWS_EXECUTION_ENV": "trap",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": trap,
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{trap}/credentials",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere",
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/trap",
        "AWS_DATA_PATH": str(home),
        "BOTOCORE_EXPERIMENTAL__PLUGINS": "trap=trap",
        "FSSPEC_CONFIG_DIR": str(home / "fsspec"),
        "FSSPEC_S3_KEY": "AKIAFSSPEC",
        "FSSPEC_S3_SECRET": "x",
        "FSSPEC_S3_ANON": "false",
        "FSSPEC_S3_ENDPOINT_URL": trap,
    }


@needs_s3fs
@pytest.mark.parametrize(
    ("options", "url", "who"),
    [
        ({"key": KEY, "secret": SECRET}, "s3://shop/a.png", KEY),
        ({}, "s3://open/a.png", None),
    ],
)
def test_the_environment_has_no_say(
    store: Store, tmp_path: Path, options: dict[str, str], url: str, who: str | None
) -> None:
    trap = Store()
    home = tmp_path / "home"
    said = json.dumps({"s3": {"endpoint_url": store.url} | options})
    try:
        done = subprocess.run(
            [sys.executable, "-W", "error::ResourceWarning", "-c", SCRIPT, said, url],
            cwd=ROOT,
            env=hostile_environment(home, trap.url),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        trap.stop()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    size, endpoint, opened = json.loads(done.stdout)
    assert size == len(PNG)
    assert endpoint == "https://s3.amazonaws.com"
    assert [who for _, who in store.asked] == [who]
    assert store.headers[0]["user-agent"].startswith("Lookalike ")
    assert "trap" not in json.dumps(store.headers)
    assert trap.connections == 0
    # fsspec reads its own file as it is imported; what that says is not listened to.
    assert [each for each in opened if "/fsspec/" not in each] == []


def test_the_defaults_are_what_they_say() -> None:
    assert store_options(None) == {}
    assert store_options('{"gs": {}}') == {"gs": StoreOptions()}
