"""Builders of the index that die at every step, race each other, oversleep, and are started twice."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.hive import Hive, HiveError
from tests.faults.index_builders import BUILD
from tests.faults.index_rivals import Rivals
from tests.faults.index_site import Site, index_preferred, site
from tests.faults.index_watchers import Watchers
from tests.faults.promise import Scale, Shown
from tests.services import DatabaseFactory, start_postgres, start_valkey
from worker.index.builder import STEPS

PRELOAD = ("tests.faults.index_watchers",)
SHORT_LEASE = 0.1
PATIENCE = 40.0
LATEST = {"renamed": 0.6, "published": 0.004}
"""Seconds after a step within which a builder dies, so that it dies between two steps too."""
SOON = 0.1


@dataclass
class Trial:
    """What a catalogue in one kind of database is put through."""

    name: str
    hive: Hive
    site: Site
    chance: random.Random
    rivals: Rivals
    deaths: int = 0
    kills: int = 0
    generations: int = 0
    broken: list[str] = field(default_factory=list)

    def run(self, per_step: int, exactly_first: bool, rounds: int) -> None:
        """The steps, then the rivals."""
        self._note("the first build", self._rebuilt())
        for step in STEPS:
            self._kill_at(step, per_step, exactly_first)
        for _ in range(rounds):
            self._note("at once", self.rivals.together())
            self._note("beside another", self.rivals.beside())
            self._note("overtaken", self.rivals.overtaken())
        self.generations = len(self.site.numbers())

    def _kill_at(self, step: str, deaths: int, exactly_first: bool) -> None:
        """Die so many times, by turns at the step and a little after it, where a quick one may escape."""
        enough = self.deaths + deaths
        exactly = exactly_first
        for _ in range(3 * deaths):
            after = 0.0 if exactly else self.chance.uniform(0, LATEST.get(step, SOON))
            self._note(f"killed {after:.3f} s after {step!r}", self._killed(step, after))
            exactly = not exactly
            if self.deaths == enough:
                return

    def watch(self, folder: Path, redis_url: str, seconds: float, kill_every: float) -> None:
        """Two beats and two index workers."""
        folder.mkdir(parents=True)
        before = len(self.site.numbers())
        watchers = Watchers(self.hive, self.site, folder, redis_url, self.chance, before)
        self._note("two beats and two index workers", watchers.run(seconds, kill_every))
        self.kills = len(watchers.died)
        self.generations = len(self.site.numbers())

    def _note(self, what: str, problems: Iterator[str]) -> None:
        try:
            for each in problems:
                self.broken.append(f"{self.name}, {what}: {each}")
        except (HiveError, TimeoutError) as error:  # the others are still worth trying
            self.broken.append(f"{self.name}, {what}: {error}")

    def _killed(self, step: str, after: float) -> Iterator[str]:
        """Die in a build; before and after the next one everything must be right."""
        self.site.change()
        before = self.site.highest
        builder = self.hive.call(
            BUILD, **self._place, lease_ttl=SHORT_LEASE, step=step, dies=True, after=after
        )
        code = builder.wait()
        self.deaths += code == -signal.SIGKILL
        if code != -signal.SIGKILL and not (code == 0 and after):
            yield f"the builder ended with {code}: {builder.last_words()}"
        yield from self.site.problems()
        allowed = {before, before + 1} if after else {before + (step == "published")}
        if self.site.highest not in allowed:
            yield f"the pointer names {self.site.highest}, not {allowed}"
        self.site.change()
        yield from self._rebuilt()

    def _rebuilt(self) -> Iterator[str]:
        result = self.hive.call(BUILD, **self._place, patience=PATIENCE).result()
        if result["built"] is None:
            yield f"the next build: {result}"
        yield from self.site.problems()
        yield from self.site.litter()
        if self.site.highest != result["built"]:
            yield f"{result['built']} was built, the pointer names {self.site.highest}"

    @property
    def _place(self) -> dict[str, str]:
        return {"database_url": self.site.database_url, "data_dir": str(self.site.data_dir)}


def show(scale: Scale, folder: Path) -> Shown:
    """Every step and the rivals, on both databases side by side; then two of each process."""
    with ExitStack() as opened:
        hive = opened.enter_context(Hive(folder / "hive", PRELOAD))
        redis = start_valkey(folder=folder)
        opened.callback(redis.stop)
        postgres = start_postgres()
        opened.callback(postgres.stop)
        opened.enter_context(index_preferred())
        trials = [
            _trial(opened, scale, folder, hive, databases)
            for databases in (
                DatabaseFactory("sqlite", folder),
                DatabaseFactory("postgresql", folder, postgres),
            )
        ]
        with ThreadPoolExecutor(len(trials)) as lanes:
            running = [
                lanes.submit(trial.run, scale.of(10, 1), trial is trials[0], scale.of(20, 1))
                for trial in trials
            ]
        for each in running:
            each.result()
        for trial in trials[: scale.of(2, 1)]:
            place = folder / trial.name / "watchers"
            trial.watch(place, redis.url, scale.of(40, 3), scale.of(4, 2))
        return _shown(trials)


def _trial(
    opened: ExitStack, scale: Scale, folder: Path, hive: Hive, databases: DatabaseFactory
) -> Trial:
    chance = scale.chance("index", databases.kind)
    url = opened.enter_context(databases.migrated())
    place = folder / databases.kind
    of = opened.enter_context(site(url, place / "data", chance))
    return Trial(databases.kind, hive, of, chance, Rivals(hive, of, place / "rounds", chance))


def _shown(trials: list[Trial]) -> Shown:
    deaths = sum(trial.deaths for trial in trials)
    races = sum(trial.rivals.rounds for trial in trials)
    kills = sum(trial.kills for trial in trials)
    generations = sum(trial.generations for trial in trials)
    answers = sum(trial.site.answered for trial in trials)
    broken = tuple(each for trial in trials for each in trial.broken)
    return Shown(
        f"{deaths} deaths at {len(STEPS)} steps, {races} races of two builders, {kills} kills among two beats "
        f"and two index workers: {generations} generations, {answers} answers, {len(broken)} contradictions",
        broken,
        {
            "deaths": deaths,
            "races": races,
            "kills": kills,
            "generations": generations,
            "answers": answers,
        },
    )
