"""Says what the demo is doing: a progress bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

LINES = 4
"""Lines that one bar is worth where there is no terminal."""
Advance = Callable[[int], object]
"""Takes how much is done so far."""


class Show:
    """Where the demo's progress goes."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        """One line of plain text."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def bar(self, text: str, total: int) -> Iterator[Advance]:
        """A bar that grows to `total`, for the length of a `with` block."""
        if not self.console.is_terminal:
            yield self._lines(text, total)
            return
        columns = (
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(text, total=total)
            yield lambda done: progress.update(task, completed=done)

    def _lines(self, text: str, total: int) -> Advance:
        shown = 0

        def advance(done: int) -> None:
            nonlocal shown
            quarter = done * LINES // max(total, 1)
            if quarter > shown:
                shown = quarter
                self.say(f"{text}: {done} of {total}")

        return advance
