"""Lookups by product and by picture, timed as the shop sees them: from the question to the reply in hand."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from statistics import fmean

from producer.client import Producer
from producer.errors import LookalikeError, PictureRejected
from producer.lookups import Lookup
from producer.messages import Reply
from producer.rows import Row
from worker.demo.complaints import Complaints
from worker.demo.show import Advance
from worker.demo.stock import read

LIMIT = 10
TIMEOUT = 15.0


@dataclass(frozen=True)
class Answered:
    """One lookup that came back."""

    about: str
    """The product that was asked about."""
    reply: Reply
    milliseconds: float


@dataclass(frozen=True)
class Refused:
    """A picture that cannot be used, and why."""

    about: str
    detail: str


def by_product(
    shop: Producer, product_ids: Sequence[str], complaints: Complaints, advance: Advance
) -> list[Answered]:
    """Ask what looks like each product, one at a time."""
    answered = []
    for number, product_id in enumerate(product_ids, start=1):
        answer = ask_by_product(shop, product_id, complaints)
        if answer is not None:
            answered.append(answer)
        advance(number)
    return answered


def ask_by_product(shop: Producer, product_id: str, complaints: Complaints) -> Answered | None:
    """Ask once and check what can be checked of any answer; None if there is none."""
    answer = _ask(product_id, partial(shop.find_similar, product_id, limit=LIMIT), complaints)
    if answer is not None:
        found = {match.product_id for match in answer.reply.matches}
        complaints.unless(product_id not in found, f"{product_id} was found to look like itself")
    return answer


def by_picture(
    shop: Producer, rows: Sequence[Row], complaints: Complaints, advance: Advance
) -> list[Answered | Refused]:
    """Ask what looks like each row's picture, sent as bytes, one at a time."""
    answered: list[Answered | Refused] = []
    for number, row in enumerate(rows, start=1):
        question = partial(shop.find_similar, image=read(row), limit=LIMIT)
        try:
            answer = _ask(row.product_id, question, complaints)
        except PictureRejected as error:
            answered.append(Refused(row.product_id, error.detail))
        else:
            answered += [answer] if answer is not None else []
        advance(number)
    return answered


def _ask(about: str, question: Callable[[], Lookup], complaints: Complaints) -> Answered | None:
    start = time.perf_counter()
    try:
        reply = question().result(TIMEOUT)
    except PictureRejected:
        raise
    except LookalikeError as error:
        complaints.add(f"lookup of {about}: {error}")
        return None
    milliseconds = (time.perf_counter() - start) * 1000
    complaints.unless(bool(reply.matches), f"lookup of {about}: no matches")
    return Answered(about, reply, milliseconds)


@dataclass(frozen=True)
class Precision:
    """Precision@10 by category: the share of the matches that are of the category asked about."""

    mean: float
    """Over all pictures that have a category."""
    by_category: Mapping[str, float]


def precision(rows: Sequence[Row], answered: Sequence[Answered]) -> Precision | None:
    """Judge the answers about `rows` by their categories; None if there are no categories."""
    category_of = {row.product_id: row.category for row in rows}
    shares: dict[str, list[float]] = defaultdict(list)
    for answer in answered:
        category = category_of[answer.about]
        if category is not None and answer.reply.matches:
            same = [match.category == category for match in answer.reply.matches]
            shares[category].append(fmean(same))
    if not shares:
        return None
    by_category = {category: fmean(each) for category, each in sorted(shares.items())}
    return Precision(fmean(chain.from_iterable(shares.values())), by_category)
