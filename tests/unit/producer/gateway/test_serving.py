"""`lookalike serve` where what it needs is not installed."""

from __future__ import annotations

import sys

import pytest

from producer.cli.commands import run


def test_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("producer.gateway")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run(["serve"]) == 2
    said = capsys.readouterr().err
    assert "the HTTP gateway needs uvicorn, which is not installed" in said
    assert "pip install 'lookalike[http]'" in said


def test_an_error_of_another_kind_is_not_taken_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("producer.gateway")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "producer.receipts", None)
    with pytest.raises(ModuleNotFoundError, match=r"producer\.receipts"):
        run(["serve"])
