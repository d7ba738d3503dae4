"""Filters at many selectivities, spread evenly or not over the vectors, against exact search of what matches."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from db.session import Database
from producer.messages import Range, Selection, Where
from tests.benchmarks import catalogue
from tests.benchmarks.catalogue import Vectors, number_of, sqlite_url
from tests.benchmarks.fresh import measured
from tests.benchmarks.index_own import DATABASE, question, rebuilt
from tests.benchmarks.index_questions import Numbers
from tests.benchmarks.index_run import LIMIT, Run, Section
from tests.benchmarks.index_shop import IN_STOCK, KINDS, PARTS, Flags, Shop, category, database_of
from tests.benchmarks.report import Row, workspace
from worker.index.follower import Follower
from worker.lookup import Answerer

TITLE = "filters"
RECALL = 0.98
SHARES = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.9)
WARM_UP = 5


@dataclass(frozen=True)
class Filter:
    """Conditions, what meets them, and who asks."""

    where: Where
    matches: Flags
    """Of every product."""
    askers: Flags | None = None
    """Of every product; all may ask where it is None."""


@dataclass(frozen=True)
class Asking:
    """A filter and its questions, with the true answers."""

    kind: str
    share: float
    """Of the products, that match: as wanted."""
    where: Where
    matches: int
    asked: list[int]
    truth: list[list[int]]
    """At most LIMIT for each question: as many as there are."""


@dataclass(frozen=True)
class Answered:
    """What became of the questions."""

    answers: list[list[int]]
    ms: NDArray[np.float64]
    paths: dict[str, int]


# -- the filters ----------------------------------------------------------------------------------


def _any(shop: Shop, share: float) -> Filter:
    """Matches everywhere."""
    return Filter({"price": Range(lt=100 * share)}, shop.price < 100 * share)


def _near(shop: Shop, share: float) -> Filter:
    """Matches that lie together, asked by some of them."""
    matches = shop.shade < share
    return Filter({"shade": Range(lt=share)}, matches, matches)


def _far(shop: Shop, share: float) -> Filter:
    """Matches that lie together, asked from the other end of the vectors."""
    far = shop.shade >= 1 - min(0.1, (1 - share) / 2)
    return Filter({"shade": Range(lt=share)}, shop.shade < share, far)


def _category(shop: Shop, share: float) -> Filter:
    """Whole categories."""
    codes = _codes(share)
    return Filter({"category": tuple(map(category, codes))}, np.isin(shop.category, codes))


def _codes(share: float) -> list[int]:
    """Categories that hold about this share of the products: whole classes, then parts of one more."""
    whole = int(share * KINDS + 1e-9)
    codes, left = list(range(whole * len(PARTS))), share - whole / KINDS
    for part, size in enumerate(PARTS):
        if whole < KINDS and left > 0.5 * size / KINDS:
            codes.append(whole * len(PARTS) + part)
            left -= size / KINDS
    return codes


def _together(shop: Shop, share: float) -> Filter:
    """Categories, a price and a flag at once."""
    classes = next(n for n in (5, 9, 10) if n / KINDS * IN_STOCK >= share - 1e-9)
    codes = list(range(classes * len(PARTS)))
    price = 100 * min(1.0, share / (classes / KINDS * IN_STOCK))
    where: Where = {
        "category": tuple(map(category, codes)),
        "in_stock": True,
        "price": Range(lt=price),
    }
    return Filter(where, np.isin(shop.category, codes) & shop.in_stock & (shop.price < price))


KINDS_OF_FILTERS: dict[str, Callable[[Shop, float], Filter]] = {
    "even": _any,
    "near the query": _near,
    "far from the query": _far,
    "category": _category,
    "combination": _together,
}


# -- what is true ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """The catalogue in `folder`, and what to ask it."""

    described: str
    askings: list[Asking]


def _made(size: int, queries: int, folder: Path, cache: Path, *, real: bool) -> Made:
    """Fill the catalogue, and answer all questions by brute force."""
    gallery = catalogue.gallery(size, cache, real=real)
    shop = Shop.of(gallery)
    database_of(shop, folder, cache)
    askings = [
        _asking(gallery.rows, kind, share, make(shop, share), queries)
        for kind, make in KINDS_OF_FILTERS.items()
        for share in SHARES
    ]
    return Made(gallery.described, askings)


def _asking(rows: Vectors, kind: str, share: float, chosen: Filter, queries: int) -> Asking:
    able = np.arange(len(rows)) if chosen.askers is None else np.flatnonzero(chosen.askers)
    chance = np.random.default_rng(41)
    asked = chance.choice(able, min(queries, len(able)), replace=False)
    matches = np.flatnonzero(chosen.matches)
    found = _nearest(rows, asked, matches)
    return Asking(kind, share, chosen.where, len(matches), asked.tolist(), found)


def _nearest(rows: Vectors, asked: Numbers, matches: Numbers) -> list[list[int]]:
    """The nearest others among the matches, by brute force: as many as there are, at most LIMIT."""
    scores = rows[asked] @ rows[matches].T
    scores[asked[:, None] == matches[None, :]] = -np.inf
    first = max(0, len(matches) - LIMIT)
    best = np.argpartition(scores, first, axis=1)[:, first:] if first else _all_places(scores)
    return [
        [int(matches[place]) for place in places if np.isfinite(line[place])]
        for line, places in zip(scores, best.tolist(), strict=True)
    ]


def _all_places(scores: Vectors) -> Numbers:
    return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)


# -- asking ---------------------------------------------------------------------------------------


def _answered(folder: Path, askings: list[Asking]) -> list[Answered]:
    """Ask all, one question at a time, as a search worker would be asked."""
    database = Database(sqlite_url(folder / DATABASE))
    answerer = Answerer(database, Follower(database, folder))
    with threadpool_limits(1):
        answered = [_ask(answerer, asking) for asking in askings]
    database.close()
    return answered


def _ask(answerer: Answerer, asking: Asking) -> Answered:
    selection = Selection(limit=LIMIT, where=asking.where)
    for number in asking.asked[:WARM_UP]:
        answerer.by_products(question([number], selection))
    answers, taken, paths = [], [], Counter[str]()
    for number in asking.asked:
        lookup = question([number], selection)
        begun = time.perf_counter()
        reply = answerer.by_products(lookup).replies[0]
        taken.append((time.perf_counter() - begun) * 1000)
        answers.append([number_of(match.product_id) for match in reply.matches])
        paths[reply.path] += 1
    return Answered(answers, np.array(taken), dict(paths))


# -- the section ----------------------------------------------------------------------------------


def measure(run: Run) -> None:
    """Build an index of products with attributes, and ask it through every filter."""
    section = Section(run, TITLE)
    scale = run.scale
    with workspace(run.out) as folder:
        made = measured(
            _made, scale.size, scale.filtered_queries, folder, run.cache, real=scale.real
        ).result
        section.note(f"{made.described}.")
        measured(rebuilt, folder)
        answered = measured(_answered, folder, made.askings).result
    rows = [_row(asking, each) for asking, each in zip(made.askings, answered, strict=True)]
    section.table("selectivities", rows)
    _judge(section, rows)
    section.note(
        f"{scale.filtered_queries} products a row (fewer where fewer can ask), {LIMIT} wanted, one lookup at a "
        "time with one thread, SQL included. Even: a price that has nothing to do with the vector. Near and far: "
        "a rank along the vectors' main component, asked by products that match, and by those of the other end. "
        "Truth: brute force over the products that match; where fewer than that many match, all are wanted."
    )


def _row(asking: Asking, answered: Answered) -> Row:
    pairs = list(zip(asking.truth, answered.answers, strict=True))
    wanted = sum(len(true) for true, _ in pairs)
    found = sum(len(set(true) & set(said)) for true, said in pairs)
    return {
        "filter": asking.kind,
        "selectivity": f"{asking.share:.4g}",
        "matches": asking.matches,
        f"recall@{LIMIT}": found / wanted if wanted else 1.0,
        "too few": sum(len(said) < len(true) for true, said in pairs),
        "p50 ms": float(np.percentile(answered.ms, 50)),
        "p95 ms": float(np.percentile(answered.ms, 95)),
        "paths": ", ".join(f"{path} {count}" for path, count in sorted(answered.paths.items())),
    }


def _judge(section: Section, rows: list[Row]) -> None:
    recalls: list[Any] = [row[f"recall@{LIMIT}"] for row in rows]
    slow: list[Any] = [row["p95 ms"] for row in rows]
    few: list[Any] = [row["too few"] for row in rows]
    worst = rows[int(np.argmin(recalls))]
    section.add(
        f"least recall@{LIMIT}: {worst['filter']}, {worst['selectivity']}",
        min(recalls),
        at_least=RECALL,
    )
    section.add("answers with too few products though more match", sum(few), at_most=0)
    slowest = rows[int(np.argmax(slow))]
    section.add(f"slowest p95: {slowest['filter']}, {slowest['selectivity']}", max(slow), "ms")
