"""Version numbers for a shop that has none of its own: later calls get greater numbers."""

from __future__ import annotations

import threading
import time


class Versions:
    """Nanoseconds since the epoch, each greater than the last, from any thread."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def next(self) -> int:
        """The next version. Across processes the order is that of their clocks."""
        with self._lock:
            self._last = max(self._last + 1, time.time_ns())
            return self._last
