"""What a shop installs: the producer alone, in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECK = """
import importlib.util, sys
for name in ("db", "worker", "migrations", "torch", "annoy", "sqlalchemy", "numpy"):
    assert importlib.util.find_spec(name) is None, name
import producer
assert producer.__file__.startswith(sys.prefix), producer.__file__
shop = producer.RecordingProducer()
shop.answers("a", ["b"])
assert shop.find_similar("a").result().matches[0].product_id == "b"
from producer.gallery import render
assert ":root" in render([], {})
"""
IMPORT_TIME = """
import time
start = time.process_time()  # the machine may be busy with other tests
import producer
print(time.process_time() - start)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
    ]
    # The build back end is installed here already: nothing has to be fetched.
    subprocess.run([*command, "--no-build-isolation", str(ROOT)], check=True)
    (made,) = folder.glob("lookalike-*.whl")
    return made


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what it asks for, and nothing else of ours.

    What it asks for is lent by this environment, package by package, so that nothing has to be fetched.
    """
    folder = tmp_path_factory.mktemp("shop") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    target = Path(
        subprocess.run(
            [python, "-c", ask], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    _lend(target)
    return python


def _lend(target: Path) -> None:
    """Link every file tree that the wheel's requirements, and theirs, consist of."""
    for entry in _requirements():
        source = Path(sysconfig.get_path("purelib")) / entry
        if source.exists() and not (target / entry).exists():
            (target / entry).symlink_to(source)


def _requirements() -> set[str]:
    from importlib.metadata import PackageNotFoundError, distribution

    from packaging.requirements import Requirement

    entries: set[str] = set()
    seen: set[str] = set()
    wanted = list(distribution("lookalike").requires or ())
    while wanted:
        requirement = Requirement(wanted.pop())
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if not applies or requirement.name.lower() in seen:
            continue
        seen.add(requirement.name.lower())
        try:
            found = distribution(requirement.name)
        except PackageNotFoundError:
            continue
        wanted += found.requires or ()
        entries |= {
            path.parts[0] for path in found.files or () if not path.parts[0].startswith(".")
        }
    return entries - {"__pycache__", "db", "worker"}


def test_it_holds_the_producer_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "lookalike = producer.cli:main" in archive.read(entry_points).decode()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"producer", "lookalike"}
    assert {"producer/gallery.css", "producer/lookbook/index.html"} <= set(names)
    assert "producer/py.typed" in names


def test_it_asks_for_nothing_heavy(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        metadata = archive.read(name).decode()
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    for heavy in ("torch", "annoy", "sqlalchemy", "numpy", "pillow"):
        assert not any(heavy in line.lower() for line in required)


def test_it_works_in_an_environment_of_its_own(python: Path, tmp_path: Path) -> None:
    subprocess.run([python, "-W", "error", "-c", CHECK], check=True, cwd=tmp_path)
    command = [str(python), "-m", "producer.cli", "--version"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert ran.stdout.startswith("lookalike ")


def test_it_imports_in_under_half_a_second(python: Path, tmp_path: Path) -> None:
    def seconds() -> float:
        command = [str(python), "-c", IMPORT_TIME]
        ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        return float(ran.stdout)

    seconds()  # compiles the modules
    assert min(seconds() for _ in range(5)) < 0.5
