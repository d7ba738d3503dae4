"""A server and single worker processes, so that nothing else runs while something is measured."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr
from redis import Redis

from db.session import Database
from migrations import upgrade
from worker import valkey
from worker.heartbeat import beating
from worker.settings import WorkerSettings
from worker.tether import PARENT

START_TIMEOUT = 120.0


@contextmanager
def server(folder: Path, database_url: str) -> Iterator[WorkerSettings]:
    """Settings for a Valkey of its own, as `lookalike-worker up` would start it, and the given catalogue."""
    url = f"redis://127.0.0.1:{valkey.free_port()}/0"
    process = valkey.start(url, folder / "valkey", folder / "valkey.log")
    try:
        yield WorkerSettings(
            redis_url=SecretStr(url), database_url=SecretStr(database_url), data_dir=folder
        )
    finally:
        _stop(process)


@contextmanager
def worker(settings: WorkerSettings, role: str, command: Sequence[str] = ()) -> Iterator[int]:
    """A worker process of the role, by `python -m worker run` or another command; gives its process id."""
    log = settings.data_dir / f"{role}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *(command or ("worker", "run", role))],
            env=os.environ | settings.environment() | {PARENT: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        _wait_ready(settings, role, process, log)
        yield process.pid
    finally:
        _stop(process)


def migrated(url: str) -> Database:
    """The database at this address, with the newest schema."""
    database = Database(url)
    upgrade(database)
    return database


def _wait_ready(
    settings: WorkerSettings, role: str, process: subprocess.Popen[bytes], log: Path
) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    with Redis.from_url(settings.redis_url.get_secret_value()) as client:
        while process.pid not in {each.pid for each in beating(client)}:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the {role} worker did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
