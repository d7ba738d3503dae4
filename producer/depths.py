"""How deep the queues are: what waits, what workers hold un-acknowledged, and how old the oldest of it is.

The work is bounded however long the queues are: lengths are counted by Redis, and of the messages themselves only
ends are read, of the next one of each list and of those that are held.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, cast

from producer import keys
from producer.ids import issued_at
from producer.messages import Queue, QueueStatus

if TYPE_CHECKING:
    from redis import Redis

PRIORITIES = (0, 3, 6, 9)
"""Kombu has a list for each of these steps of priority."""
MOST_HELD, MOST_BYTES = 1000, 4 << 20
"""Un-acknowledged messages, and their bytes, that are looked at, the longest held first: Redis serves no one else
meanwhile, and a megabyte takes it about a millisecond. Of the rest each queue is taken to have the same share."""
END = 2048
"""Bytes at the end of a message, in which its id and its queue stand."""

# A message ends with its properties, and is kept with its exchange and its queue behind it while it is held.
_ID = re.compile(rb'"correlation_id":\s*"([0-9a-f-]{36})"')
_QUEUE = re.compile(rb'"([a-z]+)"\s*\]\s*$')

_LOOK = """
local bytes, most, left = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local held, lists, looked = {}, {}, 0
for _, tag in ipairs(redis.call('ZRANGE', KEYS[2], 0, most - 1)) do
    if left < 0 then
        break
    end
    local message = redis.call('HGET', KEYS[1], tag)
    looked = looked + 1
    if message then
        left = left - #message
        held[#held + 1] = string.sub(message, -bytes)
    end
end
for each = 3, #KEYS do
    local next = redis.call('LINDEX', KEYS[each], -1)
    lists[#lists + 1] = redis.call('LLEN', KEYS[each])
    lists[#lists + 1] = next and string.sub(next, -bytes) or ''
end
return {tostring(clock[1] + clock[2] / 1000000), looked, redis.call('ZCARD', KEYS[2]), held, lists}
"""


def depths(redis: Redis) -> tuple[QueueStatus, ...]:
    """What there is of each queue, in one round trip.

    Raises RedisError; a ResponseError for a user who may not look into messages, as a shop's may not: then
    `lengths` is what there is to know.
    """
    places = [
        keys.UNACKED,
        keys.UNACKED_INDEX,
        *(each for queue in Queue for each in _lists(queue)),
    ]
    look = redis.register_script(_LOOK)
    found = look(keys=places, args=[END, MOST_HELD, MOST_BYTES])
    now, looked, all_, held, lists = cast(
        "tuple[bytes, int, int, list[bytes], list[int | bytes]]", found
    )
    waiting, next_ = cast("list[int]", lists[::2]), cast("list[bytes]", lists[1::2])
    by_queue = [(_queue(each), each) for each in held]
    unacked = Counter(name for name, _ in by_queue)
    step = len(PRIORITIES)
    return tuple(
        QueueStatus(
            name=queue.value,
            waiting=sum(waiting[place * step : place * step + step]),
            unacked=round(unacked[queue.value] * all_ / max(1, looked)),
            oldest=_age(
                float(now),
                [
                    *next_[place * step : place * step + step],
                    *(each for name, each in by_queue if name == queue.value),
                ],
            ),
        )
        for place, queue in enumerate(Queue)
    )


def lengths(redis: Redis) -> tuple[QueueStatus, ...]:
    """How many messages wait in each queue, without what only a look into them tells. Raises RedisError."""
    with redis.pipeline(transaction=False) as pipe:
        for queue in Queue:
            for each in _lists(queue):
                pipe.llen(each)
        found = iter(pipe.execute())
    return tuple(
        QueueStatus(name=queue.value, waiting=sum(next(found) for _ in PRIORITIES))
        for queue in Queue
    )


def deepest(own: tuple[QueueStatus, ...], told: tuple[QueueStatus, ...]) -> tuple[QueueStatus, ...]:
    """What was seen here or, by a user who may not look into messages, what the service tells."""
    return told if told and any(each.unacked is None for each in own) else own


def _lists(queue: Queue) -> Iterator[str]:
    return (keys.queue(queue.value, priority) for priority in PRIORITIES)


def _queue(message: bytes) -> str:
    found = _QUEUE.search(message)
    return found[1].decode() if found else ""


def _age(now: float, messages: Iterable[bytes]) -> float | None:
    """Seconds since the oldest of them was made; its id says when. None of what has no such id."""
    ids = (found[-1].decode() for each in messages if (found := _ID.findall(each)))
    times = [made for id_ in ids if (made := issued_at(id_)) is not None]
    return max(0.0, now - min(times)) if times else None
