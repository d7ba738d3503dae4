"""Judges generations of the index by what people think of matches: whether what they like is near, and nearer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from db.queries import catalogue, generations, judgements
from db.queries.catalogue import LiveProduct
from db.queries.judgements import Judgement
from db.session import Database
from worker.evaluation.generations import NotComparable, open_kept
from worker.index import score
from worker.index.generation import Generation
from worker.index.score import Vectors
from worker.index.search import scan

Pair = tuple[str, str]
"""A product that was asked about, and a match."""
OnStep = Callable[[str, float], None]


@dataclass(frozen=True)
class Opinion:
    """What the judges think together: each match is good or bad by most of them."""

    good: Mapping[Pair, bool]
    judgements: int
    judges: int
    contested: int
    """Matches that as many like as dislike, which are left out."""


@dataclass(frozen=True)
class JudgedByPeople:
    """What was measured of one generation. Shares are None where there is nothing to take them of."""

    number: int
    model: str
    """Digest of the model that its vectors are of."""
    near: int
    """Judged matches that are among the k nearest products of what was asked about."""
    precision: float | None
    """Share of those that are liked."""
    found: float | None
    """Share of all liked matches that are among the k nearest."""
    agreement: float | None
    """Share of the pairs of a liked and a disliked match of the same product in which the liked one is nearer."""


@dataclass(frozen=True)
class JudgementsEvaluation:
    """One generation, or two beside each other, on the judged matches whose products all of them have."""

    opinion: Opinion
    k: int
    questions: int
    """Products that were asked about."""
    liked: int
    disliked: int
    pairs: int
    """Pairs of a liked and a disliked match of the same product."""
    left_out: int
    """Judged matches of products that are not in the catalogue, or not in each generation."""
    generations: tuple[JudgedByPeople, ...]


def judge(
    database: Database,
    data_dir: Path,
    numbers: Sequence[int],
    *,
    k: int = 10,
    on_step: OnStep = lambda _step, _share: None,
) -> JudgementsEvaluation:
    """Measure generations, the current one if none is named. Raises NotComparable and GenerationRefused."""
    with database.reading() as session:
        opinion = opinion_of(judgements.all_(session))
        current = generations.pointer(session).generation
        ids = {each for pair in opinion.good for each in pair}
        live = catalogue.live_images(session, sorted(ids))
    if not opinion.good:
        raise NotComparable(
            "there are no judgements to count: people give them in the lookbook, by thumbs up and down"
        )
    if not numbers and current is None:
        raise NotComparable("there is no generation of the index yet: `lookalike-worker reindex`")
    asked = [_Asked.of(database, data_dir, each, live) for each in numbers or [current or 0]]
    common = {
        pair: good
        for pair, good in opinion.good.items()
        if all(pair[0] in each.slots and pair[1] in each.slots for each in asked)
    }
    if not common:
        raise NotComparable(
            f"none of the {len(opinion.good):,} judged matches is of products that these generations have"
        )
    by_product = _by_product(common)
    return JudgementsEvaluation(
        opinion,
        k,
        questions=len(by_product),
        liked=sum(common.values()),
        disliked=len(common) - sum(common.values()),
        pairs=sum(
            sum(each.values()) * (len(each) - sum(each.values())) for each in by_product.values()
        ),
        left_out=len(opinion.good) - len(common),
        generations=tuple(
            _measured(each, by_product, k, partial(on_step, f"generation {each.number}"))
            for each in asked
        ),
    )


def opinion_of(all_: Iterable[Judgement]) -> Opinion:
    """What most judges think of each match."""
    votes: dict[Pair, int] = defaultdict(int)
    judges, count = set(), 0
    for each in all_:
        votes[each.product_id, each.match_id] += 1 if each.good else -1
        judges.add(each.judge)
        count += 1
    good = {pair: balance > 0 for pair, balance in votes.items() if balance}
    return Opinion(good, count, len(judges), len(votes) - len(good))


def agreement(liked: Sequence[float], disliked: Sequence[float]) -> float:
    """Pairs in which the liked one is nearer; one of equal distances counts half."""
    one, other = np.asarray(liked)[:, None], np.asarray(disliked)[None, :]
    return float((one < other).sum() + 0.5 * (one == other).sum())


# -- one generation -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Asked:
    """A generation that is open, and where the judged products are in it."""

    number: int
    base: Generation
    slots: Mapping[str, np.ndarray]
    """Slots of a product's pictures."""

    @classmethod
    def of(
        cls, database: Database, data_dir: Path, number: int, live: Mapping[str, LiveProduct]
    ) -> _Asked:
        base = open_kept(database, data_dir, number)
        found = {
            id_: base.slots.slots_of(np.array(product.image_pks)) for id_, product in live.items()
        }
        there = {id_: slots[slots >= 0] for id_, slots in found.items()}
        return cls(number, base, {id_: slots for id_, slots in there.items() if len(slots)})

    def vectors(self, product_id: str) -> Vectors:
        return self.base.vectors_at(self.slots[product_id])

    def product_pk(self, product_id: str) -> int:
        return int(self.base.slots.product_pks[self.slots[product_id][0]])


def _measured(
    asked: _Asked,
    by_product: Mapping[str, Mapping[str, bool]],
    k: int,
    progress: Callable[[float], None],
) -> JudgedByPeople:
    near = good_near = pairs = liked_all = 0
    nearer = 0.0
    for place, (product_id, verdicts) in enumerate(by_product.items(), start=1):
        within = _nearest(asked, product_id, k)
        there = [good for match, good in verdicts.items() if asked.product_pk(match) in within]
        near, good_near = near + len(there), good_near + sum(there)
        distances = {match: _distance(asked, product_id, match) for match in verdicts}
        liked = [distances[match] for match, good in verdicts.items() if good]
        disliked = [distances[match] for match, good in verdicts.items() if not good]
        liked_all += len(liked)
        pairs += len(liked) * len(disliked)
        nearer += agreement(liked, disliked)
        progress(place / len(by_product))
    return JudgedByPeople(
        number=asked.number,
        model=asked.base.manifest.model_digest,
        near=near,
        precision=good_near / near if near else None,
        found=good_near / liked_all if liked_all else None,
        agreement=nearer / pairs if pairs else None,
    )


def _nearest(asked: _Asked, product_id: str, k: int) -> set[int]:
    """Keys of the k products nearest to any of its pictures, by exact search, itself aside."""
    base, own = asked.base, asked.product_pk(product_id)
    vectors = asked.vectors(product_id)
    width = min(2 * k + 16, len(base))
    while True:
        slots, squared = scan(base, vectors, width)
        order = np.argsort(squared, axis=None, kind="stable")
        products = base.slots.product_pks[slots.ravel()[order]].tolist()
        found = [pk for pk in dict.fromkeys(products) if pk != own][:k]
        if len(found) == k or width == len(base):
            return set(found)
        width = min(4 * width, len(base))


def _distance(asked: _Asked, product_id: str, match: str) -> float:
    """Between their two nearest pictures."""
    own = asked.vectors(product_id)
    theirs = np.repeat(asked.vectors(match)[None], len(own), axis=0)
    return float(score.squared(own, theirs).min())


def _by_product(common: Mapping[Pair, bool]) -> dict[str, dict[str, bool]]:
    found: dict[str, dict[str, bool]] = defaultdict(dict)
    for (product_id, match), good in sorted(common.items()):
        found[product_id][match] = good
    return dict(found)
