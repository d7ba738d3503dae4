"""What every process that runs on counts of itself. Needs `prometheus_client`, as those who import it do."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bounds in seconds for what somebody waits for."""


def new_registry() -> CollectorRegistry:
    """A registry with what Python and the operating system know of this process."""
    # Else there is a figure more for each, of when it was first counted.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def say_what_runs(registry: CollectorRegistry, role: str, packages: Sequence[str]) -> None:
    """Add `lookalike_build_info`: the role, our version, and those of packages that matter."""
    info = Info("lookalike_build", "What runs here: versions and role.", registry=registry)
    known = {name.replace("-", "_"): _version(name) for name in packages}
    info.info(
        {"role": role, "version": _version("lookalike"), "python": platform.python_version()}
        | known
        | {"cpus": str(os.cpu_count() or 0)}
    )


def exposition(registry: CollectorRegistry) -> Callable[[str], tuple[str, bytes]]:
    """Gives content type and text of all figures, for a header Accept."""

    def expose(accept: str) -> tuple[str, bytes]:
        encoder, kind = choose_encoder(accept)
        return kind, encoder(registry)

    return expose


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
