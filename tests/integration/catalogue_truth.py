"""What a catalogue must answer, in plain Python: dictionaries and loops, and nothing of the service's own.

A vector may be deleted behind a catalogue's back (`lose`); until its bytes are embedded again, a picture may be
found or not, as the view that answers is older or newer than that. Everything else is certain.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.queries.catalogue import ImageChange, ProductRemoval
from producer.messages import Condition, Match, Range, Reply, Selection, Where

Vector = NDArray[np.float32]
SAME = 1e-3
"""Distances that differ by less are the same: those of half-precision vectors, measured in two ways."""

SHARED_STAY_LOST = True
"""Whether bytes that are embedded again are found only in the products that the message was about."""


@dataclass
class Known:
    """What the newest messages say of a product."""

    version: int = -1
    category: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    removed: int = -1
    pictures: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Version and number of each, by name."""

    def live(self) -> dict[str, int]:
        """Numbers of the pictures that can be found, by name."""
        return {
            name: number
            for name, (version, number) in self.pictures.items()
            if version > self.removed
        }


@dataclass(frozen=True)
class Options:
    """What may be said of one product in an answer."""

    shown: tuple[tuple[float, str], ...]
    """Distance and name of the pictures that it may be shown by, nearest first."""
    due: float | None
    """The greatest distance at which it must be there, if nothing rules it out; None if it need not be."""


class Truth:
    """A catalogue of numbered pictures, as the messages so far describe it."""

    def __init__(self, pool: Vector) -> None:
        """`pool` [n, d] are the vectors of all pictures there can be, of unit length."""
        self.vectors = pool.astype(np.float16).astype(np.float64)
        self.known: dict[str, Known] = {}
        self.lost: set[tuple[str, int]] = set()
        """Products with a picture whose vector was deleted, and its number."""

    def copy(self) -> Truth:
        """The same, as it is now."""
        other = Truth.__new__(Truth)
        other.vectors, other.known, other.lost = self.vectors, deepcopy(self.known), set(self.lost)
        return other

    # -- messages ---------------------------------------------------------------------------------

    def note(self, message: ImageChange | ProductRemoval) -> None:
        """Take in a message, in whatever order it comes: versions decide."""
        known = self.known.setdefault(message.product_id, Known())
        if isinstance(message, ProductRemoval):
            known.removed = max(known.removed, message.version)
            return
        if message.version > known.version:
            known.version, known.category = message.version, message.category
            known.attributes = dict(message.attributes)
        if message.version > known.pictures.get(message.name, (-1, 0))[0]:
            known.pictures[message.name] = (message.version, int(message.source))

    def lose(self, picture: int) -> None:
        """The vector of a picture's bytes is deleted."""
        self.lost |= {
            (product, picture)
            for product, known in self.known.items()
            if picture in known.live().values()
        }

    def find_again(self, embedded: Collection[int], products: Collection[str]) -> None:
        """Messages about these products have made the vectors of these pictures anew."""
        self.lost = {
            (product, picture)
            for product, picture in self.lost
            if picture not in embedded or (SHARED_STAY_LOST and product not in products)
        }

    # -- what is there ----------------------------------------------------------------------------

    def live(self) -> list[str]:
        """Products with a picture that can be found."""
        return [product for product, known in self.known.items() if known.live()]

    def certain(self) -> list[str]:
        """Products all of whose pictures have a vector, and that have one."""
        return [
            product
            for product in self.live()
            if not any(self._is_lost(product, each) for each in self.known[product].live().values())
        ]

    def _is_lost(self, product: str, picture: int) -> bool:
        return (product, picture) in self.lost

    def gone(self) -> list[str]:
        """Products that were there once."""
        return [product for product, known in self.known.items() if not known.live()]

    def pictures_of(self, product: str) -> list[NDArray[np.float64]]:
        """Vectors of its pictures."""
        return [self.vectors[number] for number in self.known[product].live().values()]

    # -- answers ----------------------------------------------------------------------------------

    def options(
        self, asked: Sequence[NDArray[Any]], left_out: set[str], selection: Selection
    ) -> dict[str, Options]:
        """All products that may be answered, by their nearest picture to any of those asked about."""
        rows = np.asarray(asked, dtype=np.float64)
        apart = np.linalg.norm(self.vectors[None, :, :] - rows[:, None, :], axis=2).min(axis=0)
        far = apart.tolist()
        found = {}
        for product, known in self.known.items():
            live = known.live()
            if product in left_out or not live:
                continue
            if not meets(selection.where, known.category, known.attributes):
                continue
            options = self._options(product, live, far, farthest(selection))
            if options.shown:
                found[product] = options
        return found

    def _options(
        self, product: str, live: Mapping[str, int], far: Sequence[float], limit: float
    ) -> Options:
        shown = sorted((far[number], name) for name, number in live.items())
        sure = [far[each] for each in live.values() if not self._is_lost(product, each)]
        due = min(sure, default=None)
        if due is not None:
            shown = [each for each in shown if each[0] <= due + SAME]
        shown = [each for each in shown if each[0] <= limit + SAME]
        return Options(tuple(shown), due if due is None or due <= limit - SAME else None)

    def judge(self, reply: Reply, options: Mapping[str, Options], selection: Selection) -> None:
        """Fail unless the reply is one that brute force could have given."""
        matches = reply.matches
        assert len(matches) <= selection.limit
        assert len({match.product_id for match in matches}) == len(matches), "a product is doubled"
        for match in matches:
            self._judge_match(match, options)
        distances = [match.distance for match in matches]
        assert distances == sorted(distances), "not in order of distance"
        for place, match in enumerate(matches):
            earlier = matches[:place]
            assert not self._ruled_out(match.product_id, match.name, earlier, selection), (
                f"{match.product_id!r} was ruled out by a nearer one"
            )
        self._judge_missing(matches, options, selection)

    def _judge_match(self, match: Match, options: Mapping[str, Options]) -> None:
        known = self.known.get(match.product_id)
        assert known is not None, f"{match.product_id!r} was never heard of"
        assert match.product_id in options, f"{match.product_id!r} is no answer: {known}"
        shown = options[match.product_id].shown
        assert any(
            match.name == name and abs(match.distance - distance) < SAME for distance, name in shown
        ), f"{match.product_id!r} is not at {match.distance:.4f} by {match.name!r}, but {shown}"
        assert match.category == known.category
        assert same_json(dict(match.attributes), known.attributes)

    def _judge_missing(
        self, matches: Sequence[Match], options: Mapping[str, Options], selection: Selection
    ) -> None:
        last = matches[-1].distance if len(matches) == selection.limit else math.inf
        there = {match.product_id for match in matches}
        for product, each in options.items():
            if product in there or each.due is None or each.due >= last - SAME:
                continue
            nearer = [match for match in matches if match.distance <= each.due + SAME]
            # Where several of its pictures are as near, any of them may have been the one considered.
            assert any(
                self._ruled_out(product, name, nearer, selection, possibly=True)
                for _, name in each.shown
            ), f"{product!r} is missing, at {each.due:.4f}"

    def _ruled_out(
        self,
        product: str,
        name: str,
        chosen: Sequence[Match],
        selection: Selection,
        *,
        possibly: bool = False,
    ) -> bool:
        """Whether those that were chosen before leave no room; `possibly` leaves the benefit of rounding."""
        return self._is_full(product, chosen, selection) or self._is_alike(
            product, name, chosen, selection.collapse, SAME if possibly else -SAME
        )

    def _is_full(self, product: str, chosen: Sequence[Match], selection: Selection) -> bool:
        for name, most in selection.at_most.items():
            for value in self._values(product, name):
                of_it = [match for match in chosen if value in self._values(match.product_id, name)]
                if len(of_it) >= most:
                    return True
        return False

    def _is_alike(
        self, product: str, name: str, chosen: Sequence[Match], collapse: float | None, slack: float
    ) -> bool:
        if collapse is None:
            return False
        number = self.known[product].pictures[name][1]
        for match in chosen:
            other = self.known[match.product_id].pictures[match.name][1]
            apart = float(np.linalg.norm(self.vectors[number] - self.vectors[other]))
            if number == other or apart <= collapse + slack:
                return True
        return False

    def _values(self, product: str, name: str) -> list[Any]:
        known = self.known[product]
        value = known.category if name == "category" else known.attributes.get(name)
        values = value if isinstance(value, list) else [value]
        return [(isinstance(each, bool), each) for each in values if each is not None]


