"""The benchmarks run: small, and without judging their figures."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import index, index_memory, index_plot, recipe
from tests.benchmarks.index_curves import Curve, Point
from tests.benchmarks.index_systems import Exact, Hnswlib, missing
from tests.benchmarks.report import Report


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lookup", "gateway", "ingest", "decode"])
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


def test_tables_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("some", "Some figures", tmp_path)
    rows: list[dict[str, object]] = [{"system": "a", "ms": 0.25}, {"system": "b", "ms": None}]
    report.table("settings", rows)
    report.finish()
    assert json.loads((tmp_path / "some.json").read_text())["tables"] == {"settings": rows}
    printed = capsys.readouterr().out
    assert "settings" in printed
    assert "0.25" in printed


# -- the index ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("section", index.SECTIONS)
def test_each_section_of_the_index_benchmark_runs_alone(section: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.index", "--quick", "--only", section]
    command += ["--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((tmp_path / f"index-{section}-quick.json").read_text())
    figures = {figure["name"]: figure["value"] for figure in written["figures"]}
    assert figures
    assert all(name.startswith(f"{section}: ") for name in figures)
    assert all(math.isfinite(value) for value in figures.values())
    mistakes = [name for name in figures if "too few" in name or "removed products" in name]
    assert [figures[name] for name in mistakes] == [0] * len(mistakes)
    assert (tmp_path / "index-quick.png").exists() == (section == "peers")


@pytest.mark.slow
def test_the_recipe_is_compared_on_the_same_vectors(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.recipe", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "recipe-quick.json").read_text())["tables"]["systems"]
    recall = {row["system"]: row["recall@10"] for row in rows}
    annoy = [row for row in rows if row["system"] == "Annoy, 46 trees"]
    assert recall["pandas loop"] == recall["one BLAS pass"] == 1.0
    assert annoy[0]["recall@10"] < annoy[1]["recall@10"] == recall["Lookalike annoy"] > 0.98
    assert all(row["ms a query"] > 0 and row["MiB"] > 0 for row in rows)
    assert (tmp_path / "recipe-quick.png").exists()


def test_a_recipe_of_more_numbers_than_there_are_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        recipe.main(["--dimension", "1024"])
    assert "from 32 to 512" in capsys.readouterr().err


def test_a_section_that_fails_fails_the_run_and_leaves_the_figures_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "measure", lambda run, name: name != "million")
    command = ["--quick", "--out", str(tmp_path), "--only"]
    assert index.main([*command, "peers,million"]) == 1
    assert index.main([*command, "peers,filters"]) == 0
    assert (tmp_path / "index-peers-million-quick.json").exists()


def test_sections_are_run_in_their_own_order() -> None:
    assert index.sections("filters,peers") == ("peers", "filters")
    with pytest.raises(argparse.ArgumentTypeError, match="'piers' is none of peers, "):
        index.sections("peers,piers")


def test_a_system_whose_library_is_missing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name != "hnswlib" or None)
    assert missing(Hnswlib()) == ["hnswlib"]
    assert missing(Exact()) == []


def _curve(*points: tuple[float, float], name: str = "some", default: int = 0) -> Curve:
    return Curve(
        name,
        tuple(
            Point(f"setting {place}", recall, ms, 2 * ms, place == default)
            for place, (recall, ms) in enumerate(points)
        ),
    )


def test_between_two_settings_the_logarithm_of_the_time_is_interpolated() -> None:
    curve = _curve((0.9, 1.0), (0.98, 4.0))
    assert curve.ms_at(0.94) == pytest.approx(2.0)
    assert curve.ms_at(0.98) == pytest.approx(4.0)


def test_a_setting_that_another_one_beats_does_not_count() -> None:
    curve = _curve((0.9, 1.0), (0.91, 9.0), (0.98, 4.0), (0.98, 5.0))
    assert [point.ms for point in curve.best] == [1.0, 4.0]
    assert curve.ms_at(0.94) == pytest.approx(2.0)


def test_beyond_the_settings_the_nearest_one_counts() -> None:
    curve = _curve((0.9, 1.0), (0.98, 4.0), default=1)
    assert curve.ms_at(0.5) == 1.0
    assert curve.ms_at(0.999) == 4.0
    assert (curve.reach, curve.default.ms) == (0.98, 4.0)


def test_the_plot_is_written(tmp_path: Path) -> None:
    curves = [
        _curve((0.9, 0.2), (0.99, 0.9), name="one"),
        _curve((1.0, 27.0), name="exact"),
        _curve((0.2, 0.01), name="too poor to be shown"),
    ]
    index_plot.draw(curves, tmp_path / "plots" / "index.png", "Some systems")
    assert (tmp_path / "plots" / "index.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux only")
def test_memory_of_processes_is_read() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        family = index_memory.family(process.pid)
        assert family == [process.pid]
        assert index_memory.total(family) > 0
        process.communicate(b"\n")
    assert index_memory.total([process.pid]) == 0
