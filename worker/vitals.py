"""What a process of the service says of itself to whoever looks after it: is it stuck, is it ready, what is it at?

`live` tells what a restart would mend: work that does not end, messages that are not taken. `ready` tells whether
it does its work now, which a database that is away prevents, too, and no restart mends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from db.errors import DatabaseError_
from db.queries import catalogue
from db.session import Database
from producer.endpoint import Verdict, offered
from producer.metering import exposition, say_what_runs
from producer.transport import client, unavailable
from worker import measures
from worker.busy import Busy
from worker.settings import WorkerSettings

ANSWERS_WITHIN = 2.0
"""Seconds in which Redis must answer."""
PACKAGES = ("celery", "kombu", "redis", "annoy", "torch", "numpy", "sqlalchemy")
OK = "ok"

Probe = Callable[[], str]
"""Says `ok`, or what is wrong."""


class Vitals(Collector):
    """Of one process. Whoever starts it says when it consumes; may be asked from any thread."""

    def __init__(
        self,
        role: str,
        probes: Mapping[str, Probe],
        busy: Busy | None = None,
        stopping: threading.Event | None = None,
    ) -> None:
        self._role = role
        self._probes = probes
        self._busy = busy or Busy()
        self._stopping = stopping or threading.Event()
        self._consuming = threading.Event()
        self.complaints: Callable[[], list[str]] = list
        """What a restart would mend; nothing, until somebody watches."""

    def consumes(self, **_: object) -> None:
        """It does its work from now on."""
        self._consuming.set()

    def is_well(self) -> bool:
        """Whether there is no complaint."""
        return not self.complaints()

    def live(self) -> Verdict:
        """Whether it is stuck, and what it is at."""
        complaints = self.complaints()
        at = [{"task": each.task, "seconds": round(age, 1)} for each, age in self._busy.ages]
        state = "stuck" if complaints else self._state(idle=not at)
        document = {"role": self._role, "state": state, "working_on": at, "complaints": complaints}
        return Verdict(not complaints, document)

    def ready(self) -> Verdict:
        """Whether it takes messages, and has what it needs for them."""
        found = {name: probe() for name, probe in self._probes.items()}
        state = self._state(idle=True)
        well = state == "idle" and all(said == OK for said in found.values())
        shown = "consuming" if state == "idle" else state
        return Verdict(well, {"role": self._role, "state": shown} | found)

    def _state(self, *, idle: bool) -> str:
        if self._stopping.is_set():
            return "stopping"
        if not self._consuming.is_set():
            return "starting"
        return "idle" if idle else "working"

    def collect(self) -> Iterator[Metric]:
        """The same as figures."""
        yield _one(
            "lookalike_stuck", "1 if /live says that the process is stuck.", not self.is_well()
        )
        yield _one(
            "lookalike_consuming",
            "1 if the process does its work: it has started, and is not stopping.",
            self._state(idle=True) == "idle",
        )
        oldest: dict[str, float] = {}
        for message, age in self._busy.ages:
            name = message.task.removeprefix("lookalike.")
            oldest[name] = max(age, oldest.get(name, 0.0))
        working = GaugeMetricFamily(
            "lookalike_working_seconds",
            "How long the process has been at the oldest message of each task that it works on.",
            labels=("task",),
        )
        for name, age in oldest.items():
            working.add_metric((name,), age)
        yield working


@contextmanager
def watched(
    role: str,
    settings: WorkerSettings,
    database: Database | None = None,
    busy: Busy | None = None,
    stopping: threading.Event | None = None,
) -> Iterator[Vitals]:
    """Serve LOOKALIKE_METRICS_PORT while the block runs, if it is set."""
    with ExitStack() as closing:
        redis = _impatient(settings)
        closing.callback(redis.close)
        probes = {"redis": _probe_of_redis(settings, redis)}
        if database is not None:
            probes["catalogue"] = _probe_of_catalogue(database)
        vitals = Vitals(role, probes, busy, stopping)
        if settings.metrics_port:
            say_what_runs(measures.REGISTRY, role, PACKAGES)
            measures.REGISTRY.register(vitals)
        closing.enter_context(
            offered(
                settings.metrics_host,
                settings.metrics_port,
                metrics=exposition(measures.REGISTRY),
                live=vitals.live,
                ready=vitals.ready,
            )
        )
        yield vitals


def _impatient(settings: WorkerSettings) -> Redis:
    retry = Retry(NoBackoff(), 0)
    return client(Redis.from_url, settings, retry=retry, socket_timeout=ANSWERS_WITHIN)


def _probe_of_redis(settings: WorkerSettings, redis: Redis) -> Probe:
    def probe() -> str:
        try:
            redis.ping()
        except (RedisError, OSError) as error:
            return str(unavailable(error, settings.redis_url.get_secret_value()))
        return OK

    return probe


def _probe_of_catalogue(database: Database) -> Probe:
    def probe() -> str:
        try:
            with database.reading() as session:
                catalogue.head(session)
        except (DatabaseError_, LookupError) as error:
            return str(error)
        return OK

    return probe


def _one(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))