def either(before: Mapping[str, Options], after: Mapping[str, Options]) -> dict[str, Options]:
    """What may be answered while one becomes the other: nothing that is gone, and both say what is due."""
    found = {}
    for product, now in after.items():
        was = before.get(product, Options((), None))
        sure = None if was.due is None or now.due is None else max(was.due, now.due)
        found[product] = Options(tuple({*was.shown, *now.shown}), sure)
    return found


def farthest(selection: Selection) -> float:
    """The distance that the least similarity allows."""
    if selection.min_similarity is None:
        return math.inf
    return math.sqrt(max(0.0, 2 - 2 * selection.min_similarity))


def meets(where: Where, category: str | None, attributes: Mapping[str, Any]) -> bool:
    """Whether all conditions hold. Of a list one element is enough; True is no number; nothing meets None."""
    return all(
        any(
            _holds(condition, value)
            for value in _each(category if key == "category" else attributes.get(key))
        )
        for key, condition in where.items()
    )


def _each(value: Any) -> Iterator[Any]:
    yield from (value if isinstance(value, list) else [value])


def _holds(condition: Condition, value: Any) -> bool:
    if value is None:
        return False
    if isinstance(condition, Range):
        if isinstance(value, bool | str):
            return False
        bounds = [
            condition.lt is None or value < condition.lt,
            condition.le is None or value <= condition.le,
            condition.gt is None or value > condition.gt,
            condition.ge is None or value >= condition.ge,
        ]
        return all(bounds)
    wanted = condition if isinstance(condition, tuple) else (condition,)
    return any(each == value and _kind(each) == _kind(value) for each in wanted)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "flag"
    return "text" if isinstance(value, str) else "number"


def same_json(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON: True is not 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_json(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
