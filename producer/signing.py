"""Signatures on messages: whoever can write to Redis, but has no key of producers and workers, is not heard.

HMAC-SHA256 (RFC 2104) over the task's name and the message. It says who wrote a message, not when: versions and
ids make an old one, sent again, harmless.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Any

from pydantic import SecretStr

SHORTEST_KEY = 16


class Signer:
    """Signs with the first of its keys, and believes any of them, so that keys can be changed one by one."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = tuple(keys)

    @classmethod
    def of(cls, keys: SecretStr | None) -> Signer | None:
        """From the setting: keys with commas between them; None without one."""
        return None if keys is None else cls([key.encode() for key in split(keys)])

    def sign(self, task: str, message: Any) -> str:
        """The signature of a message, which is a JSON value, in hexadecimal digits."""
        return _signature(self._keys[0], task, message)

    def believes(self, task: str, message: Any, signature: object) -> bool:
        """Whether one of the keys made this signature of this message."""
        if not isinstance(signature, str) or not signature.isascii():
            return False
        made = (_signature(key, task, message) for key in self._keys)
        return any(hmac.compare_digest(each, signature) for each in made)


def split(keys: SecretStr) -> list[str]:
    """The keys of the setting."""
    return [key.strip() for key in keys.get_secret_value().split(",")]


def _signature(key: bytes, task: str, message: Any) -> str:
    # One spelling of each value, whatever the order of keys on the way.
    text = json.dumps([task, message], sort_keys=True, separators=(",", ":"))
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
