"""Rebuilds of the index, and lookups that go on while generations are swapped."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from producer.client import Producer
from producer.errors import LookalikeError
from worker.demo.catalogue import until
from worker.demo.complaints import Complaints
from worker.demo.lookups import TIMEOUT, Answered, ask_by_product
from worker.demo.show import Advance

BUILD_TIMEOUT = 120.0
Rebuild = Callable[[], object]
"""Asks the service for a rebuild, and returns at once."""


@dataclass(frozen=True)
class Swapped:
    """Lookups of several threads while the index was rebuilt and swapped."""

    generations: tuple[int, ...]
    """Numbers of the generations that answered."""
    milliseconds: tuple[float, ...]


def build(shop: Producer, rebuild: Rebuild) -> int:
    """Ask for a rebuild and wait for a generation that holds all there is now; gives its number.

    A rebuild that was under way may come first and lack the latest changes: then one more is asked for.
    Raises LookalikeError when none comes in time.
    """
    before = shop.status(TIMEOUT)
    newest = before.generation.number if before.generation else 0
    deadline = time.monotonic() + BUILD_TIMEOUT
    rebuild()
    while time.monotonic() < deadline:
        generation = shop.status(TIMEOUT).generation
        if generation is not None and generation.number > newest:
            if generation.revision >= before.revision:
                return generation.number
            newest = generation.number
            rebuild()
        time.sleep(0.1)
    raise LookalikeError(
        f"no new index generation in {BUILD_TIMEOUT:g} s: the log of `index` says why"
    )


def swap_while_asking(
    shop: Producer,
    product_ids: Sequence[str],
    rebuild: Rebuild,
    complaints: Complaints,
    advance: Advance,
    *,
    swaps: int = 2,
    threads: int = 4,
) -> Swapped:
    """Rebuild and swap while `threads` threads ask without a pause, until the last generation answers."""
    stop = threading.Event()
    with ThreadPoolExecutor(threads, "asking") as pool:
        asking = [
            pool.submit(_keep_asking, shop, product_ids[start:] or product_ids, stop, complaints)
            for start in range(threads)
        ]
        try:
            for number in range(1, swaps + 1):
                newest = build(shop, rebuild)
                advance(number)
            until(
                lambda: _answering(shop, product_ids[0]) >= newest,
                f"generation {newest} is current and does not answer",
            )
        except LookalikeError as error:
            complaints.add(str(error))
        finally:
            stop.set()
    return _together([answer for each in asking for answer in each.result()])


def _keep_asking(
    shop: Producer, product_ids: Sequence[str], stop: threading.Event, complaints: Complaints
) -> list[Answered]:
    answered = []
    for product_id in itertools.cycle(product_ids):
        if stop.is_set():
            break
        answer = ask_by_product(shop, product_id, complaints)
        if answer is not None:
            answered.append(answer)
    return answered


def _answering(shop: Producer, product_id: str) -> int:
    return shop.find_similar(product_id, limit=1).result(TIMEOUT).generation or 0


def _together(answered: Sequence[Answered]) -> Swapped:
    numbers = {answer.reply.generation for answer in answered}
    return Swapped(
        generations=tuple(sorted(number for number in numbers if number is not None)),
        milliseconds=tuple(answer.milliseconds for answer in answered),
    )
