"""Who may do what: API keys with scopes, kept as digests and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from pydantic import SecretStr

SHORTEST_SECRET = 16
OPEN = "anybody on this machine"
"""Who asks where there are no keys."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FORM = "every key must look like NAME:SCOPE:SECRET, with SCOPE read, write or read+write"


class Scope(StrEnum):
    """What a key is good for."""

    READ = "read"
    """Lookups."""
    WRITE = "write"
    """Products."""


@dataclass(frozen=True)
class Key:
    """A key: its secret is known by its digest only."""

    name: str
    scopes: frozenset[Scope]
    digest: bytes = field(repr=False)


class Access:
    """Knows the keys. Without any, whoever reaches the gateway may do everything."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = tuple(keys)

    @classmethod
    def of(cls, keys: SecretStr | None) -> Self:
        """From the setting."""
        return cls(() if keys is None else parse_keys(keys))

    @property
    def is_open(self) -> bool:
        """Whether there are no keys."""
        return not self._keys

    def key(self, authorization: str | None) -> Key | None:
        """The key that a header `Authorization: Bearer SECRET` brings; None if it brings none of ours."""
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest = _digest(secret.strip())
        # All are compared, so that the time taken does not say which one is nearly right.
        found = [key for key in self._keys if hmac.compare_digest(key.digest, digest)]
        return found[0] if found else None


def parse_keys(keys: SecretStr) -> tuple[Key, ...]:
    """The keys of the setting. ValueError, which shows no secret, says what is wrong and with which."""
    parsed = tuple(
        _key(number, text.strip())
        for number, text in enumerate(keys.get_secret_value().split(","), start=1)
    )
    for what in ("name", "digest"):
        if len({getattr(key, what) for key in parsed}) < len(parsed):
            raise ValueError(f"two keys have the same {'name' if what == 'name' else 'secret'}")
    return parsed


def _key(number: int, text: str) -> Key:
    name, _, rest = text.partition(":")
    scopes, _, secret = rest.partition(":")
    if not _NAME.fullmatch(name) or not secret:
        raise ValueError(f"{_FORM} (number {number} does not)")
    if not set(scopes.split("+")) <= set(Scope):
        raise ValueError(f"{_FORM} (that of {name!r} does not)")
    if len(secret) < SHORTEST_SECRET:
        raise ValueError(
            f"the secret of {name!r} must have at least {SHORTEST_SECRET} characters: for example "
            "what `openssl rand -hex 24` prints"
        )
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        raise ValueError(f"the secret of {name!r} must be printable ASCII without spaces")
    return Key(name, frozenset(map(Scope, scopes.split("+"))), _digest(secret))


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
