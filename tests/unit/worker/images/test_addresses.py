"""Which addresses are ordinary ones of the public internet."""

from __future__ import annotations

import pytest

from worker.images.addresses import is_public, may_be_listed
from worker.images.web import HostRules

PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "2a00:1450:4001:82a::200e"]
PRIVATE = ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "::1", "fd12::1"]
NEVER = [
    *("0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255", "::", "fe80::1", "ff02::1"),
    *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "fd00:ec2::254"),
]
SPECIAL = ["198.18.0.1", "192.0.0.9", "203.0.113.7", "2002:7f00:1::", "2001::1", "2001:db8::1"]


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert is_public(address)
    assert may_be_listed(address)


@pytest.mark.parametrize("address", PRIVATE + NEVER + SPECIAL)
def test_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_ones_may_be_listed(address: str) -> None:
    assert may_be_listed(address)


@pytest.mark.parametrize("address", NEVER)
def test_some_may_not_even_be_listed(address: str) -> None:
    assert not may_be_listed(address)


@pytest.mark.parametrize(
    ("hosts", "host", "port", "allowed"),
    [
        ((), "cdn.example", 443, False),
        (("*",), "cdn.example", 443, True),
        (("*",), "cdn.example", 22, False),
        (("cdn.example",), "cdn.example", 80, True),
        (("CDN.example",), "cdn.example", 80, True),
        (("cdn.example",), "cdn.example", 8080, False),
        (("cdn.example:8080",), "cdn.example", 8080, True),
        (("cdn.example:8080",), "cdn.example", 443, False),
        (("*.example",), "cdn.example", 443, True),
        (("*.example",), "example", 443, False),
        (("*.example",), "cdn.example.evil", 443, False),
        (("cdn.example",), "notcdn.example", 443, False),
    ],
)
def test_host_rules(hosts: tuple[str, ...], host: str, port: int, allowed: bool) -> None:
    assert HostRules(hosts).allowed(host, port) is allowed
