"""How a process ends: once its work has, or before, and then what it holds is given back to the others."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from producer.ledger import GRACE
from producer.messages import Message, Question
from worker.busy import Busy
from worker.claims import Claims

log = logging.getLogger(__name__)

OUT_OF_TIME, DEAF, STUCK, BROKEN = 3, 4, 5, 6
"""Exit codes of a process that ended before its work, that took no more messages, that could not end its work, or
whose device failed."""
GIVING_BACK = 1.5
"""Seconds for giving back what is not done: Redis may be what is stuck."""


@dataclass
class Departure:
    """The end of this process. `leave` may be called from any thread, and does not return."""

    busy: Busy
    claims: Claims
    send: Callable[[Message], None]
    grace: float
    stopping: threading.Event
    """Set when the process was asked to stop."""
    code: int = 0
    """What to exit with once the work is done."""

    def ask(self, **_: object) -> None:
        """Let what runs end, for `grace` seconds at most; at the second call leave at once. For signals."""
        if self.stopping.is_set():
            log.error("asked to stop again: what is not done is given back")
            self._after(0.0)
        else:
            self.stopping.set()
            self._after(self.grace)

    def drain(self, code: int) -> None:
        """Ask this process to stop, and exit with `code`."""
        self.code = code
        os.kill(os.getpid(), signal.SIGTERM)

    def leave(self, code: int, guilty: Collection[Message] = ()) -> None:
        """End now; give back what is being worked on, but for the guilty, of which this process died."""
        giving = threading.Thread(target=self._give_back, args=[guilty], daemon=True)
        giving.start()
        giving.join(GIVING_BACK)
        logging.shutdown()
        os._exit(code)

    def _after(self, seconds: float) -> None:
        timer = threading.Timer(seconds, self._out_of_time)
        timer.daemon = True
        timer.start()

    def _out_of_time(self) -> None:
        log.error("not finished in %.0f s (LOOKALIKE_GRACE): the rest is given back", self.grace)
        self.leave(self.code or OUT_OF_TIME)

    def _give_back(self, guilty: Collection[Message]) -> None:
        """Jobs first: a question can be asked again."""
        try:
            for claim in self.claims.held:
                if claim.job not in guilty and self.claims.give_back(claim, GRACE):
                    self.send(claim.job)
            for message in self.busy.messages:
                if isinstance(message, Question) and message not in guilty:
                    self.send(message)
        except (RedisError, OperationalError, OSError) as error:
            log.warning("not given back, but the ledger has it: %s", error)
