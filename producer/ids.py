"""Ids that carry the time of their making, so that an old question can be told from an unknown one."""

from __future__ import annotations

import os
import re
import time

_SHAPE = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def new_id() -> str:
    """A new UUID of version 7 (RFC 9562): 48 bits of milliseconds since the epoch, then 74 random bits."""
    random = int.from_bytes(os.urandom(10), "big")
    value = (time.time_ns() // 1_000_000) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def issued_at(id_: str) -> float | None:
    """Seconds since the epoch at which `new_id` made this id; None if it did not."""
    if not _SHAPE.fullmatch(id_):
        return None
    return int(id_[:8] + id_[9:13], 16) / 1000
