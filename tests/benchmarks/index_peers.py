"""The index beside those that it might be replaced by, on the same vectors: recall, time, build, disk, memory."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import index_asking, index_plot
from tests.benchmarks.catalogue import DIMENSION
from tests.benchmarks.fresh import Measured
from tests.benchmarks.index_asking import Resident, Turn
from tests.benchmarks.index_curves import Curve
from tests.benchmarks.index_material import Material, material
from tests.benchmarks.index_own import COUNTED, ENGINES, own
from tests.benchmarks.index_pgvector import Pgvector, serving
from tests.benchmarks.index_questions import Questions
from tests.benchmarks.index_run import LIMIT, MIB, Run, Scale, Section
from tests.benchmarks.index_systems import (
    GROUP,
    Build,
    Exact,
    Faiss,
    Hnswlib,
    PlainAnnoy,
    System,
    Usearch,
    missing,
    versions,
)
from tests.benchmarks.report import Row, workspace

TITLE = "peers"
RECALL = 0.98
OF_ANNOY_TIME, OF_ANNOY_BUILD, OF_ANNOY_FILE = 0.5, 0.35, 0.7
OF_HNSWLIB_TIME, OF_HNSWLIB_BUILD = 2.0, 0.1
PROCESSES = (1, 4)

ANNOY, HNSWLIB = PlainAnnoy(), Hnswlib()
OURS = "Lookalike annoy"
JUDGED = (OURS, ANNOY.name, HNSWLIB.name)
"""Systems whose builds have a bar: the others, which take minutes, are built once."""


@dataclass(frozen=True)
class Outcome:
    """What is known of a system."""

    system: System
    builds: list[Measured[Build]]
    """Empty for one that asks another one's index."""
    curve: Curve
    memory: dict[int, Resident]
    """By the number of processes."""

    @property
    def seconds(self) -> float:
        """Of a build: the median."""
        return statistics.median(build.result.seconds for build in self.builds)


def measure(run: Run) -> None:
    """Build every system, ask them by turns, and compare."""
    section = Section(run, TITLE)
    with workspace(run.out) as folder:
        made = material(run, run.scale.size, folder)
        section.note(f"{made.described}.")
        with serving(made.size, DIMENSION) as pgvector:
            systems = _installed(section, _systems(made, pgvector))
            outcomes = _Comparison(section, run.scale, systems, made, folder).outcomes()
            run.report.facts["pgvector"] = pgvector.release
    for system in systems:
        run.report.facts |= versions(system)
    _tabulate(section, outcomes)
    _judge(section, {outcome.system.name: outcome for outcome in outcomes})
    curves = [outcome.curve for outcome in outcomes]
    picture = run.picture("index")
    index_plot.draw(curves, picture, f"{made.size:,} x {DIMENSION} vectors, one thread")
    section.note(f"Plot: {picture.name}.")
    _explain(section, run)


def _systems(made: Material, pgvector: Pgvector) -> list[System]:
    catalogue = made.rows.parent / "catalogue.db"
    ours: list[System] = [each for engine in ENGINES for each in own(engine, catalogue)]
    return [*ours, ANNOY, HNSWLIB, Faiss(), Usearch(), Exact(), pgvector]


def _installed(section: Section, systems: Sequence[System]) -> list[System]:
    """Those that can run; a note for each other one."""
    found = []
    for system in systems:
        absent = missing(system)
        if absent:
            section.note(
                f"{system.name} was left out: {', '.join(absent)} is not installed (dependency group `{GROUP}`)."
            )
        else:
            found.append(system)
    return found


# -- measuring ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Comparison:
    """Systems, and what they are compared on; each has a folder for its index."""

    section: Section
    scale: Scale
    systems: Sequence[System]
    made: Material
    folder: Path

    def outcomes(self) -> list[Outcome]:
        """Build all, ask all, then look at their memory."""
        builds, rounds = self._builds(), self._rounds()
        self.section.say("measuring memory")
        return [
            Outcome(
                system=system,
                builds=builds[system.name],
                curve=index_asking.curve(system, rounds[system.name], self._questions(system)),
                memory=self._memory(system),
            )
            for system in self.systems
        ]

    def _builds(self) -> dict[str, list[Measured[Build]]]:
        """Build by turns."""
        builds: dict[str, list[Measured[Build]]] = {system.name: [] for system in self.systems}
        for turn in range(self.scale.repeats):
            for system in self.systems:
                if system.shares is None and (turn == 0 or system.name in JUDGED):
                    built = index_asking.build(system, self.made.rows, self._place(system))
                    builds[system.name].append(built)
                    self.section.say(f"{system.name} was built in {built.result.seconds:.1f} s")
        return builds

    def _rounds(self) -> dict[str, list[list[Turn]]]:
        """Ask by turns."""
        rounds: dict[str, list[list[Turn]]] = {system.name: [] for system in self.systems}
        for _ in range(self.scale.repeats):
            for system in self.systems:
                turns = index_asking.turns(system, self._place(system), self._questions(system))
                rounds[system.name].append(turns)
                self.section.say(f"{system.name} was asked")
        return rounds

    def _memory(self, system: System) -> dict[int, Resident]:
        few = self._questions(system).first(self.scale.residents)
        place = self._place(system)
        return {count: index_asking.resident(system, place, few, count) for count in PROCESSES}

    def _questions(self, system: System) -> Questions:
        """Whole lookups begin with a product, an index with a vector."""
        return self.made.questions if system.shares is None else self.made.products

    def _place(self, system: System) -> Path:
        return self.folder / (system.shares or system.name).replace(" ", "-")


