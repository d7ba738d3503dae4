"""SIGTERM under load: in time, with nothing lost and no attempt counted."""

from __future__ import annotations

import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from producer.client import Producer
from tests.faults.group import Group, add, group, pictures, read
from tests.faults.promise import Scale, Shown
from worker.departure import OUT_OF_TIME

GRACE = 2.0
SLACK = 2.0
"""Seconds that a process may take beyond its grace period."""
SLOW = 3.0
"""Seconds that the network takes for a batch in half of the stops: longer than the grace period."""


@dataclass
class _Stops:
    """What the stops showed."""

    longest: float = 0.0
    codes: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


def show(scale: Scale, folder: Path) -> Shown:
    """Half of the stops end within the grace period, the others at its end or at a second signal."""
    stops, per_stop = scale.of(50, 4), 60
    chance = scale.chance("stops")
    paths = {
        f"p{i}": path for i, path in enumerate(pictures(folder / "pictures", stops * per_stop))
    }
    ids = list(paths)
    seen = _Stops()
    hurry = {"claim": 20.0, "grace": 3.0}
    with group(folder, hurry=hurry, grace=GRACE, image_roots=(folder,)) as service:
        service.start("index", "beat")
        with Producer(service.producer) as shop:
            for number in range(stops):
                add(shop, {each: paths[each] for each in ids[:per_stop]})
                ids = ids[per_stop:]
                service.hurry = hurry | {"slow": SLOW * (number % 2)}
                _stop(service, chance, again=number % 4 == 3, seen=seen)
            service.hurry = hurry
            service.start()
            service.settle()
        found = read(service.settings)
    seen.broken += [f"lost: {id_}" for id_ in paths.keys() - found.vectors.keys()]
    seen.broken += [f"given up: {id_}, {why}" for id_, why in found.letters.items()]
    return Shown(
        f"{stops} stops: {seen.longest:.1f} s at most (grace {GRACE:.0f} s), exit codes {dict(seen.codes)}; "
        f"{len(paths.keys() - found.vectors.keys())} of {len(paths):,} lost, {len(seen.broken)} contradictions, "
        "attempts counted among them",
        tuple(seen.broken),
        {"stops": stops, "longest": seen.longest, "codes": dict(seen.codes)},
    )


def _stop(service: Group, chance: Random, *, again: bool, seen: _Stops) -> None:
    """Start an embed worker, let it work for a while, and stop it; what it held is nobody's then."""
    service.start("embed")
    service.ready()
    worker = service.workers.pop("embed")
    time.sleep(chance.uniform(0.0, 1.0))
    began = time.monotonic()
    worker.terminate()
    if again:
        time.sleep(0.2)
        worker.send(signal.SIGTERM)
    code = worker.wait(GRACE + 20.0)
    seconds = time.monotonic() - began
    seen.longest = max(seen.longest, seconds)
    seen.codes[str(code)] += 1
    if seconds > GRACE + SLACK:
        seen.broken.append(f"it took {seconds:.1f} s to stop")
    if code not in (0, OUT_OF_TIME):
        seen.broken.append(f"exit code {code}: {worker.last_words(5)}")
    seen.broken += [f"{n} attempts of {id_} were counted" for id_, n in service.deaths().items()]
