"""Who may import whom, and what importing costs: each question is put to a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "torchvision", "annoy", "sqlalchemy", "numpy", "PIL")
PRODUCER_NEEDS = "celery, kombu, redis, pydantic, pydantic_settings, typer, rich"
LIMIT = 0.5
"""Seconds that `import producer` may take, of processor time: a busy machine must not fail the test."""
TRIES = 5


def python(code: str) -> str:
    """What a fresh interpreter in the checkout prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(*modules: str) -> set[str]:
    """Top-level packages that are loaded once these modules are."""
    code = f"import json, sys, {', '.join(modules)}; print(json.dumps(sorted(sys.modules)))"
    return {name.partition(".")[0] for name in json.loads(python(code))}


def modules_under(package: str, exclude: Sequence[str] = ()) -> list[str]:
    """Dotted names of all modules of a package."""
    names = (
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / package).rglob("*.py"))
    )
    return [name for name in names if not name.endswith("__main__") and name not in exclude]


def test_import_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_producer_loads_nothing_heavy_and_nothing_else_of_ours() -> None:
    loaded = loaded_by(*modules_under("producer"))
    assert loaded.isdisjoint({*HEAVY, "db", "worker", "migrations"})


def test_the_catalogue_needs_neither_the_workers_nor_torch() -> None:
    loaded = loaded_by(*modules_under("db"))
    assert loaded.isdisjoint({"torch", "annoy", "celery", "producer", "worker", "migrations"})


@pytest.mark.parametrize("role", ["lookup", "roles", "process", "cli", "up", "index.follower"])
def test_a_search_worker_never_loads_torch(role: str) -> None:
    loaded = loaded_by(f"worker.{role}", *modules_under("worker/index"))
    assert loaded.isdisjoint({"torch", "torchvision"})


def test_the_demo_leaves_torch_to_the_workers() -> None:
    assert "torch" not in loaded_by(*modules_under("worker/demo"))


def test_importing_the_producer_is_quick() -> None:
    code = (
        "import time; start = time.process_time(); import producer; "
        "print(time.process_time() - start)"
    )
    best = min(float(python(code)) for _ in range(TRIES))
    assert best < LIMIT


def test_importing_the_producer_connects_to_nothing() -> None:
    code = (
        "import socket\n"
        "def refuse(*_): raise AssertionError('connected at import')\n"
        "socket.socket.connect = refuse\n"
        f"import {', '.join(modules_under('producer'))}\n"
    )
    python(code)


def test_the_wheel_declares_what_the_producer_imports_and_no_more() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {name.partition("=")[0].partition(">")[0] for name in project["dependencies"]}
    assert {name.replace("-", "_") for name in declared} == set(PRODUCER_NEEDS.split(", "))
