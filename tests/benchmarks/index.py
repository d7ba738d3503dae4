"""The index: beside its peers, rebuilt, four times as large, fresh, and filtered. Each part can be run alone."""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace

from tests.benchmarks.index_run import QUICK, Run, Scale

TITLE = "The index beside its peers"
SECTIONS = ("peers", "rebuild", "million", "freshness", "filters")


def sections(text: str) -> tuple[str, ...]:
    """The sections named in an option, in the order in which they are run."""
    names = text.split(",")
    for name in names:
        if name not in SECTIONS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(SECTIONS)}")
    return tuple(name for name in SECTIONS if name in names)


def measure(run: Run, name: str) -> bool:
    """Run a section; whether it came to its end. The others are worth having when one fails.

    Its module is loaded here only: the processes that are measured load this one.
    """
    print(f"== {name}", file=sys.stderr, flush=True)
    try:
        importlib.import_module(f"tests.benchmarks.index_{name}").measure(run)
    except Exception:
        traceback.print_exc()
        run.report.note(f"{name}: FAILED, see the output.")
        return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    from tests.benchmarks.report import Report, arguments

    parser = arguments(TITLE)
    parser.add_argument("--only", type=sections, default=SECTIONS, help=", ".join(SECTIONS))
    parser.add_argument("--size", type=int, default=Scale.size, help="vectors")
    parser.add_argument("--large", type=int, default=Scale.large, help="vectors of the large index")
    parser.add_argument("--repeats", type=int, default=Scale.repeats, help="turns of each system")
    options = parser.parse_args(argv)
    full = replace(Scale(), size=options.size, large=options.large, repeats=options.repeats)
    scale = QUICK if options.quick else full
    name = "index" if options.only == SECTIONS else f"index-{'-'.join(options.only)}"
    report = Report(name, f"{TITLE}, {scale.size:,} vectors", options.out, options.quick)
    done = [measure(Run(report, scale), each) for each in options.only]
    return max(report.finish(), 0 if all(done) else 1)


if __name__ == "__main__":
    sys.exit(main())
