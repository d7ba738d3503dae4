"""A disk that fills up while the index is built: a limit on files, a small disk, and one under a whole service."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import small_disk
from tests.faults.disk_service import NAMED, Served
from tests.faults.hive import Hive, HiveWorker
from tests.faults.index_builders import BUILD
from tests.faults.index_site import Site, index_preferred, site
from tests.faults.promise import Scale, Shown
from tests.services import DatabaseFactory, start_postgres, start_valkey

PRELOAD = ("tests.faults.small_disk", "tests.faults.disk_service")
STEPS = ("begun", "read", "sorted", "tuned", "synced")
"""From where on the limit holds. Before the first, Annoy is tried in the folder for temporary files."""
ELSEWHERE = "TMPDIR"
"""What is named instead where the check of the new index could not try Annoy."""
TIMEOUT = 900.0


@dataclass
class Limited:
    """Builds none of whose files can grow beyond a limit."""

    hive: Hive
    site: Site
    chance: random.Random
    failed: int = 0
    built: int = 0
    broken: list[str] = field(default_factory=list)

    def run(self, trials: int) -> None:
        """Try so many limits."""
        self.broken += self._recover()
        sizes = sorted(path.stat().st_size for path in self._directory.iterdir())
        for number in range(trials):
            step = self.chance.choice(STEPS)
            # About as many bytes as one of the files has: then it is another one each time that fails.
            limit = max(0, self.chance.choice(sizes) - self.chance.choice((1, 1000)))
            self.broken += [
                f"{limit} bytes from {step!r} on: {each}" for each in self._trial(step, limit)
            ]
            if number % 4 == 3:
                self.broken += self._recover()

    @property
    def _directory(self) -> Path:
        row = self.site.current()
        assert row is not None
        return self.site.data_dir / row.directory

    def _trial(self, step: str, limit: int) -> Iterator[str]:
        self.site.change()
        builder = self._builder(step=step, limit=limit)
        code = builder.wait(TIMEOUT)
        if code:
            yield f"the builder ended with {code}: {builder.last_words()}"
        else:
            yield from self._judge(builder.result())
        yield from self.site.problems()
        yield from self.site.litter()

    def _judge(self, result: Mapping[str, Any]) -> Iterator[str]:
        if result["built"] is not None:
            self.built += 1
        elif any(name in result.get("failed", "") for name in (NAMED, ELSEWHERE)):
            self.failed += 1
        else:
            yield f"the builder ended with {result}"

    def _recover(self) -> Iterator[str]:
        self.site.change()
        result = self._builder().result()
        if result["built"] is None:
            yield f"without a limit: {result}"
        yield from self.site.problems()
        yield from self.site.litter()

    def _builder(self, **trap: object) -> HiveWorker:
        place = {"database_url": self.site.database_url, "data_dir": str(self.site.data_dir)}
        return self.hive.call(BUILD, **place, **trap)


def show(scale: Scale, folder: Path) -> Shown:
    """Limits beside small disks, with the catalogue elsewhere and on them; then a service."""
    with ExitStack() as opened:
        hive = opened.enter_context(Hive(folder / "hive", PRELOAD))
        redis = start_valkey(folder=folder)
        opened.callback(redis.stop)
        postgres = start_postgres()
        opened.callback(postgres.stop)
        disks = [_small_disk(hive, folder, scale, name) for name in ("small-disk", "same-disk")]
        url = opened.enter_context(DatabaseFactory("postgresql", folder, postgres).migrated())
        opened.enter_context(index_preferred())
        chance = scale.chance("disk full")
        of = opened.enter_context(site(url, folder / "data", chance, small_disk.PRODUCTS))
        limited = Limited(hive, of, chance)
        limited.run(scale.of(120, 6))
        results = [disk.result(TIMEOUT) for disk in disks]
        served = Served(hive, of, redis.url)
        broken = [*served.run(scale.of(5, 1), patient=False)]
        if not scale.short:
            broken += served.run(1, patient=True)
        return _shown(limited, results, served, broken)


def _small_disk(hive: Hive, folder: Path, scale: Scale, name: str) -> HiveWorker:
    return hive.call(
        small_disk.RUN,
        folder=str(folder / name),
        seed=str(scale.chance(name).random()),
        trials=scale.of(120, 6),
        same_disk=name == "same-disk",
    )


def _shown(
    limited: Limited, disks: Sequence[Mapping[str, Any]], served: Served, broken: list[str]
) -> Shown:
    skipped = [each["skipped"] for each in disks if "skipped" in each]
    on_disks = sum(each.get("failed", 0) for each in disks)
    builds = limited.built + sum(each.get("built", 0) for each in disks)
    problems = [
        *limited.broken,
        *(each for disk in disks for each in disk.get("broken", ())),
        *broken,
    ]
    of_disks = f"small disks skipped ({skipped[0]})" if skipped else f"{on_disks} by a full tmpfs"
    return Shown(
        f"{limited.failed} builds ended by a limit on files, {of_disks}, {builds} fitted; the service built again "
        f"{served.waited:.1f} s after; {len(problems)} contradictions",
        tuple(problems),
        {"by limit": limited.failed, "by tmpfs": on_disks, "skipped": skipped, "fitted": builds},
    )
