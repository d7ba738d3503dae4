"""Swaps while several processes ask: nothing fails, nothing is mixed, nothing is left open (invariant 6)."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import swap
from tests.benchmarks.catalogue import clustered, sqlite_url
from tests.benchmarks.swap import LIMIT, History, Said


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_lookups_in_four_processes_survive_swaps(tmp_path: Path) -> None:
    outcome = swap.run(sqlite_url(tmp_path / "catalogue.db"), tmp_path, swaps=2)
    assert not outcome.errors
    assert not outcome.wrong, outcome.wrong[:3]
    assert outcome.lookups > 100
    assert {"annoy", "annoy+overlay"} <= set(outcome.paths)
    assert outcome.growth("mapped") <= 0
    assert outcome.growth("of_generations") <= 0


def test_the_judge_notices_an_answer_that_mixes_generations() -> None:
    history = a_history()
    told = dict(history.distances([1, 2]))
    before, after = answer(history, 1, told[1][0]), answer(history, 2, told[2][0])
    assert swap.judge(before, history, told[1]) is None
    assert swap.judge(after, history, told[2]) is None
    assert swap.judge(replace(before, revision=2, pending=1), history, told[2]) is not None
    assert swap.judge(replace(after, revision=1, pending=0), history, told[1]) is not None
    assert swap.judge(replace(after, pending=0), history, told[2]) is not None


def a_history() -> History:
    """300 products at revision 1, of which number 0 moved at revision 2; one generation, of revision 1."""
    rows = clustered(300, 16).rows
    moved = clustered(1, 16, seed=9).rows
    return History(rows, 1, moves={2: ([0], moved)}, built_at={1: 1})


def answer(history: History, revision: int, true: np.ndarray) -> Said:
    """The true answer for product 0, given its distances to all."""
    nearest = np.argsort(true)[:LIMIT]
    return Said(
        asked=0,
        generation=1,
        revision=revision,
        pending=revision - 1,
        path="annoy",
        numbers=nearest.tolist(),
        distances=true[nearest].tolist(),
    )
