"""Changes of the catalogue: adding all of it, and products that come and go while lookups watch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from producer.client import Producer
from producer.errors import LookalikeError, ProductNotFound
from producer.messages import ItemFailure
from producer.rows import Row
from worker.demo.complaints import Complaints
from worker.demo.lookups import LIMIT, TIMEOUT
from worker.demo.show import Advance
from worker.demo.stock import read

ADD_TIMEOUT, SEEN_TIMEOUT = 900.0, 30.0
SAME = 0.05
"""Distance below which a picture has been found again."""
POLL = 0.002


@dataclass(frozen=True)
class Added:
    """The catalogue, added through the queue."""

    applied: int
    refused: tuple[ItemFailure, ...]
    seconds: float
    """From the first picture given to the queue to the last one searchable."""


@dataclass(frozen=True)
class Changed:
    """Milliseconds from the call until a lookup saw each product that came, and each that went."""

    seen: tuple[float, ...]
    gone: tuple[float, ...]


def add(shop: Producer, rows: Sequence[Row], advance: Advance) -> Added:
    """Add every row, and wait until each is searchable or refused."""
    start = time.perf_counter()
    outcome = shop.wait_for(shop.add_many(rows), ADD_TIMEOUT, advance)
    return Added(outcome.applied, outcome.failures, time.perf_counter() - start)


def come_and_go(
    shop: Producer, rows: Sequence[Row], complaints: Complaints, advance: Advance
) -> Changed:
    """Add products one at a time until a lookup sees each, then remove it until lookups see that."""
    seen, gone = [], []
    for number, row in enumerate(rows, start=1):
        try:
            seen.append(_comes(shop, row, complaints))
            gone.append(_goes(shop, row, complaints))
        except LookalikeError as error:
            complaints.add(f"adding and removing {row.product_id}: {error}")
        advance(number)
    return Changed(tuple(seen), tuple(gone))


def _comes(shop: Producer, row: Row, complaints: Complaints) -> float:
    start = time.perf_counter()
    shop.add_many([row])
    until(lambda: _known(shop, row.product_id), f"{row.product_id} was added and is not found")
    milliseconds = (time.perf_counter() - start) * 1000
    found = row.product_id in _same_picture(shop, row)
    complaints.unless(found, f"{row.product_id} was added and its own picture does not find it")
    return milliseconds


def _goes(shop: Producer, row: Row, complaints: Complaints) -> float:
    start = time.perf_counter()
    shop.remove(row.product_id)
    until(lambda: not _known(shop, row.product_id), f"{row.product_id} was removed and is found")
    milliseconds = (time.perf_counter() - start) * 1000
    found = row.product_id in _same_picture(shop, row)
    complaints.unless(not found, f"{row.product_id} was removed and its own picture finds it")
    return milliseconds


def _known(shop: Producer, product_id: str) -> bool:
    try:
        shop.find_similar(product_id, limit=1).result(TIMEOUT)
    except ProductNotFound:
        return False
    return True


def _same_picture(shop: Producer, row: Row) -> set[str]:
    matches = shop.find_similar(image=read(row), limit=LIMIT).result(TIMEOUT).matches
    return {match.product_id for match in matches if match.distance < SAME}


def until(condition: Callable[[], bool], complaint: str, timeout: float = SEEN_TIMEOUT) -> None:
    """Wait for a condition; LookalikeError with the complaint when it does not come true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LookalikeError(f"{complaint} after {timeout:g} s")
        time.sleep(POLL)
