"""Two builders of one index: at once, and one that slept while the other took its place."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.hive import Hive, HiveWorker
from tests.faults.index_builders import BUILD, Gate, wait_for
from tests.faults.index_site import Site
from worker.index.builder import STEPS

PATIENCE = 40.0
"""Seconds that a builder tries to get the lease."""


@dataclass
class Rivals:
    """Rounds of two builders; each must have one winner."""

    hive: Hive
    site: Site
    folder: Path
    chance: random.Random
    rounds: int = 0
    sleepers: int = 0
    won: list[int] = field(default_factory=list)
    """Numbers that builders said they had published."""

    def together(self) -> Iterator[str]:
        """Released at the same moment: one builds, the other says that somebody else does."""
        folder = self._folder()
        gate = Gate(folder / "gate")
        with gate.shut():
            both = [self._builder(gate=str(gate.path)) for _ in range(2)]
            for builder in both:
                wait_for(folder / f"waits-{builder.pid}")
        numbers = [builder.result()["built"] for builder in both]
        winners = [number for number in numbers if number is not None]
        if len(winners) != 1:
            yield f"{len(winners)} of two builders that were released at once won"
        self.won += winners
        for builder, number in zip(both, numbers, strict=True):
            if number is None:
                yield from _stays_out(builder)
        yield from self._after()

    def beside(self) -> Iterator[str]:
        """One comes while the other is in the middle of its build: it changes nothing."""
        folder = self._folder()
        step = self.chance.choice(STEPS)
        first = self._builder(folder / "first", step)
        wait_for(folder / "first")
        yield from _stays_out(self._builder())
        (folder / "first-may-go-on").touch()
        result = first.result()
        if result["built"] is None:
            yield f"disturbed at {step!r}, the builder ended with {result}"
        else:
            self.won.append(result["built"])
        yield from (f"disturbed at {step!r}: {each}" for each in self._after())

    def overtaken(self) -> Iterator[str]:
        """One falls asleep and wakes when another one has its lease and is in the middle of its own build."""
        folder = self._folder()
        slow_at, quick_at = self._steps()
        slow = self._builder(folder / "slow", slow_at)
        wait_for(folder / "slow")
        slow.stop_signal()
        self.site.let_the_lease_run_out()
        quick = self._builder(folder / "quick", quick_at, patience=PATIENCE)
        wait_for(folder / "quick")
        (folder / "slow-may-go-on").touch()
        slow.cont()
        late = slow.result()
        (folder / "quick-may-go-on").touch()
        result = quick.result()
        when = f"asleep at {slow_at!r}, woken at the other's {quick_at!r}"
        if "superseded" not in late:
            yield f"{when}: the late builder ended with {late}"
        if result["built"] is None:
            yield f"{when}: the one that had the lease ended with {result}"
        self.won += [each["built"] for each in (late, result) if each["built"] is not None]
        yield from (f"{when}: {each}" for each in self._after())

    def _steps(self) -> tuple[str, str]:
        """Where they are; every other time both are about to publish, and only the token tells them apart."""
        self.sleepers += 1
        if self.sleepers % 2:
            return "checked", "checked"
        return self.chance.choice(STEPS[:-1]), self.chance.choice(STEPS)

    def _builder(self, arrived: Path | None = None, step: str = "", **options: Any) -> HiveWorker:
        if arrived is not None:
            until = str(arrived.with_name(f"{arrived.name}-may-go-on"))
            options |= {"step": step, "arrived": str(arrived), "until": until}
        return self.hive.call(
            BUILD, database_url=self.site.database_url, data_dir=str(self.site.data_dir), **options
        )

    def _folder(self) -> Path:
        self.rounds += 1
        self.site.change()
        folder = self.folder / f"round-{self.rounds}"
        folder.mkdir(parents=True)
        return folder

    def _after(self) -> Iterator[str]:
        yield from self.site.problems()
        yield from self.site.litter()
        if len(set(self.won)) < len(self.won):
            yield f"one number was won twice: {self.won}"


def _stays_out(builder: HiveWorker) -> Iterator[str]:
    """Whether a builder said who was at it, and did nothing."""
    result = builder.result()
    if result != {"built": None}:
        yield f"a second builder ended with {result}"
    elif "holds the lease" not in builder.log.read_text():
        yield "a second builder did not say why it built nothing"
