"""Idempotency keys: a request that is sent again does nothing again, and gets the first answer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

from producer import keys
from producer.gateway.problems import Refusal, refuse

if TYPE_CHECKING:
    from redis import Redis

HEADER = "Idempotency-Key"
PENDING_FOR = 60.0
"""Seconds after which a request that never ended, because the gateway did, may be sent again."""
# In one step, so that of two requests with a key one is the first; an empty mark is one that was given back.
_TAKE = """
local found = redis.call('GET', KEYS[1])
if found and found ~= '' then
    return found
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
"""
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True)
class Mark:
    """What a request is known by: its key, whose it is, and what it says."""

    place: str
    digest: str
    """Of what the request says: a key that comes with something else is refused."""

    @classmethod
    def of(cls, owner: str, key: str, said: bytes) -> Self:
        """The mark of a client's request. Raises Refused for a key that is none."""
        if not _KEY.fullmatch(key):
            raise refuse(
                Refusal.MALFORMED,
                f"{HEADER} must be 1 to 255 visible ASCII characters, such as a UUID.",
            )
        named = hashlib.sha256(json.dumps([owner, key]).encode()).hexdigest()
        return cls(keys.idempotency(named), hashlib.sha256(said).hexdigest())


class Once:
    """Remembers on one Redis what requests with a key have led to."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def do(self, mark: Mark, ttl: float, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What the first request with this mark has led to, or what `work` does now; kept for `ttl` seconds.

        If `work` fails nothing is remembered. Raises Refused if another request had the key, or has not ended.
        """
        pending = json.dumps({"said": mark.digest})
        taken = self._redis.eval(_TAKE, 1, mark.place, pending, str(_ms(PENDING_FOR)))
        before = cast("bytes | None", taken)
        if before is not None:
            return _made_before(mark, before)
        try:
            made = work()
        except BaseException:
            self._redis.set(mark.place, b"", px=1)  # a shop's user of Redis may not delete
            raise
        self._redis.set(mark.place, json.dumps({"said": mark.digest, "made": made}), px=_ms(ttl))
        return made


def _made_before(mark: Mark, raw: bytes) -> dict[str, Any]:
    found = json.loads(raw)
    if found["said"] != mark.digest:
        raise refuse(
            Refusal.KEY_REUSED, f"Another request needs another {HEADER}, this one its own."
        )
    if "made" not in found:
        raise refuse(Refusal.KEY_IN_USE, "Send it again in a moment, with the same key.")
    return cast("dict[str, Any]", found["made"])


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
