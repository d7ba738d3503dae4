"""What the command line writes: tables or JSON to stdout; progress, notes and errors to stderr."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from producer import logs

LINE_EVERY = 5.0
"""Seconds between two lines of progress where there is no terminal."""


class Meter(Protocol):
    """Shows how far a piece of work is."""

    def __call__(self, accepted: int, applied: int | None) -> None:
        """Pictures accepted so far, and applied so far if that is waited for."""


@dataclass(frozen=True)
class Terminal:
    """Where a command writes. With `json`, stdout gets one JSON value and nothing else."""

    json: bool = False
    quiet: bool = False

    def data(self, value: object) -> None:
        """Write one JSON value."""
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def show(self, renderable: object) -> None:
        """Write a table or a line for people."""
        Console(highlight=False, soft_wrap=not isinstance(renderable, Table)).print(renderable)

    def line(self, text: str) -> None:
        """Write a line of results; it is never wrapped or coloured."""
        sys.stdout.write(visible(text) + "\n")

    def note(self, text: str) -> None:
        """Write a line beside the results, unless asked to be quiet."""
        if not self.quiet and not self.json:
            sys.stderr.write(visible(text) + "\n")

    def warn(self, text: str) -> None:
        """Write a warning."""
        sys.stderr.write(f"warning: {visible(text)}\n")

    @contextmanager
    def meter(self, total: int, *, waiting: bool, done: str = "accepted") -> Iterator[Meter]:
        """Show progress while the block runs: bars on a terminal, a line now and then elsewhere."""
        if self.quiet or self.json:
            yield _no_meter
        elif sys.stderr.isatty():
            with _bars() as progress:
                yield _bar_meter(progress, total, done, waiting=waiting)
        else:
            yield _LineMeter(total, done)


def visible(text: str) -> str:
    """The text with everything that a terminal would act on replaced."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str]) -> Table:
    """A table; the columns named in `right` are numbers."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(visible(str(cell))) for cell in row))
    return made


def report(error: BaseException, text: str, exit_code: int, *, as_json: bool) -> None:
    """Write an error to stderr, as one line or as JSON."""
    if logs.is_json():
        logging.getLogger(__name__).critical("%s", text)
        return
    if as_json:
        value: dict[str, Any] = {"type": type(error).__name__, "message": text}
        reason = getattr(error, "reason", None)
        if reason is not None:
            value["reason"] = str(reason)
        line = json.dumps({"error": value | {"exit_code": exit_code}}, ensure_ascii=False)
    else:
        line = f"error: {visible(' '.join(text.split()))}"
    sys.stderr.write(line + "\n")


def _no_meter(accepted: int, applied: int | None) -> None:
    """Show nothing."""


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("[dim]{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _bar_meter(progress: Progress, total: int, done: str, *, waiting: bool) -> Meter:
    started = time.monotonic()
    accepting = progress.add_task(done, total=total, rate="")
    applying = progress.add_task("applied", total=total, rate="") if waiting else None

    def update(accepted: int, applied: int | None) -> None:
        seconds = max(time.monotonic() - started, 1e-9)
        progress.update(accepting, completed=accepted, rate=f"{accepted / seconds:,.0f}/s")
        if applying is not None and applied is not None:
            progress.update(applying, completed=applied, rate=f"{applied / seconds:,.0f}/s")

    return update


class _LineMeter:
    """A line every few seconds, for logs."""

    def __init__(self, total: int, done: str) -> None:
        self._total = total
        self._done = done
        self._next = time.monotonic() + LINE_EVERY

    def __call__(self, accepted: int, applied: int | None) -> None:
        """Write a line if it is time."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LINE_EVERY
        more = "" if applied is None else f", {applied:,} applied"
        sys.stderr.write(f"{accepted:,} of {self._total:,} pictures {self._done}{more}\n")
