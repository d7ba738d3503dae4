"""The HTTP gateway: what it adds to a lookup, and how it holds at a fixed rate, beside slow and huge requests too.

Requests arrive when they are due, whether or not those before them are answered, and their time runs from then: a
server that stalls is charged for all who would have come meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil

from producer.client import Producer
from producer.mailbox import pause_after
from tests.benchmarks import catalogue, service
from tests.benchmarks.lookup import LIMIT, build_index, interleaved, random_ids
from tests.benchmarks.report import Report, arguments, workspace
from worker.roles import Role
from worker.settings import WorkerSettings

TITLE = "The HTTP gateway"
ADDED = 3.0
"""Milliseconds that it may add to a lookup's p50."""
POSTS, GETS = 20, 80
"""Requests a second."""
BESIDE = 2.0
"""By how much slow and huge requests may lengthen the p95 of others."""
SLOW, HUGE, EVERY = 50, 40 << 20, 1.0
SETTLE = 3.0
"""Seconds for another process to begin."""
TIMEOUT = 30.0


@contextmanager
def running(settings: WorkerSettings) -> Iterator[tuple[str, psutil.Process]]:
    """A gateway process in front of the settings' Redis, and its address."""
    variables = {"LOOKALIKE_REDIS_URL": settings.redis_url.get_secret_value()}
    command = [sys.executable, "-m", "producer.cli", "serve", "--port", "0", "--json"]
    with (settings.data_dir / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=os.environ | variables, stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdout is not None
    try:
        said = ""
        while not said.endswith("}\n"):
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the gateway did not start: {log.name}")
            said += line
        yield json.loads(said)["address"], psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


class Client:
    """A shop's backend that asks over one connection, one question after the other."""

    def __init__(self, address: str) -> None:
        self._connection = HTTPConnection(urlsplit(address).netloc, timeout=TIMEOUT)

    def call(self, method: str, path: str, document: object = None) -> tuple[int, Any]:
        """Status and document of an answer."""
        body = None if document is None else json.dumps(document)
        headers = {} if body is None else {"Content-Type": "application/json"}
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())

    def wait(self, product_id: str) -> None:
        """Ask, and have the gateway wait for the answer."""
        status, _ = self.call(
            "POST", f"/lookups?wait={TIMEOUT:g}", {"product_id": product_id, "limit": LIMIT}
        )
        assert status == 200

    def poll(self, product_id: str) -> None:
        """Ask, then poll with the pauses of the producer."""
        asked = {"product_id": product_id, "limit": LIMIT}
        _, lookup = self.call("POST", "/lookups", asked)
        began = time.monotonic()
        while self.call("GET", lookup["url"])[0] != 200:
            time.sleep(pause_after(time.monotonic() - began))


@dataclass
class Load:
    """Requests at a fixed rate, over as many connections as it takes."""

    address: str
    ids: Iterator[str]
    taken: dict[str, list[float]] = field(default_factory=lambda: {"POST": [], "GET": []})
    statuses: list[int] = field(default_factory=list)
    _idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=deque)
    _urls: deque[str] = field(default_factory=lambda: deque(maxlen=POSTS))
    """The newest lookups, some of them not answered yet."""

    async def run(self, seconds: float) -> None:
        """Send for so many seconds, and wait for the last answers."""
        async with asyncio.TaskGroup() as group:
            for method, rate in (("POST", POSTS), ("GET", GETS)):
                group.create_task(self._send(method, rate, seconds))
        while self._idle:
            self._idle.pop()[1].close()

    async def _send(self, method: str, rate: int, seconds: float) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        async with asyncio.TaskGroup() as group:
            for number in range(round(seconds * rate)):
                due = began + number / rate
                await asyncio.sleep(max(0.0, due - clock()))
                group.create_task(self._one(method, due))

    async def _one(self, method: str, due: float) -> None:
        if method == "POST":
            asked = json.dumps({"product_id": next(self.ids), "limit": LIMIT}).encode()
            status, document = await self._call("POST /lookups", asked)
            self._urls.append(document["url"])
        elif not self._urls:
            return
        else:
            url = self._urls[len(self.taken["GET"]) % len(self._urls)]
            status, document = await self._call(f"GET {url}")
        self.taken[method].append((asyncio.get_running_loop().time() - due) * 1000)
        self.statuses.append(status)

    async def _call(self, line: str, body: bytes = b"") -> tuple[int, Any]:
        reader, writer = await self._connection()
        writer.write(head(line, len(body)) + body)
        top = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(top.partition("content-length: ")[2].partition("\r\n")[0])
        document = json.loads(await reader.readexactly(length))
        self._idle.append((reader, writer))
        return int(top.split()[1]), document

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():  # closed by the other side, having been idle
                return reader, writer
            writer.close()
        place = urlsplit(self.address)
        return await asyncio.open_connection(place.hostname, place.port)


def head(line: str, length: int) -> bytes:
    """The head of a request with JSON."""
    kind = "Content-Type: application/json\r\n" if length else ""
    return f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\n{kind}Content-Length: {length}\r\n\r\n".encode()


@contextmanager
def nuisances(address: str) -> Iterator[None]:
    """Clients that send a byte a second, and one that sends too large a body, in another process."""
    process = multiprocessing.get_context("spawn").Process(target=annoy, args=(address,))
    process.start()
    time.sleep(SETTLE)
    try:
        yield
    finally:
        process.terminate()
        process.join()


