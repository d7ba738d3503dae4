"""Run every benchmark, each in a process of its own; the exit code is 1 when any missed a bar."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = ("lookup", "gateway", "ingest", "decode", "index", "recipe", "train", "swap")

if __name__ == "__main__":
    runs = [
        [sys.executable, "-m", f"tests.benchmarks.{name}", *sys.argv[1:]] for name in BENCHMARKS
    ]
    sys.exit(max(subprocess.call(command) for command in runs))
