"""Everything at once, for as long as asked: mixed load, swaps, kills and bad pictures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from producer.client import Producer
from producer.errors import LookalikeError
from tests.faults import memory
from tests.faults.group import Catalogue, Group, group, pictures, read
from tests.faults.promise import Scale, Shown

BAD = 0.05
"""Share of pictures that are no pictures."""
KILLED = ("embed", "index", "query")
"""Roles whose workers are killed now and then; what the others hold can be compared to the end."""
KILL_EVERY = 20.0
SAMPLE_EVERY = 5.0
GROWTH_MIB, GROWTH_FILES = 48.0, 16
"""What a process may hold more at the end than after the first fifth: memory grows with the catalogue, too."""


@dataclass
class _Shop:
    """What the shop has said, and what it saw."""

    products: dict[str, bool] = field(default_factory=dict)
    """Product → whether its newest picture is good; removed ones are not in it."""
    removed: set[str] = field(default_factory=set)
    bad: set[str] = field(default_factory=set)
    bad_sent: int = 0
    asked: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def fine(self) -> set[str]:
        """Products that must be found."""
        return {id_ for id_, good in list(self.products.items()) if good}

    def said(self, product_id: str, *, fine: bool) -> None:
        """A picture was accepted; a bad one leaves what was there before."""
        if fine:
            self.products[product_id] = True
        else:
            self.bad_sent += 1
            self.bad.add(product_id)
            self.products.setdefault(product_id, False)


@dataclass
class _Held:
    """What the processes that are not killed held, over time."""

    memory: dict[str, list[float]] = field(default_factory=dict)
    descriptors: dict[str, list[int]] = field(default_factory=dict)
    files: list[int] = field(default_factory=list)

    def sample(self, service: Group) -> None:
        """Look once."""
        lasting = {r: w for r, w in service.workers.items() if r not in KILLED}
        for role, mib in memory.resident(lasting).items():
            self.memory.setdefault(role, []).append(mib)
        for role, count in memory.open_files(lasting).items():
            self.descriptors.setdefault(role, []).append(count)
        self.files.append(memory.files([service.settings.data_dir]))


def show(scale: Scale, folder: Path) -> Shown:
    """Nothing lost, nothing twice; memory, descriptors and files flat."""
    seconds = scale.of(3600, 60)
    good = pictures(folder / "pictures", scale.of(20_000, 1000))
    bad = folder / "pictures" / "bad.jpg"
    bad.write_bytes(b"no picture at all")
    hurry = {"claim": 5.0, "grace": 5.0}
    with group(folder, hurry=hurry, rebuild_every=5.0, image_roots=(folder,)) as service:
        service.start()
        service.ready()
        load = _Load(service, good, bad, scale.chance("soak"))
        with _asked(service, load.shop, scale.chance("asking")):
            load.run(seconds)
        settled = service.settle(300.0)
        found = read(service.settings)
        with Producer(service.producer) as client:
            generation = client.status(30.0).generation
    broken = [*_contradictions(load.shop, found), *_growth(load.held)]
    swaps = generation.number if generation else 0
    shop, lost = load.shop, len(load.shop.fine - found.vectors.keys())
    return Shown(
        f"{seconds} s: {len(shop.products) + len(shop.removed):,} products, {shop.bad_sent} bad pictures, "
        f"{shop.asked:,} lookups ({len(shop.failed)} failed), {load.kills} kills, {swaps} swaps: {lost} lost, "
        f"{found.given_up - shop.bad_sent} twice; {_shown(load.held)}; settled in {settled:.0f} s",
        tuple(broken),
        {"seconds": seconds, "kills": load.kills, "swaps": swaps, "lookups": shop.asked},
    )


# -- the load -------------------------------------------------------------------------------------


@dataclass
class _Load:
    """What is done to the service: adding, changing, removing and killing."""

    service: Group
    good: list[Path]
    bad: Path
    chance: Random
    shop: _Shop = field(default_factory=_Shop)
    held: _Held = field(default_factory=_Held)
    kills: int = 0
    _number: int = 0

    def run(self, seconds: float) -> None:
        """Go on for so long."""
        began = time.monotonic()
        next_kill, next_sample = began + KILL_EVERY / 2, began
        with Producer(self.service.producer) as client:
            while (now := time.monotonic()) < began + seconds:
                self._say(client)
                if now >= next_kill:
                    self.service.kill(self.chance.choice(KILLED))
                    self.kills, next_kill = self.kills + 1, now + self._to_the_next_kill()
                self.service.tend()
                self.service.start()
                if now >= next_sample:
                    self.held.sample(self.service)
                    next_sample = now + SAMPLE_EVERY
                time.sleep(0.25)

    def _to_the_next_kill(self) -> float:
        return self.chance.uniform(0.5, 1.5) * KILL_EVERY

    def _say(self, client: Producer) -> None:
        """A few new or changed products, and now and then a removal."""
        rows = dict(self._row() for _ in range(self.chance.randint(1, 12)))
        client.add_many([{"product_id": id_, "image": path} for id_, path in rows.items()])
        for id_, path in rows.items():
            self.shop.said(id_, fine=path != self.bad)
        if self.shop.products and self.chance.random() < 0.2:
            gone = self.chance.choice(list(self.shop.products))
            client.remove(gone)
            del self.shop.products[gone]
            self.shop.removed.add(gone)

    def _row(self) -> tuple[str, Path]:
        path = self.bad if self.chance.random() < BAD else self.chance.choice(self.good)
        if self.shop.products and self.chance.random() < 0.2:
            return self.chance.choice(list(self.shop.products)), path
        self._number += 1
        return f"p{self._number}", path


@contextmanager
def _asked(service: Group, shop: _Shop, chance: Random) -> Iterator[None]:
    """Look products up, and now and then a picture, while the block runs."""
    stop = threading.Event()
    sample = (service.folder / "pictures" / "0.jpg").read_bytes()

    def ask() -> None:
        with Producer(service.producer) as client:
            while not stop.wait(0.1):
                _look_up(client, shop, sample, chance)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        stop.set()
        asking.join()


def _look_up(client: Producer, shop: _Shop, sample: bytes, chance: Random) -> None:
    known = list(shop.fine)
    if not known:
        return
    shop.asked += 1
    try:
        if chance.random() < 0.2:
            client.find_similar(image=sample).result(30.0)
        else:
            client.find_similar_many(chance.sample(known, min(3, len(known)))).result(30.0)
    except LookalikeError as error:
        shop.failed.append(f"{type(error).__name__}: {error}")


# -- what came of it ------------------------------------------------------------------------------


def _contradictions(shop: _Shop, found: Catalogue) -> list[str]:
    live, dead = found.vectors.keys(), found.letters.keys()
    broken = [f"lost: {id_}" for id_ in sorted(shop.fine - live)]
    broken += [f"should be gone: {id_}" for id_ in sorted(live - shop.products.keys())]
    broken += [
        f"was never good: {id_}" for id_ in sorted(live & (shop.products.keys() - shop.fine))
    ]
    broken += [f"bad and no dead letter: {id_}" for id_ in sorted(shop.bad - dead)]
    broken += [f"dead letter of a good picture: {id_}" for id_ in sorted(dead - shop.bad)]
    if found.given_up != shop.bad_sent:
        broken.append(f"{found.given_up} dead letters of {shop.bad_sent} bad pictures")
    # A worker that is killed takes a lookup by picture with it now and then: whoever wants it asks again.
    failed = {each for each in shop.failed if not each.startswith("LookupTimeout")}
    return broken + [f"a lookup failed: {each}" for each in sorted(failed)]


def _growth(held: _Held) -> list[str]:
    broken = []
    for role, mib in held.memory.items():
        if _more(mib) > GROWTH_MIB:
            broken.append(f"{role} grew by {_more(mib):.0f} MiB")
    for role, count in held.descriptors.items():
        if _more(count) > GROWTH_FILES:
            broken.append(f"{role} has {_more(count):.0f} more files open")
    if _more(held.files) > 3 * GROWTH_FILES:
        broken.append(f"{_more(held.files):.0f} more files in the data folder")
    return broken


def _more(values: list[float] | list[int]) -> float:
    """How much the last tenth is above the second fifth, by their medians."""
    if len(values) < 5:
        return 0.0
    early = sorted(values[len(values) // 5 : 2 * len(values) // 5 + 1])
    late = sorted(values[-max(1, len(values) // 10) :])
    return late[len(late) // 2] - early[len(early) // 2]


def _shown(held: _Held) -> str:
    mib = max((_more(each) for each in held.memory.values()), default=0.0)
    descriptors = max((_more(each) for each in held.descriptors.values()), default=0.0)
    return f"memory {mib:+.0f} MiB, descriptors {descriptors:+.0f}, files {_more(held.files):+.0f}"
