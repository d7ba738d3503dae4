"""Hostile addresses and servers, through the real fetcher: refused as the table says, and never dialled."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Self, cast

import pytest
from redis import Redis

from producer.messages import UrlImage
from producer.reasons import Reason
from tests.hostile.addresses import (
    LIMIT,
    TIMEOUT,
    Address,
    Dials,
    addresses,
    servers,
)
from tests.hostile.processes import Growth
from tests.integration.test_fetch_web import Site, body
from worker.images.errors import ImageError
from worker.images.fetch import Fetcher, FetchPolicy, Picture

SECONDS = 10.0
LITTLE = 50
"""MiB that an answer may cost."""
ADDRESSES = addresses()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment must not matter."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")


@pytest.fixture
def dials(monkeypatch: pytest.MonkeyPatch) -> Dials:
    """Every connection that is tried."""
    return Dials.watched(monkeypatch)


@pytest.fixture(scope="module")
def victim() -> Iterator[Site]:
    """A server that nobody may be led to."""
    site = Site({"/": body(b"secret")})
    yield site
    site.stop()


class Fetchers:
    """One for each set of hosts: to read the certificates takes longer than to refuse an address."""

    def __init__(self) -> None:
        self._closing = ExitStack()
        self._found: dict[tuple[str, ...], Fetcher] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def __call__(self, url: str, *hosts: str) -> Picture | ImageError:
        """What comes of a picture's address, as if a producer had sent it that checks nothing."""
        if hosts not in self._found:
            policy = FetchPolicy(
                hosts=hosts, timeout=TIMEOUT, connect_timeout=TIMEOUT, max_bytes=LIMIT
            )
            opened = Fetcher(policy, cast(Redis, None))
            self._found[hosts] = self._closing.enter_context(opened)
        try:
            return self._found[hosts].fetch(UrlImage.model_construct(url=url))
        except ImageError as error:
            return error


@pytest.fixture(scope="module")
def fetched() -> Iterator[Fetchers]:
    """What fetches."""
    with Fetchers() as found:
        yield found


def test_the_tables_are_whole() -> None:
    assert len({case.name for case in ADDRESSES}) == len(ADDRESSES) > 500
    table = servers("127.0.0.1:1")
    assert len({case.name for case in table}) == len(table) > 55


@pytest.mark.parametrize("case", ADDRESSES, ids=lambda case: ascii(case.name))
def test_an_address_that_may_not_be_asked(dials: Dials, fetched: Fetchers, case: Address) -> None:
    began = time.monotonic()
    refused = fetched(case.url, *case.hosts)
    assert isinstance(refused, ImageError)
    assert (refused.reason, refused.transient) == (case.reason, case.transient)
    assert dials.addresses == set(case.dialled)
    assert time.monotonic() - began < SECONDS


@pytest.mark.parametrize("number", range(len(servers("127.0.0.1:1"))))
def test_a_server_that_means_no_good(
    dials: Dials, fetched: Fetchers, victim: Site, number: int
) -> None:
    case = servers(victim.host)[number]
    site = Site({"/a": case.answer, **case.more})
    dials.reach(site.host)
    dials.reach(victim.host)
    growth = Growth.of(os.getpid())
    began = time.monotonic()
    try:
        found = fetched(f"http://{site.host}/a", site.host, "*")
    finally:
        site.stop()

    assert _outcome(found) == (case.reason, case.transient), case.name
    assert time.monotonic() - began < SECONDS
    assert growth.most < LITTLE
    assert {f"{host}:{port}" for host, port in dials.tried} <= {site.host}
    assert victim.connections == 0


def _outcome(found: Picture | ImageError) -> tuple[Reason | None, bool]:
    if isinstance(found, ImageError):
        return found.reason, found.transient
    assert found.data == b"picture"
    return None, False


def test_the_victim_can_be_reached_by_whoever_names_it(
    dials: Dials, fetched: Fetchers, victim: Site
) -> None:
    """Else that nobody connected to it would say nothing."""
    before = victim.connections
    dials.reach(victim.host)
    found = fetched(f"http://{victim.host}/", victim.host)
    assert isinstance(found, Picture)
    assert victim.connections == before + 1


def test_a_message_takes_no_address_of_another_kind() -> None:
    for url in ("file:///etc/passwd", "ftp://a/b", "//a/b", "gopher://a/", "http:/a", " http://a/"):
        with pytest.raises(ValueError, match="url"):
            UrlImage(url=url)
