"""What went wrong in a demo: it goes on, and its exit code tells."""

from __future__ import annotations

import threading


class Complaints:
    """Lines about answers that were wrong or did not come, from any thread."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._lock = threading.Lock()

    @property
    def lines(self) -> tuple[str, ...]:
        """All of them, oldest first."""
        with self._lock:
            return tuple(self._lines)

    def add(self, line: str) -> None:
        """Write one down."""
        with self._lock:
            self._lines.append(line)

    def unless(self, condition: bool, line: str) -> None:
        """Write one down unless things are as they should be."""
        if not condition:
            self.add(line)
