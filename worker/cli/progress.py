"""Shows how far long work is: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from worker.cli.shell import stderr

LINE_EVERY = 5.0
"""Seconds between two lines where there is no terminal."""

OnStep = Callable[[str, float], None]
"""Called with the name of a step and the share of it that is done."""


@contextmanager
def meter(titles: Mapping[str, str], *, quiet: bool = False) -> Iterator[OnStep]:
    """Show the steps that the block reports, under their titles; nothing when `quiet`."""
    if quiet:
        yield lambda step, share: None
    elif sys.stderr.isatty():
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            console=stderr,
            transient=True,
        ) as progress:
            yield _Bars(progress, titles)
    else:
        yield _Lines(titles)


class _Bars:
    """A bar for each step; one that comes again begins anew."""

    def __init__(self, progress: Progress, titles: Mapping[str, str]) -> None:
        self._progress = progress
        self._titles = titles
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, step: str, share: float) -> None:
        if step not in self._tasks:
            self._tasks[step] = self._progress.add_task(self._titles.get(step, step), total=1.0)
        self._progress.update(self._tasks[step], completed=share)


class _Lines:
    """A line every few seconds, for logs."""

    def __init__(self, titles: Mapping[str, str]) -> None:
        self._titles = titles
        self._next = time.monotonic() + LINE_EVERY

    def __call__(self, step: str, share: float) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY
            sys.stderr.write(f"{self._titles.get(step, step)}: {share:.0%}\n")
