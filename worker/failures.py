"""What went wrong with the last rebuilds, so that the next one waits and `status` can say why."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from redis import Redis

from producer import keys


@dataclass(frozen=True)
class RebuildFailure:
    """Rebuilds that failed one after the other, and the reason of the last."""

    count: int
    reason: str
    at: float
    """Epoch seconds."""

    @property
    def failed_at(self) -> datetime:
        """When the last one failed."""
        return datetime.fromtimestamp(self.at, UTC)


class RebuildFailures:
    """Kept in Redis: whichever process rebuilds next should know."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def last(self) -> RebuildFailure | None:
        """The last failure since a rebuild succeeded."""
        raw = self._redis.get(keys.REBUILD_FAILURE)
        return RebuildFailure(**json.loads(raw)) if isinstance(raw, bytes) else None

    def add(self, reason: str) -> None:
        """One more."""
        before = self.last()
        count = before.count + 1 if before else 1
        failure = RebuildFailure(count, reason, datetime.now(UTC).timestamp())
        self._redis.set(keys.REBUILD_FAILURE, json.dumps(asdict(failure)))

    def clear(self) -> None:
        """A rebuild succeeded."""
        self._redis.delete(keys.REBUILD_FAILURE)
