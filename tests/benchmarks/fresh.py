"""Run a function in a process of its own, and see how much memory it took."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Measured(Generic[T]):
    """What a function returned, and the greatest resident memory of its process in bytes."""

    result: T
    peak: int


def measured(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Measured[T]:
    """Call the function in a new interpreter that has done nothing else."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        result = process.submit(function, *args, **kwargs).result()
        return Measured(result, process.submit(peak_memory).result())


def peak_memory() -> int:
    """Greatest resident memory of this process so far in bytes; 0 where /proc does not say.

    Not `getrusage`: its figure begins with that of the process which forked this one.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0