def annoy(address: str) -> None:
    """Be a nuisance until terminated."""

    async def all_of_them() -> None:
        place = urlsplit(address)
        slow = [_slow(place.hostname, place.port) for _ in range(SLOW)]
        await asyncio.gather(_huge(place.hostname, place.port), *slow)

    asyncio.run(all_of_them())


async def _slow(host: str | None, port: int | None) -> None:
    while True:
        _, writer = await asyncio.open_connection(host, port)
        with suppress(OSError):
            writer.write(head("POST /lookups", 10_000))
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(1.0)


async def _huge(host: str | None, port: int | None) -> None:
    piece = b"x" * (1 << 18)
    form = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    top = head("POST /lookups", HUGE).replace(
        b"application/json", b"multipart/form-data; boundary=b"
    )
    while True:
        reader, writer = await asyncio.open_connection(host, port)
        with suppress(OSError):
            writer.write(top + form)
            for _ in range(HUGE // len(piece)):
                writer.write(piece)
                await writer.drain()
            await reader.read(1000)
        writer.close()
        await asyncio.sleep(EVERY)


def measure_effort(
    report: Report, client: Client, process: psutil.Process, asked: tuple[Iterator[str], int]
) -> None:
    """Processor time, which does not depend on what else the machine does."""
    ids, rounds = asked
    before = sum(process.cpu_times()[:2])
    for _ in range(rounds):
        client.wait(next(ids))
    spent = sum(process.cpu_times()[:2]) - before
    report.add("processor time of the gateway for a lookup", spent / rounds * 1000, "ms")


def measure_addition(
    report: Report, settings: WorkerSettings, address: str, asked: tuple[Iterator[str], int]
) -> None:
    """A lookup by the Python producer and over HTTP, by turns."""
    ids, rounds = asked
    client = Client(address)
    with Producer(settings) as shop:
        ways: dict[str, Callable[[], object]] = {
            "producer in Python": lambda: shop.find_similar(next(ids), limit=LIMIT).result(TIMEOUT),
            "over HTTP, ?wait=": lambda: client.wait(next(ids)),
            "over HTTP, polled": lambda: client.poll(next(ids)),
        }
        taken = interleaved(ways, rounds)
    for name, each in taken.items():
        for quantile in (50, 95):
            report.add(f"lookup, {name}, p{quantile}", np.percentile(each, quantile), "ms")
    middle = {name: float(np.percentile(each, 50)) for name, each in taken.items()}
    added = middle["over HTTP, ?wait="] - middle["producer in Python"]
    report.add("what the gateway adds to a lookup's p50", added, "ms", at_most=ADDED)
    report.note(
        f"{rounds} rounds of one lookup each way, interleaved; one search worker, two cores."
    )


def measure_load(report: Report, address: str, ids: Iterator[str], seconds: float) -> None:
    """Polling and asking at a fixed rate, alone and with nuisances beside."""
    alone, beside, disturbed = Load(address, ids), Load(address, ids), max(3.0, seconds / 4)
    asyncio.run(alone.run(seconds))
    with nuisances(address):
        asyncio.run(beside.run(disturbed))
    for method, rate in (("POST", POSTS), ("GET", GETS)):
        name = f"{method} /lookups at {rate}/s"
        calm, other = (np.percentile(load.taken[method], 95) for load in (alone, beside))
        report.add(f"{name}, p50", np.percentile(alone.taken[method], 50), "ms")
        report.add(f"{name}, p95", calm, "ms")
        report.add(f"{name}, p99", np.percentile(alone.taken[method], 99), "ms")
        report.add(f"{name}, p95 beside slow and huge requests", other, "ms")
        report.add(f"{name}, p95 beside them / alone", other / calm, "x", at_most=BESIDE)
    answers = [status for load in (alone, beside) for status in load.statuses]
    right = sum(status in (200, 202) for status in answers) / len(answers)
    report.add("share of answers that are 200 or 202", right, at_least=1.0)
    report.note(
        f"{seconds:g} s at both rates together, then {disturbed:g} s with {SLOW} clients that send a byte a "
        f"second and one that sends {HUGE >> 20} MiB, then pauses for a second. Times run from when a request was "
        "due."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = arguments(TITLE)
    parser.add_argument("--size", type=int, default=20_000, help="products in the catalogue")
    options = parser.parse_args(argv)
    size, rounds, seconds = (3000, 30, 3.0) if options.quick else (options.size, 500, 120.0)
    gallery = catalogue.gallery(size, options.out / "cache", real=not options.quick)
    report = Report("gateway", f"{TITLE}, {size:,} products", options.out, options.quick)
    ids = iter(random_ids(4 * rounds + round(3 * seconds * POSTS), size, seed=17))
    with workspace(options.out) as folder:
        url = catalogue.database_of(gallery, folder, report.out / "cache")
        with service.server(folder, url) as settings:
            build_index(settings)
            with service.worker(settings, Role.SEARCH), running(settings) as (address, process):
                measure_addition(report, settings, address, (ids, rounds))
                measure_effort(report, Client(address), process, (ids, rounds))
                measure_load(report, address, ids, seconds)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
