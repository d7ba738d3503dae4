"""The right to do a long piece of work alone, renewed while it lasts.

A lease that is lost is no lock: the work may go on for a moment after somebody else has begun. What it writes in
the end must carry the token, so that the database refuses it.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from types import TracebackType
from typing import Self

from db.errors import DatabaseError_
from db.queries import leases
from db.queries.leases import Holder
from db.session import Database

log = logging.getLogger(__name__)

TTL = 60.0
"""Seconds after which the lease of a process that died can be taken by another."""


class LeaseHeld(Exception):
    """Another process holds the lease."""

    def __init__(self, name: str, holder: Holder | None) -> None:
        """`holder` is None where the lease was given back in the meantime."""
        self.holder = holder
        who = f"{holder.name} (host:process)" if holder else "another process"
        until = (
            f" until {holder.expires_at:%H:%M:%S} UTC, or longer if it renews it" if holder else ""
        )
        super().__init__(f"{who} holds the lease {name!r}{until}")


class LeaseLost(Exception):
    """The lease ran out or was taken by another process: stop, and write nothing."""


class Lease:
    """`with Lease(database, "reindex") as lease:` renews itself three times in each `ttl` seconds.

    Raises LeaseHeld when another process has it, DatabaseUnavailable.
    """

    def __init__(
        self, database: Database, name: str, holder: str | None = None, *, ttl: float = TTL
    ) -> None:
        self._database = database
        self._name = name
        self._holder = holder or _this_process()
        self._ttl = ttl
        self._token = 0
        self._lost = threading.Event()
        self._done = threading.Event()
        self._renewer = threading.Thread(target=self._keep, name=f"lease-{name}", daemon=True)

    @property
    def token(self) -> int:
        """Fencing token: greater than that of every holder before."""
        return self._token

    @property
    def lost(self) -> bool:
        """Whether it can no longer be relied on."""
        return self._lost.is_set()

    def check(self) -> None:
        """Raise LeaseLost if it is."""
        if self.lost:
            raise LeaseLost(f"the lease {self._name!r} was lost; another process may be at work")

    def __enter__(self) -> Self:
        with self._database.writing() as session:
            token = leases.acquire(session, self._name, self._holder, self._ttl)
            held = leases.holder(session, self._name) if token is None else None
        if token is None:
            raise LeaseHeld(self._name, held)
        self._token = token
        self._renewer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._renewer.join()
        try:
            with self._database.writing() as session:
                leases.release(session, self._name, self._token)
        except DatabaseError_ as failure:
            log.warning("the lease %s runs out by itself: %s", self._name, failure)

    def _keep(self) -> None:
        renewed = time.monotonic()
        while not self._done.wait(self._ttl / 3):
            try:
                with self._database.writing() as session:
                    held = leases.renew(session, self._name, self._token, self._ttl)
                renewed = time.monotonic() if held else renewed
            except DatabaseError_ as failure:
                log.warning("the lease %s could not be renewed: %s", self._name, failure)
                held = time.monotonic() - renewed < self._ttl
            if not held:
                self._lost.set()
                return


def _this_process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
