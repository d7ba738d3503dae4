"""What `import producer` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import producer

HEAVY = ("celery", "kombu", "torch", "numpy", "annoy", "sqlalchemy", "PIL", "typer", "rich")


def test_all_is_sorted_complete_and_there() -> None:
    assert producer.__all__ == sorted(producer.__all__)
    for name in producer.__all__:
        assert getattr(producer, name).__module__.startswith("producer.")


def test_importing_it_loads_nothing_heavy() -> None:
    code = f"import sys, producer; print([name for name in {HEAVY!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
