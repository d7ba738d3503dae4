"""Which figures expressions of Prometheus ask for, and which there are in what processes expose."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[1]
ALERTS = ROOT / "monitoring" / "alerts.yml"
DASHBOARDS = ROOT / "monitoring" / "grafana" / "dashboards"
THEIRS = frozenset({"up", "ALERTS"})
"""What Prometheus itself adds."""
_WORDS = frozenset({"and", "or", "unless", "bool", "offset", "inf", "nan"})
_NOT_NAMES = re.compile(
    r"""
    "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*'                        # strings
    | \{[^}]*\}                                                  # matchers
    | \[[^\]]*\]                                                 # ranges
    | \b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)
    """,
    re.VERBOSE,
)
_NAME = re.compile(r"(?<![\w.$:])[A-Za-z_:][\w:]*(?![\w:]|\s*\()")
_SUFFIXES = ("_bucket", "_sum", "_count", "_total", "_info")


def names_in(expression: str) -> set[str]:
    """The figures that an expression asks for."""
    # Strings first: a brace or a bracket may stand in one.
    bare = _NOT_NAMES.sub(" ", re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression))
    return {name for name in _NAME.findall(bare) if name.lower() not in _WORDS}


def alerts() -> list[dict[str, Any]]:
    """All alert rules."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboards() -> list[dict[str, Any]]:
    """All dashboards."""
    return [json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))]


def expressions() -> Iterator[tuple[str, str]]:
    """Where each expression of the operators' files stands, and itself."""
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for dashboard in dashboards():
        for annotation in dashboard["annotations"]["list"]:
            yield annotation["name"], annotation["expr"]
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                yield panel["title"], target["expr"]


def exposed(text: str) -> set[str]:
    """The names of all samples that a process exposes, and of those that it will once there is something to say.

    Raises ValueError if it is not what Prometheus reads.
    """
    found: set[str] = set()
    for family in text_string_to_metric_families(text):
        found |= {sample.name for sample in family.samples}
        kinds = {
            "counter": ("_total",),
            "histogram": ("_bucket", "_sum", "_count"),
        }.get(family.type, ("",))
        found |= {f"{family.name.removesuffix('_total')}{suffix}" for suffix in kinds}
    return found
