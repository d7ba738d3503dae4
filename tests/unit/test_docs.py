"""The pages for people: their links lead somewhere, and the commands and settings that they name exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from producer.cli.commands import app as client
from producer.gateway.settings import GatewaySettings
from worker import cli
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = {"LOOKALIKE_PARENT_PID"}


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request: pytest.FixtureRequest) -> Path:
    """Each of them."""
    return Path(request.param)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def named(text: str, program: str) -> Iterator[str]:
    """The first word behind a program, where it is run in a block of code or a piece of it."""
    for code in re.findall(r"```\w*\n(.*?)```|`([^`\n]+)`", text, re.DOTALL):
        yield from re.findall(rf"(?:^|&& |run ){program} ([a-z]+)", "".join(code), re.MULTILINE)


def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_commands_exist(page: Path) -> None:
    text = page.read_text()
    for program, app in ("lookalike-worker", cli.app), ("lookalike", client):
        known = set(getattr(get_command(app), "commands", {}))
        assert known
        assert {*named(text, program)} <= known


def test_settings_exist(page: Path) -> None:
    fields = {*WorkerSettings.model_fields, *GatewaySettings.model_fields}
    known = {f"LOOKALIKE_{field.upper()}" for field in fields} | OTHERS
    found = set(re.findall(r"LOOKALIKE_[A-Z]+(?:_[A-Z]+)*", page.read_text()))
    assert found - known == set()
