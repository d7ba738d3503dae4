"""The classic recipe beside this index: its pandas loop, one BLAS pass, its Annoy, on the same vectors.

The recipe embeds a catalogue with a ResNet, shows how slow a loop over a DataFrame is, and ends with an Annoy
index of as many trees as there are classes. Its catalogue is what DeepFashion trains and validates with, 249,222
pictures of 46 categories: so many trees are planted here, whatever the categories of the pictures at hand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tests.benchmarks import index_asking, index_plot
from tests.benchmarks.catalogue import DIMENSION
from tests.benchmarks.index_curves import Curve, Point
from tests.benchmarks.index_material import Material, material
from tests.benchmarks.index_own import COUNTED, DATABASE, own
from tests.benchmarks.index_questions import Questions
from tests.benchmarks.index_run import LIMIT, MIB, QUICK, Run, Scale
from tests.benchmarks.index_systems import (
    GROUP,
    Build,
    Exact,
    PlainAnnoy,
    Setting,
    System,
    missing,
    versions,
)
from tests.benchmarks.recipe_loop import PandasLoop
from tests.benchmarks.report import Report, Row, arguments, workspace

TITLE = "The classic recipe beside this index"
SIZE, TREES, QUERIES = 249_222, 46, 500
LOOPED = 5
"""Questions to the loop, which takes seconds for each."""
NARROWED = 4
"""Settings that are tried between one that finds less than this index and one that finds as much."""
RECALL = 0.98
OF_ANNOY_TIME = 0.5
FILES, MEMORY = "files", "memory"
COLOURS = ("#c62828", "#1565c0", "#8d5524", "#444444")

LOOP, BLAS = PandasLoop(), Exact("one BLAS pass")


@dataclass(frozen=True)
class Outcome:
    """What is known of a system."""

    system: System
    build: Build
    settings: tuple[Setting, ...]
    curve: Curve

    def reaching(self, recall: float) -> Setting:
        """The quickest setting of at least this recall, or the one of the greatest."""
        known = dict(zip(self.settings, self.curve.points, strict=True))
        good = [each for each in known if known[each].recall >= recall]
        if not good:
            return max(known, key=lambda each: known[each].recall)
        return min(good, key=lambda each: known[each].ms)

    def point(self, setting: Setting) -> Point:
        """Recall and time at a setting."""
        return self.curve.points[self.settings.index(setting)]

    @property
    def default(self) -> Setting:
        """What a user gets who sets nothing."""
        return next(each for each in self.settings if each.default)


def measure(run: Run, trees: int, looped: int) -> None:
    """Build all, ask all the same questions, and compare."""
    report = run.report
    with workspace(run.out) as folder:
        made = material(run, run.scale.size, folder)
        report.note(f"{made.described}.")
        comparison = _Comparison(run.scale, made, folder, looped)
        ours = comparison.outcome(own("annoy", folder / DATABASE)[0])
        recall = ours.curve.default.recall
        annoy = comparison.outcome(PlainAnnoy(trees, f"Annoy, {trees} trees"), recall)
        exact = [comparison.outcome(each) for each in (LOOP, BLAS)]
        matching = annoy.reaching(recall)
        rows = [_row(each, each.default, None) for each in exact]
        asked = [(annoy, annoy.default), (annoy, matching), (ours, ours.default)]
        rows += [_row(*each, comparison.unknown(*each)) for each in asked]
    report.table("systems", rows)
    report.table("settings", [row for each in (annoy, ours) for row in _setting_rows(each.curve)])
    for each in (*exact, annoy, ours):
        report.facts |= versions(each.system)
    _judge(report, ours, annoy.point(matching), exact)
    picture = run.picture("recipe")
    title = (
        f"The recipe beside Lookalike: {made.size:,} x {run.scale.dimension} vectors, one thread"
    )
    curves = [replace(ours.curve, system="Lookalike"), *(each.curve for each in (annoy, *exact))]
    index_plot.draw(curves, picture, title, COLOURS)
    report.note(f"Plot: {picture.name}.")
    _explain(report, made, run.scale, looped)


# -- measuring ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Comparison:
    """What systems are compared on; each has a folder for its index."""

    scale: Scale
    made: Material
    folder: Path
    looped: int

    def outcome(self, system: System, recall: float | None = None) -> Outcome:
        """Build it and ask it at each setting; with `recall` also at some near the first that reaches it."""
        place = self._place(system)
        built = index_asking.build(system, self.made.rows, place).result
        _say(f"{system.name}: building took {built.seconds:.1f} s")
        settings, questions = system.settings(place), self._questions(system)
        if recall is not None:
            settings += self._between(system, settings, recall)
        repeats = 1 if system is LOOP else self.scale.repeats
        rounds = [index_asking.turns(system, place, questions, settings) for _ in range(repeats)]
        _say(f"{system.name}: asked")
        curve = index_asking.curve(system, rounds, questions)
        return Outcome(system, built, tuple(settings), curve)

    def unknown(self, outcome: Outcome, setting: Setting) -> float:
        """Recall of questions about vectors that are in no index."""
        questions, place = self.made.questions, self._place(outcome.system)
        turns = index_asking.turns(outcome.system, place, questions, [setting])
        return questions.recall(turns[0].answers)

    def _between(self, system: System, settings: list[Setting], recall: float) -> list[Setting]:
        """More settings from the last that does not reach the recall to the next one."""
        questions = self._questions(system)
        turns = index_asking.turns(system, self._place(system), questions, settings)
        low = [turn.setting.value for turn in turns if questions.recall(turn.answers) < recall]
        high = [each.value for each in settings if each.value > max(low, default=0)]
        if not low or not high:
            return []
        values = np.geomspace(max(low), min(high), NARROWED + 2)[1:-1]
        return [Setting(settings[0].name, round(each)) for each in values.tolist()]

    def _questions(self, system: System) -> Questions:
        return self.made.products.first(self.looped) if system is LOOP else self.made.products

    def _place(self, system: System) -> Path:
        return self.folder / system.name.replace(" ", "-")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# -- telling --------------------------------------------------------------------------------------


def _row(outcome: Outcome, setting: Setting, unknown: float | None) -> Row:
    point = outcome.point(setting)
    return {
        "system": outcome.system.name,
        "setting": str(setting) if unknown is not None else "",
        "ms a query": point.ms,
        f"recall@{LIMIT}": point.recall,
        "of unknown pictures": unknown,
        "build s": outcome.build.seconds if unknown is not None else None,
        "MiB": outcome.build.bytes / MIB,
        "of": FILES if unknown is not None else MEMORY,
    }


def _setting_rows(curve: Curve) -> list[Row]:
    points = sorted(curve.points, key=lambda each: each.recall)
    return [
        {
            "system": curve.system,
            "setting": point.setting,
            f"recall@{LIMIT}": point.recall,
            "ms": point.ms,
            "p95 ms": point.slow,
            "default": "default" if point.default else "",
        }
        for point in points
    ]


def _judge(report: Report, ours: Outcome, annoy: Point, exact: Sequence[Outcome]) -> None:
    default = ours.curve.default
    report.add(f"recall@{LIMIT} of this index as built", default.recall, at_least=RECALL)
    report.add("a query to this index", default.ms, "ms")
    for each in exact:
        report.add(f"{each.system.name} / this index", each.curve.default.ms / default.ms, "x")
    report.add(
        f"this index / Annoy at recall {annoy.recall:.3f} ({annoy.setting})",
        default.ms / annoy.ms, "x", at_most=OF_ANNOY_TIME,
    )  # fmt: skip
    whole = ours.build.parts["whole rebuild"]
    report.add("the whole rebuild of this index, from SQL to the swap", whole, "s")


def _explain(report: Report, made: Material, scale: Scale, looped: int) -> None:
    report.note(
        f"A query: {LIMIT} neighbours of one product, which is left out of its own answers; one thread, the same "
        f"{len(made.products.numbers)} products for all (the loop: the first {looped}), the median of "
        f"{scale.repeats} turns' medians, each turn in a fresh process. The loop is scipy's `cosine` on each row "
        "of a DataFrame. Annoy is asked with its default `search_k`, trees x neighbours, as the recipe does, and "
        "with the least found that reaches this index's recall. 'Of unknown pictures': recall when the vectors "
        "asked about are in no index; a product of the catalogue is easier for this index, which has a list of "
        f"its neighbours. Build: all cores; of this index its own steps, {' and '.join(COUNTED)}."
    )


def _dimension(text: str) -> int:
    if not 32 <= int(text) <= DIMENSION:
        raise argparse.ArgumentTypeError(f"from 32 to {DIMENSION}")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = arguments(TITLE)
    parser.add_argument("--size", type=int, default=SIZE, help="vectors")
    parser.add_argument("--dimension", type=_dimension, default=DIMENSION, help="numbers of each")
    parser.add_argument(
        "--queries", type=int, default=QUERIES, help="products that are asked about"
    )
    parser.add_argument(
        "--looped", type=int, default=LOOPED, help="products that the loop is asked"
    )
    parser.add_argument("--trees", type=int, default=TREES, help="trees of Annoy")
    options = parser.parse_args(argv)
    absent = missing(LOOP)
    if absent:
        parser.error(f"{' and '.join(absent)} not installed: pip install --group {GROUP}")
    full = Scale(size=options.size, dimension=options.dimension, queries=options.queries)
    scale = QUICK if options.quick else full
    title = f"{TITLE}, {scale.size:,} x {scale.dimension} vectors"
    run = Run(Report("recipe", title, options.out, options.quick), scale)
    measure(run, options.trees, 1 if options.quick else options.looped)
    return run.report.finish()


if __name__ == "__main__":
    sys.exit(main())
