"""Dies at every crash point, once or more, and looks whether everything converges."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from redis import Redis

from tests.faults.crash_points import Crash, Point, armed, points
from tests.faults.episodes import JOBS, Episode
from tests.faults.episodes_index import INDEX
from tests.faults.episodes_process import PROCESSES
from tests.faults.episodes_rollout import ROLLOUT
from tests.faults.promise import Scale, Shown
from tests.faults.world import World
from tests.services import DatabaseFactory, start_valkey

FAILED = 70
"""Exit code of a child that raised."""


class Stage:
    """Runs episodes, each in a world of its own, in children that may die."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self._folder = folder
        self._redis_url = redis_url
        self._said = folder / "children.log"
        self._databases = DatabaseFactory("sqlite", folder)
        self._runs = 0

    def rehearse(self, episode: Episode) -> Counter[Point]:
        """Run the episode without a crash; the points that it comes to, and how often."""
        with self._world() as world:
            log = world.folder / "visits"
            problems = self._play(episode, world, None, log)
            if problems:
                raise AssertionError(f"{episode.name} fails without any crash: {problems}")
            lines = log.read_text().splitlines() if log.exists() else []
        return Counter(Point(line[2:], line.startswith("1")) for line in lines)

    def crash(self, episode: Episode, crash: Crash) -> list[str]:
        """Run the episode, with a death in its act; what is wrong after it has settled."""
        with self._world() as world:
            return self._play(episode, world, crash, None)

    def _play(
        self, episode: Episode, world: World, crash: Crash | None, log: Path | None
    ) -> list[str]:
        in_child(lambda: episode.prepare(world), self._said)

        def act() -> None:
            with armed(crash, log):
                episode.act(world)

        in_child(act, self._said, dies=crash is not None)
        in_child(lambda: episode.settle(world), self._said)
        return in_child_with_answer(
            lambda: episode.check(world), world.folder / "problems", self._said
        )

    def _world(self) -> _Worlds:
        self._runs += 1
        return _Worlds(self._folder / str(self._runs), self._redis_url, self._databases)


class _Worlds:
    """A world while a block runs."""

    def __init__(self, folder: Path, redis_url: str, databases: DatabaseFactory) -> None:
        self._folder = folder
        self._redis_url = redis_url
        self._database = databases.migrated()

    def __enter__(self) -> World:
        world = World(self._folder, self._redis_url, self._database.__enter__())
        world.data_dir.mkdir(parents=True)
        with Redis.from_url(self._redis_url) as redis:
            redis.flushall()
        return world

    def __exit__(self, *error: object) -> None:
        self._database.__exit__(None, None, None)
        shutil.rmtree(self._folder)


def in_child(work: Callable[[], None], log: Path, *, dies: bool = False) -> None:
    """Do something in a fork, which writes what it says to a log, and wait; with `dies` it must be killed."""
    child = os.fork()
    if child == 0:
        code = FAILED
        try:
            _write_to(log)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    expected = -signal.SIGKILL if dies else 0
    if code != expected:
        raise AssertionError(f"a child ended with {code} instead of {expected}: {_end_of(log)}")


def _write_to(log: Path) -> None:
    with log.open("ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)


def _end_of(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def in_child_with_answer(work: Callable[[], Sequence[str]], path: Path, log: Path) -> list[str]:
    """The lines that something done in a fork gives."""

    def answer() -> None:
        path.write_text("\n".join(work()))

    in_child(answer, log)
    return path.read_text().splitlines()


def plan(scale: Scale, visited: Counter[Point]) -> Iterator[Crash]:
    """Where an episode dies: at each point's first visit; in the long form at the last, and one between, too.

    How often a lease is renewed depends on the time that it takes: only once is certain.
    """
    for point, count in sorted(visited.items()):
        often = not (scale.short or point.name.endswith("._keep"))
        visits = {1, count, scale.chance(point).randint(1, count)} if often else {1}
        yield from (Crash(point, visit) for visit in sorted(visits))


def show(scale: Scale, folder: Path) -> Shown:
    """Every crash point is visited, and everything converges."""
    server = start_valkey(folder=folder)
    try:
        return _show(scale, Stage(folder, server.url), EPISODES)
    finally:
        server.stop()


def _show(scale: Scale, stage: Stage, episodes: Sequence[Episode]) -> Shown:
    broken: list[str] = []
    died: Counter[Point] = Counter()
    for episode in episodes:
        visited = stage.rehearse(episode)
        known_here = Counter({p: n for p, n in visited.items() if episode.only in p.name})
        for crash in plan(scale, known_here):
            try:
                problems = stage.crash(episode, crash)
            except AssertionError as error:
                problems = [str(error)]
            died[crash.point] += 1
            broken += [
                f"{episode.name}, {crash.point}, visit {crash.visit}: {each}" for each in problems
            ]
    known = points()
    broken += [f"not visited: {point}" for point in sorted(known - died.keys())]
    broken += [f"not in the source: {point}" for point in sorted(died.keys() - known)]
    return Shown(
        f"{len(died.keys() & known)} of {len(known)} points visited, {died.total()} deaths, "
        f"{len(broken)} contradictions",
        tuple(broken),
        {"points": len(known), "visited": len(died), "deaths": died.total()},
    )


EPISODES: tuple[Episode, ...] = (*JOBS, *INDEX, *PROCESSES, *ROLLOUT)
