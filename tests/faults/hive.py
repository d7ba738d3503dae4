"""Quick real workers: one process that has imported everything heavy, and forks a worker when one is asked for.

A worker takes five seconds to start, nearly all of them imports. A hive pays for them once; what it forks
(`hive_process`) calls the real `worker.process.run`, or `worker.beat.beat`, in a session, an environment and a log
of its own, and ends as any Python process does.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from producer.transport import connect
from worker.heartbeat import beating
from worker.roles import Role
from worker.settings import WorkerSettings
from worker.tether import PARENT

ROOT = Path(__file__).resolve().parents[2]
GROUP: tuple[str, ...] = (*(role.value for role in Role), "beat")
START_TIMEOUT, END_TIMEOUT = 60.0, 20.0


class HiveError(Exception):
    """The hive, or a worker of it, did not do what was asked."""


@dataclass(eq=False)
class HiveWorker:
    """A process of the service that a hive forked."""

    hive: Hive
    role: str
    """A role of `worker.roles`, or `beat`; of a call, the function's name."""
    pid: int
    log: Path
    settings: WorkerSettings | None
    """None of a call."""

    @property
    def code(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self.hive.code_of(self.pid)

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.code is None

    def wait(self, timeout: float = END_TIMEOUT) -> int:
        """Wait until it has ended; its exit code. Raises HiveError when it does not end in time."""
        deadline = time.monotonic() + timeout
        while (code := self.code) is None:
            if time.monotonic() > deadline:
                raise HiveError(f"{self.role} ({self.pid}) did not end in {timeout:g} s")
            self.hive.listen(0.05)
        return code

    def result(self, timeout: float = START_TIMEOUT) -> Any:
        """Wait until a call has ended; what the function returned. Raises HiveError when it did not."""
        code = self.wait(timeout)
        if code:
            raise HiveError(f"{self.role} ({self.pid}) ended with {code}:\n{self.last_words()}")
        return json.loads(self.log.with_suffix(".json").read_text())

    def send(self, number: signal.Signals) -> bool:
        """Send it a signal; False if it has ended."""
        return self.hive.send_signal(self.pid, number)

    def kill(self) -> int:
        """End it as a power cut would, and wait; its exit code."""
        self.send(signal.SIGKILL)
        return self.wait()

    def terminate(self) -> bool:
        """Ask it to stop; False if it has ended."""
        return self.send(signal.SIGTERM)

    def stop_signal(self) -> bool:
        """Make it pause where it is; False if it has ended."""
        return self.send(signal.SIGSTOP)

    def cont(self) -> bool:
        """Let it go on; False if it has ended."""
        return self.send(signal.SIGCONT)

    def last_words(self, lines: int = 20) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Hive:
    """`with Hive(folder) as hive:` forks workers until the block ends, and then kills those that are left.

    Logs go to the folder. May be used by several threads, as long as the one that entered the block lives: Linux
    ends the hive with it, and with the hive its workers.
    """

    def __init__(self, folder: Path, preload: Sequence[str] = ()) -> None:
        """`preload` are modules to import besides what workers need."""
        self._folder = folder
        self._preload = preload
        self._lock = threading.RLock()
        self._workers: dict[int, HiveWorker] = {}
        self._codes: dict[int, int] = {}
        self._answers: list[dict[str, Any]] = []
        self._rest = b""
        self._started = 0

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LOOKALIKE_")}
        environment |= {PARENT: str(os.getpid()), "PYTHONPATH": str(ROOT)}
        with (self._folder / "hive.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.hive_process", *self._preload],
                cwd=self._folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # it kills what it has forked, and ends
        try:
            self._process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(HiveError):
            while True:
                self.listen(0.0)
        self._process.stdout.close()

    # -- workers ----------------------------------------------------------------------------------

    def start(
        self,
        role: str,
        settings: WorkerSettings,
        *,
        before: str | None = None,
        arguments: Mapping[str, object] | None = None,
    ) -> HiveWorker:
        """Fork a worker; it is not ready yet.

        `before` is `module:function`, called in the worker with `arguments`, which are JSON, before anything
        else. If it returns a context manager, the worker runs within.
        """
        return self._fork(str(role), settings, before, arguments)

    def call(self, target: str, **arguments: object) -> HiveWorker:
        """Fork, and call `module:function` with arguments, which are JSON, as the `result` is."""
        return self._fork(target, None, None, arguments)

    def _fork(
        self,
        what: str,
        settings: WorkerSettings | None,
        before: str | None,
        arguments: Mapping[str, object] | None,
    ) -> HiveWorker:
        name = what.rpartition(":")[2]
        with self._lock:
            self._started += 1
            log = self._folder.resolve() / f"{name}-{self._started}.log"
            order = {
                "start": what,
                "environment": settings.environment() if settings else {},
                "log": str(log),
                "before": before,
                "arguments": dict(arguments or {}),
            }
            pid = int(self._asked(order)["started"])
            worker = self._workers[pid] = HiveWorker(self, name, pid, log, settings)
        return worker

    def start_group(
        self, settings: WorkerSettings, *, roles: Sequence[str] = GROUP, **options: Any
    ) -> list[HiveWorker]:
        """Fork a whole service, or these of its roles, and wait until it consumes. Options as of `start`."""
        workers = [self.start(role, settings, **options) for role in roles]
        self.wait_ready(workers)
        return workers

    def wait_ready(self, workers: Sequence[HiveWorker], timeout: float = START_TIMEOUT) -> None:
        """Wait until they all beat; raises HiveError, with the end of its log, when one does not."""
        deadline = time.monotonic() + timeout
        waiting = list(workers)
        while waiting:
            for worker in waiting:
                if not worker.alive:
                    raise HiveError(f"{worker.role} ended ({worker.code}):\n{worker.last_words()}")
            if time.monotonic() > deadline:
                slow = waiting[0]
                raise HiveError(f"{slow.role} is not ready in {timeout:g} s:\n{slow.last_words()}")
            settings = waiting[0].settings
            assert settings is not None
            with connect(settings) as redis:
                ready = {beat.pid for beat in beating(redis)}
            waiting = [worker for worker in waiting if worker.pid not in ready]
            self.listen(0.05 if waiting else 0.0)

    @property
    def workers(self) -> list[HiveWorker]:
        """All that were forked, the ended ones too; of two with the same process id the newer one."""
        return list(self._workers.values())

    # -- the process ------------------------------------------------------------------------------

    def code_of(self, pid: int) -> int | None:
        """Exit code of a worker; None while it runs."""
        self.listen(0.0)
        return self._codes.get(pid)

    def send_signal(self, pid: int, number: int) -> bool:
        """Signal a worker; False if it has ended. The hive does it: it alone knows whose the number still is."""
        return bool(self._asked({"signal": int(number), "pid": pid})["signalled"])

    def listen(self, timeout: float) -> None:
        """Take in what the hive reports, waiting so long for it; raises HiveError when the hive is gone."""
        assert self._process.stdout is not None
        if self._process.stdout.closed:  # what there was to hear has been heard
            return
        # Outside the lock, so that who waits long keeps nobody from giving an order.
        select.select([self._process.stdout], [], [], timeout)
        with self._lock:
            if not select.select([self._process.stdout], [], [], 0.0)[0]:
                return
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                self._lost()
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                report = json.loads(line)
                if "exited" in report:
                    self._codes[report["exited"]] = report["code"]
                    continue
                self._codes.pop(report.get("started"), None)  # another one had the number before
                self._answers.append(report)

    def _asked(self, order: Mapping[str, object]) -> dict[str, Any]:
        assert self._process.stdin is not None
        with self._lock:
            deadline = time.monotonic() + START_TIMEOUT
            try:
                self._process.stdin.write(json.dumps(order).encode() + b"\n")
            except BrokenPipeError:
                self._lost()
            while not self._answers:
                self.listen(1.0)
                if time.monotonic() > deadline:
                    raise HiveError("the hive does not answer")
            return self._answers.pop(0)

    def _lost(self) -> None:
        log = self._folder / "hive.log"
        said = log.read_text(errors="replace")[-2000:] if log.exists() else ""
        raise HiveError(f"the hive is gone:\n{said}")
