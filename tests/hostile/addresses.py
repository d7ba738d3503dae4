"""Addresses that must not be dialled, in every spelling, and servers that mean no good."""

from __future__ import annotations

import gzip
import http.server
import itertools
import socket
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv4Address
from typing import Any

import pytest

from producer.reasons import Reason
from tests.integration.test_fetch_web import Answer, body, endless, status

PUBLIC = "93.184.215.14"
ANY = ("*",)


# -- addresses ------------------------------------------------------------------------------------

INNER = {
    "loopback": "127.0.0.1",
    "loopback elsewhere": "127.254.3.4",
    "zero": "0.0.0.0",
    "class A": "10.1.2.3",
    "class B": "172.16.0.9",
    "class C": "192.168.1.1",
    "carrier": "100.64.0.1",
    "link-local": "169.254.1.1",
    "metadata": "169.254.169.254",
    "metadata of Alibaba": "100.100.100.200",
    "metadata of Azure": "168.63.129.16",
    "metadata of Oracle": "192.0.0.192",
    "multicast": "224.0.0.1",
    "multicast, source-specific": "239.255.255.250",
    "benchmarks": "198.18.0.1",
    "documentation": "203.0.113.7",
    "relay of 6to4": "192.88.99.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
}
INNER_V6 = (
    *("::", "::1", "fc00::1", "fd12:3456::1", "fe80::1", "fec0::1", "ff02::1", "ff0e::1"),
    *("fd00:ec2::254", "fd20:ce::254", "fd00:42::42", "2001:db8::1", "2001::1", "2001:10::1"),
    *("3fff::1", "100::1", "5f00::1", "4000::1", "2620:4f:8000::1"),
    *("0:0:0:0:0:0:0:1", "0000:0000:0000:0000:0000:0000:0000:0001"),
)


@dataclass(frozen=True)
class Address:
    """An address of a picture that leads nowhere that may be asked."""

    name: str
    url: str
    reason: Reason = Reason.BLOCKED_ADDRESS
    transient: bool = False
    hosts: tuple[str, ...] = ANY
    dialled: tuple[str, ...] = ()
    """What may be connected to; for a name that has a public address."""


def spellings(address: str) -> Iterator[tuple[str, str]]:
    """A name and a host part for each way to write an IPv4 address that some parser understands."""
    number = int(IPv4Address(address))
    a, b, c, d = address.split(".")
    octal = ".".join(f"0{int(part):o}" for part in (a, b, c, d))
    hexed = ".".join(f"{int(part):#x}" for part in (a, b, c, d))
    high, low = f"{number >> 16:x}", f"{number & 0xFFFF:x}"
    yield from (("dotted", address), ("decimal", str(number)), ("hex", f"{number:#x}"))
    yield from (("HEX", f"0X{number:X}"), ("octal", f"0{number:o}"), ("dotted octal", octal))
    yield from (("dotted hex", hexed), ("mixed", f"{int(a):#x}.{b}.0{int(c):o}.{d}"))
    yield "padded octal", ".".join(f"{int(part):08o}" for part in (a, b, c, d))
    yield from (
        ("two parts", f"{a}.{number & 0xFFFFFF}"),
        ("three parts", f"{a}.{b}.{number & 0xFFFF}"),
    )
    yield from (
        ("wide dots", address.replace(".", "。")),
        ("with a user", f"cdn.example@{address}"),
    )
    yield from (("with a password", f"cdn.example:80@{address}"), ("with a port", f"{address}:80"))
    yield from (("mapped", f"[::ffff:{address}]"), ("mapped in hex", f"[::ffff:{high}:{low}]"))
    yield from (
        ("mapped at length", f"[0:0:0:0:0:ffff:{high}:{low}]"),
        ("compatible", f"[::{address}]"),
    )
    yield from (("translated", f"[::ffff:0:{address}]"), ("nat64", f"[64:ff9b::{high}:{low}]"))
    yield from (
        ("nat64 dotted", f"[64:ff9b::{address}]"),
        ("local nat64", f"[64:ff9b:1::{high}:{low}]"),
    )
    yield from (("6to4", f"[2002:{high}:{low}::1]"), ("teredo", f"[2001:0:{high}:{low}::1]"))


