"""What people think together, and how often what they like is nearer."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from db.queries.judgements import Judgement
from worker.evaluation.judgements import agreement, opinion_of


def said(match: str, judge: str, *, good: bool) -> Judgement:
    return Judgement("a", match, judge, good, datetime(2026, 1, 2, tzinfo=UTC))


def test_most_judges_decide() -> None:
    opinion = opinion_of(
        [
            said("liked", "anna", good=True),
            said("liked", "bert", good=True),
            said("liked", "carl", good=False),
            said("disliked", "anna", good=False),
            said("contested", "anna", good=True),
            said("contested", "bert", good=False),
        ]
    )
    assert opinion.good == {("a", "liked"): True, ("a", "disliked"): False}
    assert (opinion.judgements, opinion.judges, opinion.contested) == (6, 3, 1)


@pytest.mark.parametrize(
    ("liked", "disliked", "pairs"),
    [
        ([], [1.0], 0.0),
        ([0.1], [], 0.0),
        ([0.1, 0.2], [0.3, 0.4], 4.0),
        ([0.3], [0.1, 0.4], 1.0),
        ([0.2], [0.2, 0.1], 0.5),
    ],
)
def test_pairs_in_the_right_order(liked: list[float], disliked: list[float], pairs: float) -> None:
    assert agreement(liked, disliked) == pairs
