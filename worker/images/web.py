"""Fetch a picture from an http(s) address without being led anywhere that the operator did not allow."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import certifi
import httpcore
import httpx

from producer.reasons import Reason
from worker.carrying import CarryingExecutor
from worker.images.addresses import is_public, may_be_listed
from worker.images.errors import ImageError

MAX_REDIRECTS: Final = 3
MAX_URL: Final = 4096
_PORTS: Final = {"http": 80, "https": 443}
_HEADERS: Final = (
    ("User-Agent", "Lookalike"),
    ("Accept", "image/*"),
    ("Accept-Encoding", "identity"),
)
_HOST: Final = re.compile(r"[A-Za-z0-9._:-]{1,255}")
_RETRYABLE: Final = {408, 425, 429, 500, 502, 503, 504}
_UNASKABLE: Final = (
    # A request that cannot be written, now or later; a UnicodeError is also what TLS says of the name "a..b".
    *(httpcore.LocalProtocolError, httpcore.UnsupportedProtocol, httpx.InvalidURL),
    *(UnicodeError, OverflowError),
)
_UNANSWERED: Final = (
    # ssl.SSLError is an OSError; ValueError is what odd headers raise; RuntimeError and CancelledError a pool
    # that is closed meanwhile.
    *(httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError, OSError),
    *(ValueError, RuntimeError, CancelledError),
)


@dataclass(frozen=True)
class HostRules:
    """Which hosts may be asked: `name`, `name:port`, `*.domain` or `*`."""

    hosts: tuple[str, ...]

    def listed(self, host: str, port: int) -> bool:
        """Whether the operator named this very host, which vouches for private addresses too."""
        names = {each.lower() for each in self.hosts}
        return f"{host}:{port}" in names or (host in names and port in _PORTS.values())

    def allowed(self, host: str, port: int) -> bool:
        """Whether this host may be asked at all, at some address."""
        if self.listed(host, port):
            return True
        if port not in _PORTS.values():
            return False
        domains = [each.lower()[1:] for each in self.hosts if each.startswith("*.")]
        return "*" in self.hosts or any(host.endswith(domain) for domain in domains)


class Web:
    """Gets pictures over http(s); keeps connections to hosts it was allowed to dial. Thread-safe."""

    def __init__(
        self, rules: HostRules, max_bytes: int, timeout: float, connect_timeout: float
    ) -> None:
        self._rules = rules
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._deadline = _Deadline()
        self._resolver = CarryingExecutor(4, "resolver")
        # Nothing is read from the environment: no proxy, no netrc, no certificates from a variable.
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl.create_default_context(cafile=certifi.where()),
            max_connections=64,
            max_keepalive_connections=16,
            keepalive_expiry=15.0,
            retries=0,
            network_backend=_CheckedDialer(rules, self._deadline, self._resolver),
        )

    def get(self, url: str) -> tuple[bytes, str]:
        """Return the body, and the address as it may be kept (`bare`); raise ImageError."""
        self._deadline.at = time.monotonic() + self._timeout
        target = self._allowed(_parsed(url))
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._asked(target)
            if isinstance(answer, bytes):
                return answer, bare(url)
            target = self._allowed(_parsed(answer, target))
        raise ImageError(Reason.FETCH_FAILED, f"more than {MAX_REDIRECTS} redirects")

    def close(self) -> None:
        """Close kept connections."""
        self._pool.close()
        self._resolver.shutdown(wait=False, cancel_futures=True)

    def _allowed(self, target: httpx.URL) -> httpx.URL:
        if not self._rules.allowed(_host(target).rstrip("."), _port(target)):
            raise ImageError(
                Reason.BLOCKED_ADDRESS,
                f"{_host(target)}:{_port(target)} is not a host that the worker may ask; name it in "
                "LOOKALIKE_IMAGE_HOSTS",
            )
        return target

    def _asked(self, target: httpx.URL) -> bytes | str:
        """What `_request` returns, and an ImageError for everything that it and the layers below raise."""
        try:
            return self._request(target)
        except httpcore.TimeoutException:
            raise _timed_out(self._timeout) from None
        except _UNASKABLE as error:
            raise _failed(target, error, transient=False) from None
        except _UNANSWERED as error:
            raise _failed(target, error, transient=True) from None

    def _request(self, target: httpx.URL) -> bytes | str:
        """The body, or where a redirect points."""
        request = httpcore.Request(
            "GET",
            httpcore.URL(
                scheme=target.raw_scheme,
                host=target.raw_host,
                port=target.port,
                target=target.raw_path,
            ),
            headers=[("Host", target.netloc.decode("ascii")), *_HEADERS],
            extensions={"timeout": self._timeouts()},
        )
        response = self._pool.handle_request(request)
        try:
            return self._answer(response)
        finally:
            response.close()

    def _timeouts(self) -> dict[str, float]:
        """Limits of single operations; the dialer holds them all to the deadline."""
        return {
            "connect": self._connect_timeout,
            "read": self._timeout,
            "write": self._timeout,
            "pool": self._timeout,
        }

    def _answer(self, response: httpcore.Response) -> bytes | str:
        headers = {name.lower(): value for name, value in response.headers}
        if response.status in {301, 302, 303, 307, 308} and b"location" in headers:
            return headers[b"location"].decode("latin-1")
        if response.status != 200:
            raise _refused(response.status)
        if int(headers.get(b"content-length", b"0")) > self._max_bytes:
            raise _too_large(self._max_bytes)
        blocks = _decompressed(
            response.iter_stream(), headers.get(b"content-encoding", b"identity")
        )
        return self._limited(blocks)

    def _limited(self, blocks: Iterable[bytes]) -> bytes:
        body = bytearray()
        for block in blocks:
            body += block
            if len(body) > self._max_bytes:
                raise _too_large(self._max_bytes)
        return bytes(body)


def _decompressed(blocks: Iterable[bytes], encoding: bytes) -> Iterator[bytes]:
    """Undo a compression that we did not ask for, never more than 64 KiB at a time."""
    encoding = encoding.strip().lower()
    if encoding in {b"", b"identity"}:
        yield from blocks
        return
    if encoding not in {b"gzip", b"x-gzip", b"deflate"}:
        raise ImageError(
            Reason.FETCH_FAILED, "the answer is compressed in a way that is not read here"
        )
    inflate = zlib.decompressobj(wbits=47)
    try:
        for block in blocks:
            rest = block
            while rest and not inflate.eof:
                yield inflate.decompress(rest, 1 << 16)
                rest = inflate.unconsumed_tail
            if inflate.eof:
                return
    except zlib.error:
        raise ImageError(Reason.CORRUPT_IMAGE, "the answer's compression is broken") from None
    raise ImageError(Reason.CORRUPT_IMAGE, "the answer's compression is cut off")


def _parsed(url: str, base: httpx.URL | None = None) -> httpx.URL:
    """An http(s) address, where there is a `base` as a redirect from there; raises ImageError (fetch_failed)."""
    try:
        if len(url) <= MAX_URL:
            target = httpx.URL(url) if base is None else base.join(url)
            if target.scheme in _PORTS and _HOST.fullmatch(_host(target)):
                return target
    except (
        httpx.InvalidURL,
        ValueError,
    ):  # UnicodeError, of bad names and surrogates, is a ValueError
        pass
    what = "this is not" if base is None else "it leads on to what is not"
    raise ImageError(Reason.FETCH_FAILED, f"{what} an http(s) address of a picture") from None


def _host(url: httpx.URL) -> str:
    """The name in its ASCII form: `URL.host` decodes, and raises on a name like `xn--a`."""
    return url.raw_host.decode("ascii").lower()


def _port(url: httpx.URL) -> int:
    return url.port or _PORTS[url.scheme]


def bare(url: str) -> str:
    """The address without what may be secret: user, password, query, fragment. May raise ImageError."""
    return str(_parsed(url).copy_with(username="", password="", query=None, fragment=None))


def _too_large(limit: int) -> ImageError:
    return ImageError(Reason.TOO_LARGE, f"more than {limit:,} bytes")


def _timed_out(timeout: float) -> ImageError:
    detail = f"not fetched within {timeout:g} s (LOOKALIKE_FETCH_TIMEOUT)"
    return ImageError(Reason.FETCH_TIMEOUT, detail, transient=True)


def _failed(target: httpx.URL, error: Exception, *, transient: bool) -> ImageError:
    detail = f"{_host(target)}:{_port(target)} cannot be asked: {type(error).__name__}"
    return ImageError(Reason.FETCH_FAILED, detail, transient=transient)


def _refused(status: int) -> ImageError:
    if status in {404, 410}:
        return ImageError(Reason.NOT_FOUND, f"the server answered {status}")
    return ImageError(
        Reason.FETCH_FAILED, f"the server answered {status}", transient=status in _RETRYABLE
    )


# -- dialling -------------------------------------------------------------------------------------


class _Deadline(threading.local):
    """When the fetch of the calling thread has to be done, by the monotonic clock."""

    at: float = 0.0

    def within(self, timeout: float | None) -> float:
        """`timeout` cut to what is left; raises httpcore.ReadTimeout when nothing is."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left if timeout is None else min(timeout, left)


