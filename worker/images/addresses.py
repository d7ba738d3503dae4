"""Which internet addresses a picture may be fetched from."""

from __future__ import annotations

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

_METADATA = tuple(
    ip_network(block)
    for block in (
        *("169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"),
        *("fd00:ec2::/32", "fd20:ce::/32", "fd00:42::/32"),
    )
)
"""Where clouds keep credentials: link-local in most; Alibaba, Azure, Oracle; AWS, Google and Scaleway."""
_SPECIAL_V4 = tuple(
    IPv4Network(block)
    for block in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
"""IANA's IPv4 special-purpose registry, multicast and the reserved rest."""
_UNICAST_V6 = IPv6Network("2000::/3")
"""The only part of IPv6 that IANA has allocated as global unicast. Mapped IPv4, NAT64 and the like lie outside."""
_SPECIAL_V6 = tuple(
    IPv6Network(block)
    for block in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)
"""IANA's IPv6 special-purpose registry within global unicast: protocols, Teredo, 6to4, documentation."""
_NEVER = tuple(IPv4Network(block) for block in ("0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4"))
"""Not even for a listed host: unspecified, multicast, reserved; nor `_METADATA`."""
_PRIVATE_V6 = (_UNICAST_V6, IPv6Network("fc00::/7"), IPv6Network("::1/128"))


def is_public(address: str) -> bool:
    """Whether an address in dotted or colon form is an ordinary one of the public internet."""
    return _is_public(ip_address(address))


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if _gives_credentials(address):
        return False
    if isinstance(address, IPv4Address):
        return not any(address in block for block in _SPECIAL_V4)
    if address not in _UNICAST_V6:
        return False
    return not any(address in block for block in _SPECIAL_V6)


def may_be_listed(address: str) -> bool:
    """Whether an operator's listing of a host covers this address: private ones too, but not any."""
    parsed = ip_address(address)
    if _gives_credentials(parsed):
        return False
    if isinstance(parsed, IPv4Address):
        return not any(parsed in block for block in _NEVER)
    return any(parsed in block for block in _PRIVATE_V6)


def _gives_credentials(address: IPv4Address | IPv6Address) -> bool:
    return any(address in block for block in _METADATA)
