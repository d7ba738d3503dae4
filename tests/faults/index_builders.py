"""What a fork does that builds an index: to the end, to its death, or until it is let go on."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from db.session import Database
from tests.faults.index_site import EXACT
from worker.index.builder import Checkpoint
from worker.index.errors import BuildFailed, BuildSuperseded
from worker.index.rebuild import rebuild
from worker.lease import TTL

BUILD = "tests.faults.index_builders:build"
POLL, LONGEST = 0.005, 60.0


@dataclass(frozen=True)
class Trap:
    """What happens to a builder at a step."""

    step: str = ""
    dies: bool = False
    after: float = 0.0
    """Seconds from the step to its death."""
    arrived: str = ""
    """A file that it makes when it has come to the step …"""
    until: str = ""
    """… and one that it waits for before it goes on."""
    limit: int | None = None
    """From the step on no file can grow beyond so many bytes: the next write fails, as on a full disk."""

    def __call__(self, step: str) -> None:
        """Be the `checkpoint` of a rebuild."""
        if step != self.step:
            return
        if self.arrived:
            Path(self.arrived).touch()
        if self.until:
            wait_for(Path(self.until))
        if self.limit is not None:
            limit_files(self.limit)
        if self.dies and self.after:
            threading.Thread(target=self._die, daemon=True).start()
        elif self.dies:
            self._die()

    def _die(self) -> None:
        time.sleep(self.after)
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Gate:
    """Where processes wait until they may all go on at once."""

    path: Path

    @contextmanager
    def shut(self) -> Iterator[None]:
        """Let nobody through while the block runs."""
        with self.path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def pass_(self) -> None:
        """Wait until it is open. The kernel wakes all who wait, and nobody has to look again and again."""
        with self.path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)


def build(
    database_url: str,
    data_dir: str,
    lease_ttl: float = TTL,
    patience: float = 0.0,
    gate: str = "",
    **trap: object,
) -> dict[str, object]:
    """Rebuild once, or try to for so many seconds while another process holds the lease."""
    database = Database(database_url)
    if gate:
        with database.reading():  # whoever goes through it is quick
            (Path(gate).parent / f"waits-{os.getpid()}").touch()
        Gate(Path(gate)).pass_()
    checkpoint = Trap(**trap)  # type: ignore[arg-type]
    try:
        return attempt(database, Path(data_dir), checkpoint, lease_ttl, patience)
    finally:
        limit_files(resource.RLIM_INFINITY)
        database.close()


def attempt(
    database: Database,
    data_dir: Path,
    checkpoint: Checkpoint,
    lease_ttl: float = TTL,
    patience: float = 0.0,
) -> dict[str, object]:
    """Rebuild; what came of it, as JSON: `built`, a number or None, and then `superseded` or `failed`."""
    until = time.monotonic() + patience
    try:
        while True:
            done = rebuild(database, data_dir, EXACT, checkpoint=checkpoint, lease_ttl=lease_ttl)
            if done is not None or time.monotonic() > until:
                return {"built": done.number if done is not None else None}
            time.sleep(POLL)
    except BuildSuperseded as error:
        return {"built": None, "superseded": str(error)}
    except BuildFailed as error:
        return {"built": None, "failed": str(error)}


def limit_files(most: int) -> None:
    """Let no file of this process, nor of the children that it starts from now on, grow beyond so many bytes."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))


def wait_for(path: Path) -> None:
    """Wait until there is such a file."""
    deadline = time.monotonic() + LONGEST
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} was never made")
        time.sleep(POLL)
