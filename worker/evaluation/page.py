"""A page that shows where two models, or two generations, answer differently: one HTML file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import sqrt

from producer.gallery import Exhibit, render
from producer.messages import AsOf, Match, Reply

NAME = "main"
LONGEST = 255
"""Characters of a name that is shown."""
NOW = AsOf(revision=0, at=datetime.min.replace(tzinfo=UTC))


@dataclass(frozen=True)
class Card:
    """A picture with its name and its category, if it has one."""

    name: str
    category: str | None
    picture: bytes | None


@dataclass(frozen=True)
class Contrast:
    """A question, and its nearest neighbours with their cosines under each of two, nearest first."""

    question: Card
    answers: tuple[Sequence[tuple[Card, float]], Sequence[tuple[Card, float]]]
    shared: float
    """Share of the neighbours that the two have in common."""


def page(contrasts: Sequence[Contrast], names: tuple[str, str], facts: Mapping[str, object]) -> str:
    """The page as HTML, which fetches nothing: each question twice, under the one and under the other.

    Neighbours are marked as right or wrong by the question's category, where it has one.
    """
    exhibits, pictures = [], dict[tuple[str, str], bytes]()
    for number, contrast in enumerate(contrasts):
        for name, answers in zip(names, contrast.answers, strict=True):
            matches = []
            for place, (card, cosine) in enumerate(answers):
                match = _match(card, cosine, f"{number} {name} {place}")
                matches.append(match)
                if card.picture is not None:
                    pictures[match.product_id, match.name] = card.picture
            exhibits.append(_exhibit(contrast, name, matches))
    return render(
        exhibits,
        pictures,
        title="Where they differ",
        subtitle=f"The questions whose nearest neighbours differ most under {names[0]} and {names[1]}.",
        facts=facts,
    )


def _exhibit(contrast: Contrast, name: str, matches: list[Match]) -> Exhibit:
    question = contrast.question
    return Exhibit(
        Reply(
            matches=tuple(matches),
            generation=None,
            model_version=None,
            as_of=NOW,
            pending=0,
            path="exact",
        ),
        label=question.name,
        picture=question.picture,
        category=question.category,
        judged=question.category is not None,
        note=" · ".join(_notes(contrast, name, matches)),
    )


def _notes(contrast: Contrast, name: str, matches: Sequence[Match]) -> Iterator[str]:
    yield name
    if contrast.question.category is not None:
        right = sum(match.category == contrast.question.category for match in matches)
        yield f"{right} of {len(matches)} right"
    yield f"{contrast.shared:.0%} in common"


def _match(card: Card, cosine: float, name: str) -> Match:
    """A match whose picture is known by its place on the page: several may be called the same."""
    return Match(
        product_id=_shown(card.name),
        name=name[-LONGEST:],
        distance=sqrt(max(0.0, 2.0 - 2.0 * cosine)),
        category=card.category and _shown(card.category),
    )


def _shown(text: str) -> str:
    """What may be a product's id: names of files may be longer, and may hold what is no text."""
    return text.encode(errors="replace").decode().replace("\x00", "?")[-LONGEST:]
