"""Redis goes away under load: restarted, killed, out for a while, its connections cut, stopped where it is."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from producer.client import Producer
from producer.errors import QueueFull, QueueUnavailable
from producer.receipts import Receipt
from tests.faults.group import Group, group, pictures, read
from tests.faults.promise import Scale, Shown
from tests.services import RedisServer, redis_binary, start_valkey

RESUMES_IN = 60.0
"""Seconds in which what is accepted after a fault must be applied."""
ROWS = 12


@dataclass
class Load:
    """A shop that adds products without pause, and knows what was accepted."""

    client: Producer
    paths: Iterator[Path]
    accepted: set[str] = field(default_factory=set)
    refused: int = 0
    _number: int = 0

    def add(self) -> bool:
        """Add some products; False if the service did not take them."""
        rows = {f"p{self._number + i}": next(self.paths) for i in range(ROWS)}
        self._number += ROWS
        try:
            self.client.add_many(
                [{"product_id": id_, "image": path} for id_, path in rows.items()],
                when_full="raise",
            )
        except (QueueUnavailable, QueueFull):  # some of them may have been accepted all the same
            self.refused += 1
            return False
        self.accepted |= rows.keys()
        return True

    @contextmanager
    def adding(self, pause: float = 0.1) -> Iterator[None]:
        """Add, in a thread, while the block runs."""
        stop = threading.Event()

        def work() -> None:
            while not stop.wait(pause):
                self.add()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def resumed(service: Group, load: Load) -> float:
    """Seconds from now until a product that is accepted from now on is applied."""
    began = time.monotonic()
    service.wait(load.add, RESUMES_IN, "nothing is accepted")
    path = next(load.paths)
    receipts: list[Receipt] = []

    def applied() -> bool:
        try:
            if not receipts:
                receipts.append(load.client.add(f"probe{began}", path, when_full="raise"))
                load.accepted.add(f"probe{began}")
            return load.client.outcome(receipts[0].id) is not None
        except (QueueUnavailable, QueueFull):
            return False

    service.wait(applied, 2 * RESUMES_IN, "nothing is applied")
    return time.monotonic() - began


Fault = Callable[[Group], None]


def restarts(how: str) -> Fault:
    """Stop or kill the server, and start it again."""

    def fault(service: Group) -> None:
        getattr(service.server, how)()
        service.server.start()

    return fault


def outage(seconds: float) -> Fault:
    """No server for so long."""

    def fault(service: Group) -> None:
        service.server.stop()
        _tend_for(service, seconds)
        service.server.start()

    return fault


def stopped(seconds: float) -> Fault:
    """A server that does not answer, but is there."""

    def fault(service: Group) -> None:
        assert service.server.process is not None
        service.server.process.send_signal(signal.SIGSTOP)
        _tend_for(service, seconds)
        service.server.process.send_signal(signal.SIGCONT)

    return fault


def cut(times: int) -> Fault:
    """Every connection is closed, again and again."""

    def fault(service: Group) -> None:
        for _ in range(times):
            with Redis.from_url(service.server.url) as redis:
                try:
                    redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                except RedisError:
                    continue
            _tend_for(service, 0.3)

    return fault


def _tend_for(service: Group, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        service.tend()
        time.sleep(0.1)


def faults(scale: Scale) -> list[tuple[str, Fault]]:
    """What is done to Redis, in this order."""
    chance = scale.chance("redis")
    many = [("restart", restarts(chance.choice(["stop", "kill"]))) for _ in range(scale.of(10, 1))]
    return [
        *many,
        ("connections cut", cut(scale.of(10, 3))),
        ("stopped", stopped(scale.of(20, 1))),
        ("outage", outage(scale.of(30, 2))),
    ]


def show(scale: Scale, folder: Path) -> Shown:
    """Consumption resumes by itself, and nothing is lost."""
    servers = {"Valkey": None, "Redis": redis_binary()}
    broken: list[str] = []
    slowest: dict[str, float] = {}
    accepted = ended = 0
    for name, binary in servers.items():
        if name == "Redis" and (scale.short or binary is None):
            continue
        home = folder / name
        home.mkdir()
        server = start_valkey("--appendonly", "yes", folder=home, binary=binary)
        try:
            found, times, ends = _try(scale, home, server, broken)
        finally:
            server.stop()
        slowest |= {f"{name}, {fault}": seconds for fault, seconds in times.items()}
        accepted, ended = accepted + found, ended + ends
    worst = max(slowest, key=lambda each: slowest[each])
    tried = " and ".join(dict.fromkeys(each.partition(",")[0] for each in slowest))
    broken += [f"{each}: {s:.0f} s" for each, s in slowest.items() if s > RESUMES_IN]
    return Shown(
        f"{len(faults(scale))} faults on {tried}: work goes on within {slowest[worst]:.0f} s ({worst}); "
        f"{ended} workers ended by themselves; {accepted:,} accepted, "
        f"{sum(each.startswith('lost') for each in broken)} lost",
        tuple(broken),
        {"resumed_in": slowest, "accepted": accepted, "ended": ended},
    )


def _try(
    scale: Scale, home: Path, server: RedisServer, broken: list[str]
) -> tuple[int, dict[str, float], int]:
    times: dict[str, float] = {}
    paths = iter(pictures(home / "pictures", scale.of(30_000, 4000), bases=100))
    with group(home, server=server, image_roots=(home,)) as service:
        service.start()
        service.ready()
        with Producer(service.producer) as client:
            load = Load(client, paths)
            for name, fault in faults(scale):
                with load.adding():
                    time.sleep(0.5)
                    fault(service)
                times[name] = max(times.get(name, 0.0), resumed(service, load))
            service.settle(300.0)
        found = read(service.settings)
        ended = len(service.ended)
    broken += [f"lost: {id_}" for id_ in sorted(load.accepted - found.vectors.keys())]
    broken += [f"given up: {id_}, {why}" for id_, why in found.letters.items()]
    return len(load.accepted), times, ended
