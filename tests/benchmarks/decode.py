"""Pictures a second of the decoding children, beside threads that decode without them: what the sandbox costs."""

from __future__ import annotations

import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.benchmarks import pictures
from tests.benchmarks.report import Report, arguments, workspace
from worker.images.decode import DecodeSpec, decode
from worker.images.errors import ImageError
from worker.images.pool import DecoderPool

TITLE = "Decoding in children that can be killed, beside threads"
AS_FAST_AS_THREADS = 0.9
CHILDREN, THREADS = "child processes, as the workers decode", "threads, without a sandbox"
SPEC = DecodeSpec(128)
"""What the usual model asks for: its input, and a thumbnail."""

Way = Callable[[Sequence[bytes]], object]


def in_children(pool: DecoderPool, made: Sequence[bytes]) -> None:
    """Decode them all in the pool."""
    if any(isinstance(each, ImageError) for each in pool.decode_many(made, SPEC)):
        raise RuntimeError("a picture was not decoded")


def in_threads(threads: ThreadPoolExecutor, made: Sequence[bytes]) -> None:
    """Decode them all here, each thread taking the next picture."""
    list(threads.map(lambda data: decode(data, SPEC), made))


def compare(ways: dict[str, Way], made: Sequence[bytes], repeats: int) -> dict[str, list[float]]:
    """Pictures a second of each way, by turns first, once all are warm."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for way in ways.values():
        way(made[:64])
    for repeat in range(repeats):
        for name in names if repeat % 2 else names[::-1]:
            began = time.perf_counter()
            ways[name](made)
            rates[name].append(len(made) / (time.perf_counter() - began))
    return rates


def measure(report: Report, made: Sequence[bytes], repeats: int) -> None:
    """As many children as cores against as many threads, on the same pictures."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    with (
        DecoderPool(cores) as pool,
        ThreadPoolExecutor(cores) as threads,
        warnings.catch_warnings(),  # `decode` silences them for a process of one thread
    ):
        warnings.simplefilter("ignore")
        ways: dict[str, Way] = {
            CHILDREN: lambda pictures: in_children(pool, pictures),
            THREADS: lambda pictures: in_threads(threads, pictures),
        }
        rates = compare(ways, made, repeats)
    for name, each in rates.items():
        report.add(name, statistics.median(each), "images/s")
        report.add(f"{name}: slowest, of {len(each)}", min(each), "images/s")
    ratio = statistics.median(
        one / other for one, other in zip(rates[CHILDREN], rates[THREADS], strict=True)
    )
    report.add("children / threads", ratio, "x", at_least=AS_FAST_AS_THREADS)
    report.note(
        f"{cores} of each; the same function, {SPEC.size} px and a thumbnail. The ratio is the median of those of "
        f"{repeats} pairs of runs, one after the other and by turns first."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = arguments(TITLE)
    parser.add_argument("--count", type=int, default=1024, help="pictures")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(argv)
    count, repeats = (64, 2) if options.quick else (options.count, options.repeats)
    report = Report("decode", TITLE, options.out, options.quick)
    with workspace(options.out) as folder:
        made, described = pictures.jpegs(count, folder / "sample")
    report.note(described)
    measure(report, made, repeats)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