class _CheckedDialer(httpcore.NetworkBackend):
    """Resolves a name, checks every address it has, and dials one that was checked."""

    def __init__(self, rules: HostRules, deadline: _Deadline, resolver: ThreadPoolExecutor) -> None:
        self._rules = rules
        self._deadline = deadline
        self._resolver = resolver
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Dial; raises ImageError (blocked_address) when any address of the name is off limits."""
        failure: Exception = httpcore.ConnectError("the name has no address")
        for address in self._checked(host, port, timeout):
            try:
                left = self._deadline.within(timeout)
                stream = self._sockets.connect_tcp(
                    address, port, left, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
                continue
            return _DeadlineStream(stream, self._deadline)
        raise failure

    def _checked(self, host: str, port: int, timeout: float | None) -> list[str]:
        addresses = self._resolve(host, port, timeout)
        listed = self._rules.listed(host.lower().rstrip("."), port)
        permitted = may_be_listed if listed else is_public
        # All of them: a name with one public and one private address is up to no good.
        if not all(permitted(address) for address in addresses):
            raise ImageError(
                Reason.BLOCKED_ADDRESS,
                f"{host} leads to an address that is not public; if it is yours, name it in LOOKALIKE_IMAGE_HOSTS",
            )
        return addresses

    def _resolve(self, host: str, port: int, timeout: float | None) -> list[str]:
        """Look the name up, in a thread because the system's resolver knows no time limit."""
        lookup = self._resolver.submit(
            socket.getaddrinfo, host.strip("[]"), port, type=socket.SOCK_STREAM
        )
        try:
            found = lookup.result(self._deadline.within(timeout))
        except TimeoutError:
            raise httpcore.ConnectTimeout from None
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from None
        return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


class _DeadlineStream(httpcore.NetworkStream):
    """A connection whose every read and write ends at the deadline of the thread that uses it."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.within(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.within(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = self._deadline.within(timeout)
        stream = self._stream.start_tls(ssl_context, server_hostname, left)
        return _DeadlineStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
