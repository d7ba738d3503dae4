"""A sign that lasts is acted upon, once; one that passes is not."""

from __future__ import annotations

import threading

import pytest

from worker import watchdog
from worker.watchdog import Sign, Watchdog


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "EVERY", 0.01)


def bitten(signs: list[Sign], seconds: float) -> list[Sign]:
    """The signs that were acted upon within so long."""
    bites: list[Sign] = []
    done = threading.Event()

    def bite(sign: Sign) -> None:
        bites.append(sign)
        done.set()

    with Watchdog(signs, bite):
        done.wait(seconds)
    return bites


def test_the_sign_that_lasts_too_long_is_the_one() -> None:
    looks = [0]

    def flickers() -> bool:
        looks[0] += 1
        return looks[0] % 3 > 0

    passing = Sign("passes", flickers, 0.025, 3)
    lasting = Sign("lasts", lambda: ["something"], 0.1, 4)
    assert bitten([passing, lasting], 10.0) == [lasting]


def test_nothing_happens_while_all_is_well() -> None:
    assert bitten([Sign("never", lambda: False, 0.0, 3)], 0.1) == []
