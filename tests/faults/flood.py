"""A flood of queued pictures: what it costs in memory, and what lookups notice of it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import numpy as np

from producer.client import Producer
from tests.faults import memory
from tests.faults.group import Group, add, group, pictures, read
from tests.faults.promise import Scale, Shown

SLOWER, GROWTH = 2.0, 100.0
"""Bars: p95 of lookups in the flood / idle, and MiB that any process may grow by."""
KNOWN = 400
"""Products to ask about, which are there before the flood."""
PACE = 0.02
"""Seconds between two lookups, as of a shop that is visited."""


def show(scale: Scale, folder: Path) -> Shown:
    """Memory stays bounded, and lookups stay quick."""
    count = scale.of(50_000, 2000)
    chance = scale.chance("flood")
    paths = pictures(folder / "pictures", count + KNOWN, bases=500)
    with group(folder, image_roots=(folder,), max_backlog=10_000) as service:
        service.start()
        service.ready()
        with Producer(service.settings) as shop:
            add(shop, {f"known{i}": paths[i] for i in range(KNOWN)})
            service.settle()
            service.wait(lambda: shop.status().generation is not None, 60.0, "no first index")
            _lookups(shop, chance, scale.of(100, 30))  # whatever is made at the first ones
            idle = _lookups(shop, chance, scale.of(1000, 100))
            flood = {f"p{i}": path for i, path in enumerate(paths[KNOWN:])}
            with _watched(service) as peaks:
                busy = _flood(service, shop, flood, chance)
        found = read(service.settings)
    # A few dozen lookups, on a machine that also does other things, say nothing of the slowest of a hundred.
    slower = float("inf") if scale.short else SLOWER
    return _judged(found.vectors.keys(), flood.keys(), (idle, busy), peaks, slower)


def _flood(service: Group, shop: Producer, flood: dict[str, Path], chance: Random) -> list[float]:
    """Queue everything at once, and ask until it is all applied; what each lookup took, in ms."""
    add(shop, flood)
    times = []
    while shop.backlog():
        times += _lookups(shop, chance, 20)
        service.tend()
    return times


def _lookups(shop: Producer, chance: Random, count: int) -> list[float]:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        shop.find_similar(f"known{chance.randrange(KNOWN)}").result(30.0)
        times.append((time.perf_counter() - began) * 1000)
        time.sleep(PACE)
    return times


@contextmanager
def _watched(service: Group) -> Iterator[dict[str, tuple[float, float]]]:
    """Memory of each process at first and at most, while the block runs."""
    peaks: dict[str, tuple[float, float]] = {}
    stop = threading.Event()

    def watch() -> None:
        for _ in itertools.count():
            for role, now in memory.resident(service.workers).items():
                first, most = peaks.get(role, (now, now))
                peaks[role] = (first, max(most, now))
            if stop.wait(0.5):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()


def _judged(
    applied: Collection[str],
    flood: Collection[str],
    times: tuple[list[float], list[float]],
    peaks: dict[str, tuple[float, float]],
    slower: float,
) -> Shown:
    idle, busy = (float(np.percentile(each, 95)) for each in times)
    growth = {role: most - first for role, (first, most) in peaks.items()}
    lost = set(flood) - set(applied)
    worst = max(growth, key=lambda role: growth[role])
    broken = [f"lost: {each}" for each in sorted(lost)]
    if busy > slower * idle:
        broken.append(f"lookups are {busy / idle:.2f} times slower")
    broken += [f"{role} grew by {each:.0f} MiB" for role, each in growth.items() if each > GROWTH]
    return Shown(
        f"{len(flood):,} queued: p95 of {len(times[1])} lookups {busy:.1f} ms, idle {idle:.1f} ms = "
        f"{busy / idle:.2f} times; memory grows by {growth[worst]:.0f} MiB at most ({worst}); {len(lost)} lost",
        tuple(broken),
        {"p95_idle_ms": idle, "p95_flood_ms": busy, "growth_mib": growth},
    )
