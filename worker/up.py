"""The whole service on one machine: starts every process, keeps it running, and stops all of them together."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pydantic import SecretStr
from redis import Redis
from redis.exceptions import RedisError

from db.session import Database
from migrations import upgrade
from producer.settings import DEFAULT_REDIS_URL, ProducerSettings
from producer.transport import connect, unavailable
from worker import startup, valkey
from worker.departure import BROKEN, DEAF, OUT_OF_TIME, STUCK
from worker.errors import StartError
from worker.heartbeat import beating
from worker.roles import Role
from worker.settings import WorkerSettings
from worker.tether import PARENT

log = logging.getLogger(__name__)

START_TIMEOUT = 120.0
BEAT = "beat"
METRICS_PORT = "LOOKALIKE_METRICS_PORT"
RESTART_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds before a process that died is started again; doubled each time that it lived short."""
SHORT_LIFE = 60.0
LEAVING = 3.0
"""Seconds that a process needs beyond its grace period to give back what it did not finish."""
_ENDS = {
    0: "as if asked to",
    OUT_OF_TIME: "its grace period was over",
    DEAF: "it took no more messages",
    STUCK: "its work did not end",
    BROKEN: "its device failed",
}


@dataclass
class Child:
    """A process of the service, started again when it dies."""

    name: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = RESTART_PAUSE
    due: float | None = None
    """When to start it again, on the monotonic clock, while it is dead."""

    def is_to_start(self) -> bool:
        """Whether it is dead and its pause is over; says so when it is found dead."""
        if self.pid is not None:
            return False
        now = time.monotonic()
        if self.due is not None:
            return now >= self.due
        short = now - self.started < SHORT_LIFE
        self.pause = min(self.pause * 2, LONGEST_PAUSE) if short else RESTART_PAUSE
        self.due = now + self.pause
        code = self.process.returncode if self.process else None
        log.warning(
            "%s died (%s; %s); starting it again in %.0f s",
            self.name,
            in_words(code),
            self.log,
            self.pause,
        )
        return False

    def tend(self, start: Callable[[], object]) -> None:
        """Start it if it is dead and its pause is over; later if that cannot be done now."""
        if not self.is_to_start():
            return
        try:
            start()
        except (StartError, OSError) as error:
            self.pause = min(self.pause * 2, LONGEST_PAUSE)
            self.due = time.monotonic() + self.pause
            log.error(  # noqa: TRY400 - a trace says no more
                "%s was not started (%s); trying again in %.0f s", self.name, error, self.pause
            )

    def start(self, environment: Mapping[str, str]) -> None:
        """Start it in a session of its own: a Ctrl-C on the terminal is for the one that stops it."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.began()

    def began(self) -> None:
        """It was started."""
        self.started, self.due = time.monotonic(), None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self.process.pid if self.process and self.process.poll() is None else None

    def last_words(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass
class Service:
    """A running service: its settings, as the processes have them, and the processes."""

    settings: WorkerSettings
    embedded_url: str = DEFAULT_REDIS_URL
    """Where the service's own server listens, when the settings name none."""
    children: list[Child] = field(default_factory=list)
    server: Child | None = None
    gateway: Child | None = None
    """The HTTP gateway, started when the workers are ready; nobody waits for it."""
    ports: Mapping[str, int] = field(default_factory=dict)
    """Where each process serves its figures, by its name; one that is not in it serves none."""
    _stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def producer_settings(self) -> ProducerSettings:
        """What a Producer needs to talk to this service."""
        return ProducerSettings(redis_url=self.settings.redis_url)

    @property
    def logs(self) -> Path:
        """Folder of the processes' logs."""
        return self.settings.data_dir / "logs"

    def start(self, on_ready: Callable[[str], None] | None = None) -> None:
        """Start everything and wait until every worker consumes, or until `stop_soon`.

        Raises StartError, with the end of its log if a process dies, and QueueUnavailable.
        """
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StartError(f"LOOKALIKE_DATA_DIR cannot be used: {error}") from error
        if self.settings.embedded_redis:
            self._start_server()
            if self.stopping:
                return
        self._check_redis()
        self._check_rest()
        for name in [*Role, BEAT]:
            child = Child(
                name, [sys.executable, "-m", "worker", "run", name], self.logs / f"{name}.log"
            )
            self.children.append(child)
            child.start(self._environment(child))
        self._wait_ready(on_ready or (lambda _: None))
        if self.gateway is not None and not self.stopping:
            self.gateway.start(self._environment(self.gateway))

    def _environment(self, child: Child) -> dict[str, str]:
        own = {PARENT: str(os.getpid()), METRICS_PORT: str(self.ports.get(child.name, 0))}
        return os.environ | self.settings.environment() | own

    def _start_server(self) -> None:
        url = self.embedded_url
        self.server = server = Child("the embedded server", [], self.logs / "valkey.log")
        self.settings = self.settings.with_(redis_url=SecretStr(url))
        process = self._launch(server)
        valkey.wait(process, url, server.log, self._stopping)

    def _launch(self, server: Child) -> subprocess.Popen[bytes]:
        """On the same port and folder as ever: its append-only file has what was written."""
        folder = self.settings.data_dir / "valkey"
        server.process = valkey.launch(self.embedded_url, folder, server.log)
        server.began()
        return server.process

    def _check_redis(self) -> None:
        with connect(self.settings) as client:
            try:
                client.ping()
            except RedisError as error:
                url = self.settings.redis_url.get_secret_value()
                raise unavailable(error, url) from error

    def _check_rest(self) -> None:
        database = Database(self.settings.database)
        try:
            upgrade(database)
            with connect(self.settings) as client:
                startup.check(self.settings, database, client, Role)
        finally:
            database.close()

    def _wait_ready(self, on_ready: Callable[[str], None]) -> None:
        waiting = {child.name for child in self.children}
        deadline = time.monotonic() + START_TIMEOUT
        with connect(self.settings) as client:
            while waiting and not self._stopping.wait(0.1):
                self._tend_server()
                alive = _beating(client)
                for child in self.children:
                    if child.pid is None:
                        raise StartError(f"{child.name} did not start:\n{child.last_words()}")
                    if child.name in waiting and child.pid in alive:
                        waiting.discard(child.name)
                        on_ready(child.name)
                if time.monotonic() > deadline:
                    raise StartError(
                        f"{', '.join(sorted(waiting))}: not ready after {START_TIMEOUT:.0f} s; "
                        f"{self.logs} says why"
                    )

    def watch(self) -> None:
        """Start again what dies, until `stop_soon`.

        In a thread that lasts: Linux ends what a thread has started together with it (`worker.tether`).
        """
        while not self._stopping.wait(0.5):
            self._tend_server()
            for child in self._processes:
                child.tend(partial(child.start, self._environment(child)))

    @property
    def _processes(self) -> list[Child]:
        return [*self.children, *([] if self.gateway is None else [self.gateway])]

    def _tend_server(self) -> None:
        """Start it again when it died, and wait for nothing: workers find it when it is back."""
        if self.server is not None:
            self.server.tend(partial(self._launch, self.server))

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stopping.is_set()

    def stop_soon(self, *_: object) -> None:
        """Make `watch` return; at the second call have processes stop at once. Safe in a signal handler."""
        if self._stopping.is_set():
            for child in self._processes:
                if child.process is not None and child.process.returncode is None:
                    child.process.send_signal(signal.SIGTERM)
        self._stopping.set()

    def stop(self) -> None:
        """Stop everything: the processes together, once they finished what they do, and the server last."""
        self._stopping.set()
        running = [child.process for child in self._processes if child.process is not None]
        _stop(running, self.settings.grace + LEAVING)
        if self.server is not None and self.server.process is not None:
            _stop([self.server.process], self.settings.grace)


def _beating(client: Redis) -> set[int]:
    """Process ids of workers that consume; none while Redis is away."""
    try:
        return {beat.pid for beat in beating(client)}
    except RedisError:
        return set()


def in_words(code: int | None) -> str:
    """What a process ended with, and what that means."""
    if code is None:
        return "it never ran"
    if code < 0:
        return f"signal {-code}, {signal.strsignal(-code)}"
    return f"exit code {code}, {_ENDS[code]}" if code in _ENDS else f"exit code {code}"


def _stop(processes: list[subprocess.Popen[bytes]], grace: float) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + grace
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("process %d did not stop in %.0f s: killed", process.pid, grace)
            process.kill()
            process.wait()


@contextmanager
def service(
    settings: WorkerSettings,
    on_ready: Callable[[str], None] | None = None,
    *,
    embedded_url: str = DEFAULT_REDIS_URL,
) -> Iterator[Service]:
    """Run the service for the length of a `with` block; stops all of it however the block ends."""
    running = Service(settings, embedded_url)
    try:
        running.start(on_ready)
        yield running
    finally:
        running.stop()