MALFORMED = ("dotted octal", "padded octal")
"""Spellings that are no address to begin with: four numbers with a zero before them."""
SHORT = ("0", "127.1", "127.0.1", "0x7f.1", "0177.1", "10.1", "0x0", "00", "0.0", "4294967295")
NAMES: Mapping[str, Sequence[Sequence[str]]] = {
    "localhost": [["127.0.0.1", "::1"]],
    "localhost.": [["127.0.0.1"]],
    "private.example": [["10.0.0.1"]],
    "metadata.google.internal": [["169.254.169.254"]],
    "127.0.0.1.nip.example": [["127.0.0.1"]],
    "127.0.0.1.": [["127.0.0.1"]],
    "mixed.example": [[PUBLIC, "127.0.0.1"]],
    "mixed-last.example": [[PUBLIC, "93.184.215.15", "2606:4700::1111", "fd00:ec2::254"]],
    "mixed-first.example": [["::ffff:127.0.0.1", PUBLIC]],
    "zone.example": [["fe80::1%eth0"]],
    "rebinding.example": [[PUBLIC], ["127.0.0.1"]],
    "rebinding-back.example": [["127.0.0.1"], [PUBLIC]],
    "nothing.example": [[]],
    "xn--bcher-kva.example": [["192.168.0.1"]],
}
"""What names resolve to, at their first look-up and at later ones."""
LISTED = ("listed.example", "listed.example:8080")


def addresses() -> list[Address]:
    """Every address of the table."""
    return [*_numbers(), *_named(), *_odd()]


def _numbers() -> Iterator[Address]:
    for what, address in INNER.items():
        for how, spelled in spellings(address):
            reason = Reason.FETCH_FAILED if how in MALFORMED else Reason.BLOCKED_ADDRESS
            yield Address(f"{what}, {how}", f"http://{spelled}/a.jpg", reason)
        yield Address(f"{what}, over TLS", f"https://{address}/a.jpg")
    for address in INNER_V6:
        yield Address(address, f"http://[{address}]/a.jpg")
    for host in SHORT:
        yield Address(f"short {host}", f"http://{host}/a.jpg")
    yield Address(
        "a link-local address with its zone", "http://[fe80::1%25eth0]/", Reason.FETCH_FAILED
    )
    for port in (22, 25, 6379, 8080, 5432):
        yield Address(f"a public address, port {port}", f"http://{PUBLIC}:{port}/")


