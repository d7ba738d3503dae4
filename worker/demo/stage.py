"""A whole service of the demo's own, which never touches the Redis and the catalogue that are set up."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from worker import valkey
from worker.settings import WorkerSettings
from worker.up import Service, service

_DEVICE = re.compile(r" on (cpu|cuda(?::\d+)?|mps)$", re.MULTILINE)


@dataclass(frozen=True)
class Machine:
    """Where the numbers are from."""

    cores: int
    python: str
    device: str
    """What the network runs on, as the embed worker logged it."""

    def __str__(self) -> str:
        return f"{self.cores} cores, {self.device}, Python {self.python}"


@contextmanager
def stage(
    settings: WorkerSettings, roots: tuple[Path, ...], logs: Path, on_ready: Callable[[str], None]
) -> Iterator[Service]:
    """Run the service on a server and a catalogue of its own, for the length of a `with` block.

    Model, device and index follow `settings`. Everything is written to a folder that is deleted in the
    end; when the block ends with an error, the processes' logs are kept in `logs`.
    """
    with tempfile.TemporaryDirectory(prefix="lookalike-demo-", ignore_cleanup_errors=True) as name:
        own = _own_settings(settings, Path(name), roots)
        url, own_logs = own.redis_url.get_secret_value(), Path(name, "logs")
        own_logs.mkdir()
        server = valkey.start(url, Path(name, "valkey"), own_logs / "valkey.log")
        try:
            with service(own, on_ready) as running:
                yield running
        except BaseException:
            shutil.copytree(own_logs, logs, dirs_exist_ok=True)
            raise
        finally:
            server.terminate()
            server.wait()


def machine(running: Service) -> Machine:
    """The facts that the demo's numbers depend on."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    log = running.logs / "embed.log"
    devices = _DEVICE.findall(log.read_text(errors="replace")) if log.exists() else []
    device = devices[-1] if devices else running.settings.device
    return Machine(cores, platform.python_version(), device)


def _own_settings(
    settings: WorkerSettings, folder: Path, roots: tuple[Path, ...]
) -> WorkerSettings:
    return settings.with_(
        redis_url=SecretStr(f"redis://127.0.0.1:{valkey.free_port()}/0"),
        database_url=SecretStr(f"sqlite:///{folder / 'catalogue.db'}"),
        data_dir=folder,
        image_roots=roots,
    )
