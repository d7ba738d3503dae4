"""Progress of long work: bars on a terminal, lines now and then elsewhere."""

from __future__ import annotations

import io
import sys
import time

import pytest
from rich.console import Console

from worker.cli import progress
from worker.cli.progress import LINE_EVERY, meter


def test_a_line_now_and_then_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with meter({"pictures": "comparing pictures"}) as on_step:
        for second in range(12):
            now[0] = float(second)
            on_step("pictures", second / 12)
        now[0] += LINE_EVERY
        on_step("other", 1.0)
    assert capsys.readouterr().err.splitlines() == [
        "comparing pictures: 42%",
        "comparing pictures: 83%",
        "other: 100%",
    ]


def test_bars_on_a_terminal_that_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(progress, "stderr", console)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with meter({"pictures": "comparing pictures"}) as on_step:
        for share in (0.0, 1.0, 0.25):
            on_step("pictures", share)
    text = screen.getvalue()
    assert "comparing pictures" in text
    assert "25%" in text


def test_nothing_where_a_machine_reads(capsys: pytest.CaptureFixture[str]) -> None:
    with meter({}, quiet=True) as on_step:
        on_step("pictures", 0.5)
    assert capsys.readouterr() == ("", "")
