"""Builds, questions and memory of systems: each in a fresh process, one thread to a question."""

from __future__ import annotations

import multiprocessing
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tests.benchmarks import index_memory
from tests.benchmarks.fresh import Measured, measured
from tests.benchmarks.index_curves import Curve, Point
from tests.benchmarks.index_questions import Questions
from tests.benchmarks.index_run import LIMIT
from tests.benchmarks.index_systems import Build, Searcher, Setting, System

WARM_UP = 100
"""Questions at each setting before those that are timed."""
DEADLINE = 600.0
"""Seconds for a process to open an index and answer."""


@dataclass(frozen=True)
class Turn:
    """A system asked all questions at one setting."""

    setting: Setting
    answers: list[list[int]]
    """For each question, the product asked about left out."""
    ms: NDArray[np.float64]
    """Of each question."""


@dataclass(frozen=True)
class Resident:
    """Memory of processes that have an index open and have asked it, in bytes."""

    total: int
    """Proportional, of all together and of the servers that they need."""
    before: int
    """Before they opened it: the interpreters and what they imported."""


# -- building -------------------------------------------------------------------------------------


def build(system: System, rows: Path, folder: Path) -> Measured[Build]:
    """Build in a process of its own."""
    folder.mkdir(exist_ok=True)
    return measured(system.build, rows, folder)


# -- asking ---------------------------------------------------------------------------------------


def turns(
    system: System, folder: Path, questions: Questions, settings: list[Setting] | None = None
) -> list[Turn]:
    """Ask one question after the other at each setting (all when None), in a process of its own."""
    asked = settings or system.settings(folder)
    return measured(_turns, system, folder, questions, asked).result


def _turns(
    system: System, folder: Path, questions: Questions, settings: list[Setting]
) -> list[Turn]:
    searcher = system.open(folder)
    with threadpool_limits(1):
        return [_turn(searcher, questions, setting) for setting in settings]


def _turn(searcher: Searcher, questions: Questions, setting: Setting) -> Turn:
    searcher.use(setting)
    asked = list(zip(questions.numbers.tolist(), questions.vectors, strict=True))
    for number, vector in asked[:WARM_UP]:
        searcher.ask(number, vector)
    answers, taken = [], []
    for number, vector in asked:
        begun = time.perf_counter()
        found = searcher.ask(number, vector)
        taken.append((time.perf_counter() - begun) * 1000)
        others = [each for each in searcher.numbers(found) if each != number]
        answers.append(others[:LIMIT])
    return Turn(setting, answers, np.array(taken))


def curve(system: System, rounds: Sequence[list[Turn]], questions: Questions) -> Curve:
    """A system's recall and time at each setting: of several turns, the medians."""
    at: dict[Setting, list[Turn]] = defaultdict(list)
    for turn in (turn for each in rounds for turn in each):
        at[turn.setting].append(turn)
    points = [_point(setting, turns, questions) for setting, turns in at.items()]
    return Curve(system.name, tuple(points))


def _point(setting: Setting, turns: list[Turn], questions: Questions) -> Point:
    return Point(
        setting=str(setting),
        recall=float(np.median([questions.recall(turn.answers) for turn in turns])),
        ms=float(np.median([np.median(turn.ms) for turn in turns])),
        slow=float(np.median([np.percentile(turn.ms, 95) for turn in turns])),
        default=setting.default,
    )


# -- memory ---------------------------------------------------------------------------------------


def resident(system: System, folder: Path, questions: Questions, processes: int) -> Resident:
    """Memory of so many processes that have each opened the index and asked all the questions."""
    context = multiprocessing.get_context("spawn")
    pipes, asking = [], []
    for _ in range(processes):
        ours, theirs = context.Pipe()
        process = context.Process(target=_stay, args=(system, folder, questions, theirs))
        process.start()
        theirs.close()
        pipes.append(ours)
        asking.append(process)
    try:
        pids = [process.pid for process in asking if process.pid is not None]
        _await(pipes)
        before = index_memory.total(pids)
        _release(pipes)
        _await(pipes)
        total = index_memory.total([*pids, *system.servers()])
        _release(pipes)
    finally:
        for process in asking:
            process.join(DEADLINE)
            process.kill()
    return Resident(total, before)


def _stay(system: System, folder: Path, questions: Questions, pipe: Connection) -> None:
    """Wait to be measured without the index, then with it."""
    _pause(pipe)
    searcher = system.open(folder)
    default = next(each for each in system.settings(folder) if each.default)
    with threadpool_limits(1):
        searcher.use(default)
        for number, vector in zip(questions.numbers.tolist(), questions.vectors, strict=True):
            searcher.ask(number, vector)
        _pause(pipe)


def _pause(pipe: Connection) -> None:
    pipe.send(None)
    pipe.recv()


def _await(pipes: list[Connection]) -> None:
    for pipe in pipes:
        if not pipe.poll(DEADLINE):
            raise TimeoutError("a process did not open the index")
        pipe.recv()


def _release(pipes: list[Connection]) -> None:
    for pipe in pipes:
        pipe.send(None)
