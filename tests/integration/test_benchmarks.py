"""The benchmarks run: small, and without judging their figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.report import Report


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lookup", "ingest", "index"])
def test_a_quick_run_leaves_its_figures(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / f"{name}-quick.json").read_text())
    assert all(figure["value"] > 0 for figure in written["figures"])
    assert {"cpu", "cores", "python", "torch", "celery", "server"} <= set(written["machine"])


@pytest.mark.parametrize(("quick", "code"), [(False, 1), (True, 0)])
def test_a_missed_bar_fails_a_full_run_only(quick: bool, code: int, tmp_path: Path) -> None:
    report = Report("some", "Some figures", tmp_path, quick)
    report.add("fast enough", 1.0, "x", at_most=2.5)
    assert report.finish() == 0
    report.add("too slow", 3.0, "x", at_most=2.5)
    assert report.finish() == code