# -- telling --------------------------------------------------------------------------------------


def _tabulate(section: Section, outcomes: Sequence[Outcome]) -> None:
    section.table("builds and memory", [_system_row(outcome) for outcome in outcomes])
    section.table("steps of the builds, s", [row for each in outcomes for row in _step_rows(each)])
    section.table("settings", [row for each in outcomes for row in _setting_rows(each.curve)])


def _system_row(outcome: Outcome) -> Row:
    row: Row = {"system": outcome.system.name}
    built = outcome.builds[-1].result if outcome.builds else None
    peak = max((build.peak for build in outcome.builds), default=None)
    row["build s"] = outcome.seconds if outcome.builds else None
    row["builds"] = len(outcome.builds)
    row["peak MiB"] = peak and peak / MIB
    row["disk MiB"] = built and built.bytes / MIB
    for count, memory in outcome.memory.items():
        row[f"PSS {count}"] = memory.total / MIB
        row[f"before {count}"] = memory.before / MIB
    return row


def _step_rows(outcome: Outcome) -> list[Row]:
    names = outcome.builds[-1].result.parts if outcome.builds else {}
    return [
        {
            "system": outcome.system.name,
            "step": name,
            "s": statistics.median(build.result.parts[name] for build in outcome.builds),
        }
        for name in names
    ]


def _setting_rows(curve: Curve) -> list[Row]:
    return [
        {
            "system": curve.system,
            "setting": point.setting,
            f"recall@{LIMIT}": point.recall,
            "ms": point.ms,
            "p95 ms": point.slow,
            "default": "default" if point.default else "",
        }
        for point in curve.points
    ]


def _judge(section: Section, outcomes: dict[str, Outcome]) -> None:
    ours = outcomes[OURS]
    default = ours.curve.default
    section.add(f"{OURS}: recall@{LIMIT} as built", default.recall, at_least=RECALL)
    section.add(f"{OURS}: a query as built", default.ms, "ms")
    whole = ours.builds[-1].result.parts["whole rebuild"]
    section.add(f"{OURS}: whole rebuild from SQL to the swap", whole, "s")
    _compare(section, outcomes, ANNOY.name, OF_ANNOY_TIME, OF_ANNOY_BUILD)
    files = [outcomes[name].builds[-1].result.bytes for name in (OURS, ANNOY.name)]
    section.add(f"files, {OURS} / {ANNOY.name}", files[0] / files[1], "x", at_most=OF_ANNOY_FILE)
    if HNSWLIB.name in outcomes:
        _compare(section, outcomes, HNSWLIB.name, OF_HNSWLIB_TIME, OF_HNSWLIB_BUILD)
    for outcome in outcomes.values():
        if outcome.system.name not in JUDGED:
            _place_beside(section, ours.curve, outcome.curve)


def _compare(
    section: Section, outcomes: dict[str, Outcome], other: str, of_time: float, of_build: float
) -> None:
    ours, theirs = outcomes[OURS], outcomes[other]
    recall = ours.curve.default.recall
    ratio = ours.curve.default.ms / theirs.curve.ms_at(recall)
    section.add(
        f"time of a query at recall {recall:.3f}, {OURS} / {other}", ratio, "x", at_most=of_time
    )
    ratio = ours.seconds / theirs.seconds
    section.add(f"build, {OURS} / {other}", ratio, "x", at_most=of_build)
    if recall > theirs.curve.reach:
        section.note(
            f"{other} reached recall {theirs.curve.reach:.3f} only: its time there counts as its time at "
            f"{recall:.3f}, which favours it."
        )


def _place_beside(section: Section, ours: Curve, other: Curve) -> None:
    """How another system does at the recall of our default: without a bar."""
    recall = min(ours.default.recall, other.reach)
    section.add(f"{other.system}: a query at recall {recall:.3f}", other.ms_at(recall), "ms")


def _explain(section: Section, run: Run) -> None:
    section.note(
        f"A query: one vector at a time with one thread, {run.scale.queries} that are in no index, {LIMIT} "
        "neighbours; of whole lookups, products that are left out of their own answers. The median of "
        f"{run.scale.repeats} turns' medians, each turn in a fresh process. pgvector's includes the way to the "
        "server and back on a Unix socket, with a prepared statement and binary parameters; 'lookups' are whole, "
        "SQL included. At equal recall: the logarithm of the time is interpolated over recall along each system's "
        "best settings."
    )
    section.note(
        "Build: all cores, from vectors in a mapped file to an index that can be asked, not written out. "
        f"Lookalike's: its steps {' and '.join(COUNTED)}; the others are in the table of steps, and the whole is "
        "the rebuild from SQLite with tuning, sync, checks and swap. pgvector's: CREATE INDEX over vectors that "
        "are in a table. Disk: the index's files, and Lookalike's hold its vectors; pgvector's is the index "
        "without its table."
    )
    section.note(
        "PSS: proportional memory of 1 and of 4 processes in MiB that each opened the index and asked "
        f"{run.scale.residents} questions; a page that several share counts once, and pages of mapped files count "
        "when they were touched. The interpreter is in it: 'before' is what there was before the index and "
        "its library were loaded, of whole Python processes. pgvector's includes the server and its cache."
    )