def _named() -> Iterator[Address]:
    unresolved = {"nothing.example": (Reason.FETCH_FAILED, True, ())}
    public = {"rebinding.example": (Reason.FETCH_FAILED, True, (PUBLIC,))}
    for name in NAMES:
        reason, transient, dialled = (unresolved | public).get(
            name, (Reason.BLOCKED_ADDRESS, False, ())
        )
        yield Address(name, f"http://{name}/a.jpg", reason, transient, dialled=dialled)
    yield Address("capitals", "http://LOCALHOST/a.jpg")
    yield Address("another alphabet", "http://b\u00fccher.example/a.jpg")
    yield Address("not listed", "http://cdn.example/a.jpg", hosts=("other.example",))
    yield Address(
        "a domain that ends alike", "http://evil-shop.example/", hosts=("*.shop.example",)
    )
    yield Address("nobody is listed", f"http://{PUBLIC}/a.jpg", hosts=())
    for host in ("169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "0.0.0.0"):
        yield Address(f"{host} though listed", f"http://{host}/", hosts=(host,))
    google = "metadata.google.internal"
    yield Address("metadata behind a listed name", f"http://{google}/", hosts=(google,))
    private = ("private.example", "private.example:8080")
    yield Address("a listed host at another port", "http://private.example:9000/", hosts=private)


def _odd() -> Iterator[Address]:
    for url in (
        *(
            "http://",
            "http:///a.jpg",
            "http://[::1",
            "http://[]/",
            "http://a b/",
        ),
        *("http://a\x00b/", "http://\u2460\u2461\u2466.0.0.1/", "http://%31/"),
        *("http://" + "a" * 300 + "/", "http://a.example/" + "x" * 5000, "http://exa\ud800mple/"),
    ):
        yield Address(f"no address: {ascii(url)[:40]}", url, Reason.FETCH_FAILED)
    for port in (99_999, -1, 0x10000 + 80):
        yield Address(f"no port: {port}", f"http://{PUBLIC}:{port}/")
    for url in (
        *("http://127.0.0.1#@cdn.example/", "http://127.0.0.1?@cdn.example/"),
        *("http://127.0.0.1/@cdn.example/", "http://cdn.example:pw@127.0.0.1:80/"),
    ):
        yield Address(f"in disguise: {url}", url)


# -- servers --------------------------------------------------------------------------------------

TIMEOUT, LIMIT = 0.5, 100_000
"""Seconds and bytes that the pictures of these servers may take."""


@dataclass(frozen=True)
class Server:
    """What a server answers at /a, and further paths, and what has to become of it."""

    name: str
    answer: Answer
    reason: Reason | None
    """None: there is a picture."""
    transient: bool = False
    more: Mapping[str, Answer] = field(default_factory=dict)


def servers(victim: str) -> list[Server]:
    """Every server of the table; `victim` is the host and port of one that nobody may be led to."""
    return [*_slow(), *_endless(), *_lengths(), *_packed(), *_leading(victim), *_answers()]


def raw(*parts: bytes, pause: float = 0.0, forever: bool = False) -> Answer:
    """Send these bytes as they are, with pauses between them; `forever` the last of them again and again."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        server: Any = request.server
        try:
            for part in itertools.chain(parts, itertools.repeat(parts[-1]) if forever else ()):
                request.wfile.write(part)
                if server.stopped.wait(pause):
                    return
        except OSError:
            pass

    return answer


def _stall(head: bytes) -> Answer:
    """Send this, and then nothing until nobody waits any more."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        request.wfile.write(head)
        request.rfile.read(1)  # until the other side hangs up

    return answer


OK = b"HTTP/1.1 200 OK\r\n"


def _slow() -> Iterator[Server]:
    late = (Reason.FETCH_TIMEOUT, True)
    yield Server("a drip of a body", endless(b"x", 0.02), *late)
    yield Server("a drip of a header", raw(OK + b"X: ", b"x", pause=0.02, forever=True), *late)
    yield Server("a drip of headers", raw(OK, b"X: x\r\n", pause=0.02, forever=True), *late)
    yield Server(
        "a drip of a status line", raw(b"HTTP/1.1 200 ", b"O", pause=0.02, forever=True), *late
    )
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    yield Server("a drip of chunks", raw(chunked, b"1\r\nx\r\n", pause=0.02, forever=True), *late)
    yield Server("silence", _stall(b""), *late)
    yield Server("silence after the headers", _stall(OK + b"Content-Length: 9\r\n\r\n"), *late)
    wait = b"HTTP/1.1 100 Continue\r\n\r\n"
    yield Server("please wait, for ever", raw(wait, pause=0.01, forever=True), *late)


def _endless() -> Iterator[Server]:
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    block = b"10000\r\n" + bytes(65536) + b"\r\n"
    yield Server("a body without end", endless(bytes(65536), 0.0), Reason.TOO_LARGE)
    yield Server("chunks without end", raw(chunked, block, forever=True), Reason.TOO_LARGE)
    header, failed = b"X: " + b"x" * 9000, (Reason.FETCH_FAILED, True)
    yield Server("headers without end", raw(OK, header + b"\r\n", forever=True), *failed)
    yield Server("a header without end", raw(OK + header, b"x" * 9000, forever=True), *failed)


def _lengths() -> Iterator[Server]:
    failed = (Reason.FETCH_FAILED, True)
    yield Server("a length over the limit", body(b"", Content_Length="100001"), Reason.TOO_LARGE)
    yield Server("a length of 20 digits", body(b"", Content_Length="9" * 20), Reason.TOO_LARGE)
    yield Server("fewer bytes than said", raw(OK + b"Content-Length: 99\r\n\r\nhalf"), *failed)
    yield Server(
        "more bytes than said", raw(OK + b"Content-Length: 7\r\n\r\npicture and more"), None
    )
    yield Server(
        "two lengths", raw(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"), *failed
    )
    yield Server("a negative length", raw(OK + b"Content-Length: -1\r\n\r\nx"), *failed)
    both = b"Content-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n7\r\npicture\r\n0\r\n\r\n"
    yield Server("a length and chunks", raw(OK + both), None)
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    yield Server("a chunk of 2^60 bytes", raw(chunked + b"1" + b"0" * 15 + b"\r\nx"), *failed)
    yield Server("a chunk of no number", raw(chunked + b"zz\r\n"), *failed)


def _packed() -> Iterator[Server]:
    twice = gzip.compress(gzip.compress(b"picture"))
    # Each less than the limit as it comes: what counts is what it unpacks to.
    for name, packed in (("gzip", _gzipped(90 << 20)), ("deflate", _deflated(90 << 20))):
        assert len(packed) < LIMIT
        answer = body(packed, Content_Encoding=name)
        yield Server(f"{name} of 90 MB", answer, Reason.TOO_LARGE)
    yield Server("gzip twice", body(twice, Content_Encoding="gzip, gzip"), Reason.FETCH_FAILED)
    yield Server("brotli", body(b"x", Content_Encoding="br"), Reason.FETCH_FAILED)
    yield Server("gzip cut off", body(twice[:-9], Content_Encoding="gzip"), Reason.CORRUPT_IMAGE)
    yield Server("no gzip at all", body(b"picture", Content_Encoding="gzip"), Reason.CORRUPT_IMAGE)


@cache
def _gzipped(size: int) -> bytes:
    return gzip.compress(bytes(size))


@cache
def _deflated(size: int) -> bytes:
    return zlib.compress(bytes(size))


def _leading(victim: str) -> Iterator[Server]:
    """Redirects inwards, as often as it takes."""
    port = victim.rpartition(":")[2]
    inwards = (
        *(
            f"http://{victim}/",
            f"http://localhost:{port}/",
            f"http://2130706433:{port}/",
            f"//{victim}/",
        ),
        *(
            f"http://[::ffff:127.0.0.1]:{port}/",
            f"http://cdn.example@{victim}/",
            "http://127.0.0.1/",
        ),
        *(
            "http://169.254.169.254/latest/meta-data/",
            "http://[fd00:ec2::254]/",
            "//0/",
            "https://127.1/",
        ),
        *("http://metadata.google.internal/", "http://mixed.example/", "http://[64:ff9b::7f00:1]/"),
    )
    for where in inwards:
        yield Server(f"redirect to {where}", status(302, where), Reason.BLOCKED_ADDRESS)
    for code in (301, 303, 307, 308):
        yield Server(f"{code} inwards", status(code, f"http://{victim}/"), Reason.BLOCKED_ADDRESS)
    more = {"/b": status(301, "/c"), "/c": status(307, f"http://{victim}/")}
    yield Server("inwards after two more", status(302, "/b"), Reason.BLOCKED_ADDRESS, more=more)
    yield Server("redirect in a circle", status(302, "/a"), Reason.FETCH_FAILED)
    elsewhere = ("file:///etc/passwd", "gopher://127.0.0.1/", "data:image/png;base64,AA", "http://")
    for where in (*elsewhere, "/" + "x" * 5000):
        yield Server(f"redirect to {where[:30]}", status(302, where), Reason.FETCH_FAILED)


def _answers() -> Iterator[Server]:
    yield Server("not there", status(404), Reason.NOT_FOUND)
    yield Server("forbidden", status(403), Reason.FETCH_FAILED)
    yield Server("broken", status(500), Reason.FETCH_FAILED, transient=True)
    yield Server("hangs up", raw(b""), Reason.FETCH_FAILED, transient=True)
    yield Server("another protocol", raw(b"SSH-2.0-x\r\n"), Reason.FETCH_FAILED, transient=True)


# -- the network of the tests ---------------------------------------------------------------------


@dataclass
class Dials:
    """Every connection that was tried while the test ran; only those to `reachable` are made."""

    reachable: set[tuple[str, int]] = field(default_factory=set)
    tried: list[tuple[str, int]] = field(default_factory=list)

    @classmethod
    def watched(cls, monkeypatch: pytest.MonkeyPatch) -> Dials:
        """Watch at the level of sockets, whoever uses them, and resolve the names of the table."""
        dials = cls()
        connect = socket.socket.connect

        def tried(opened: socket.socket, where: Any) -> None:
            dials.tried.append(where[:2])
            if where[:2] not in dials.reachable:
                raise ConnectionRefusedError
            connect(opened, where)

        monkeypatch.setattr(socket.socket, "connect", tried)
        monkeypatch.setattr(socket.socket, "connect_ex", tried)
        monkeypatch.setattr(socket, "getaddrinfo", _resolver())
        return dials

    def reach(self, host: str) -> None:
        """Let a server of this machine be connected to."""
        name, _, port = host.rpartition(":")
        self.reachable.add((name, int(port)))

    @property
    def addresses(self) -> set[str]:
        """What was dialled."""
        return {address for address, _ in self.tried}


def _resolver() -> Any:
    """Answers for the names of the table, in turn; numbers as the system reads them; no other name exists."""
    system = socket.getaddrinfo
    asked: dict[str, int] = {}

    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        answers = NAMES.get(host.lower())
        if answers is None:
            return system(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        turn = asked[host] = asked.get(host, -1) + 1
        return [_entry(each, port) for each in answers[min(turn, len(answers) - 1)]]

    return resolve


def _entry(address: str, port: int) -> tuple[Any, ...]:
    if ":" in address:
        return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
