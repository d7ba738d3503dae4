"""A catalogue four times as large: whether the build's memory and time, and the lookups, keep in step."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks import index_asking
from tests.benchmarks.fresh import Measured
from tests.benchmarks.index_asking import Turn
from tests.benchmarks.index_curves import Point
from tests.benchmarks.index_material import Material, material
from tests.benchmarks.index_own import COUNTED, DATABASE, Own, newest
from tests.benchmarks.index_run import LIMIT, MIB, Run, Section
from tests.benchmarks.index_systems import Build
from tests.benchmarks.report import Row, workspace

TITLE = "million"
MEMORY = 8 * 1024
"""MiB."""
NOISE = 1.15
"""What a build may take longer by chance: two of the same differ by up to a tenth on a shared machine."""
SLOWER = 2.0


@dataclass
class Measurement:
    """What is known of one size."""

    made: Material
    folder: Path
    builds: list[Measured[Build]] = field(default_factory=list)
    turns: list[list[Turn]] = field(default_factory=list)

    @property
    def system(self) -> Own:
        """The index as it comes."""
        return Own("annoy", self.folder / DATABASE)

    @property
    def seconds(self) -> float:
        """Of a whole rebuild: the median."""
        return statistics.median(self.part("whole rebuild"))

    @property
    def own_seconds(self) -> float:
        """Of the steps that are an index's own: the median."""
        return statistics.median(build.result.seconds for build in self.builds)

    def part(self, name: str) -> list[float]:
        """Seconds of a step in each build."""
        return [build.result.parts.get(name, 0.0) for build in self.builds]

    @property
    def peak(self) -> int:
        """Greatest memory of a build in bytes."""
        return max(build.peak for build in self.builds)

    @property
    def default(self) -> Point:
        """The index search at the parameters that the build found."""
        return index_asking.curve(self.system, self.turns, self.made.questions).default

    def build(self) -> None:
        """Once more."""
        self.builds.append(index_asking.build(self.system, self.made.rows, self.folder))

    def ask(self) -> None:
        """Once more, as tuned."""
        tuned = [each for each in self.system.settings(self.folder) if each.default]
        asked = index_asking.turns(self.system, self.folder, self.made.questions, tuned)
        self.turns.append(asked)


def measure(run: Run) -> None:
    """Build and ask both sizes by turns."""
    section = Section(run, TITLE)
    with workspace(run.out) as folder:
        sizes = [_measurement(run, size, folder) for size in (run.scale.size, run.scale.large)]
        for turn in range(run.scale.repeats):
            for each in sizes:
                if turn == 0 or each is sizes[0]:
                    each.build()
                    section.say(f"{each.made.size:,} built in {each.seconds:.1f} s")
        for _ in range(run.scale.repeats):
            for each in sizes:
                each.ask()
        section.table("sizes", [_row(each) for each in sizes])
        section.table("steps of a rebuild, s", _steps(sizes))
        _judge(section, *sizes)
    section.note(f"{sizes[1].made.described}.")


def _measurement(run: Run, size: int, folder: Path) -> Measurement:
    place = folder / str(size)
    made = material(run, size, place)
    made.rows.unlink()  # the catalogue has them
    return Measurement(made, place)


def _row(each: Measurement) -> Row:
    described = newest(each.folder)
    return {
        "vectors": each.made.size,
        "rebuild s": each.seconds,
        "builds": len(each.builds),
        "peak MiB": each.peak / MIB,
        "files MiB": each.builds[-1].result.bytes / MIB,
        "effort": described.parameters.effort,
        f"recall@{LIMIT}": each.default.recall,
        "as measured by the build": described.recall,
        "ms": each.default.ms,
        "p95 ms": each.default.slow,
    }


def _steps(sizes: list[Measurement]) -> list[Row]:
    return [
        {
            "step": name,
            **{f"{each.made.size:,}": statistics.median(each.part(name)) for each in sizes},
        }
        for name in sizes[0].builds[-1].result.parts
    ]


def _judge(section: Section, small: Measurement, large: Measurement) -> None:
    few, many = small.made.size, large.made.size
    section.add(f"build of {many:,}: peak memory", large.peak / MIB, "MiB", at_most=MEMORY)
    allowed = many / few * math.log(many) / math.log(few)
    bar = round(allowed * NOISE, 2)
    ratio = large.seconds / small.seconds
    section.add(f"rebuild, {many:,} / {few:,}", ratio, "x", at_most=bar)
    ratio = large.own_seconds / small.own_seconds
    section.add(f"{' and '.join(COUNTED)} alone, {many:,} / {few:,}", ratio, "x", at_most=bar)
    section.add(f"recall@{LIMIT} of {many:,}", large.default.recall)
    ratio = large.default.ms / small.default.ms
    section.add(f"search as tuned, {many:,} / {few:,}", ratio, "x", at_most=SLOWER)
    section.note(
        f"n log n allows {allowed:.2f} x; {NOISE - 1:.0%} is added for noise. Time: the whole rebuild from SQLite "
        "to the swap. Memory: greatest resident size of the process that builds, mapped files included; the check "
        "in a child process is not in it. Search: one product at a time, one thread, at the parameters that each "
        "build found for its own recall target, the median of the turns' medians."
    )
