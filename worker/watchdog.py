"""Ends a process that can no longer do its work, so that whoever runs it starts it anew."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds between two looks."""


@dataclass(frozen=True)
class Sign:
    """Something that should not last."""

    complaint: str
    shows: Callable[[], object]
    """Whether it is so now: anything true."""
    patience: float
    """Seconds that it may last."""
    code: int
    """What the process exits with."""


class Watchdog:
    """Looks for signs every second, and calls `bite` with the first that lasts too long."""

    def __init__(self, signs: Sequence[Sign], bite: Callable[[Sign], None]) -> None:
        self._lasting = dict.fromkeys(signs, 0.0)
        self._bite = bite
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(EVERY):
            sign = next(filter(self._lasts_too_long, self._lasting), None)
            if sign is not None:
                log.critical("%s: this process stops", sign.complaint)
                self._bite(sign)
                return

    @property
    def complaints(self) -> list[str]:
        """What lasts too long; of what may not last at all, whether it is so now. From any thread."""
        lasting = self._lasting.items()
        return [
            sign.complaint
            for sign, seconds in lasting
            if seconds > sign.patience or (not sign.patience and sign.shows())
        ]

    def _lasts_too_long(self, sign: Sign) -> bool:
        self._lasting[sign] = self._lasting[sign] + EVERY if sign.shows() else 0.0
        return self._lasting[sign] > sign.patience

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
