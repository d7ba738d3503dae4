"""What whoever looks at the service is shown: pages of the catalogue, its categories, generations, failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from db.queries import catalogue, dead_letters, generations, models, revisions
from db.queries.catalogue import Wanted
from db.queries.dead_letters import Which
from db.session import Database
from producer.browsing import (
    MAX_CATEGORIES,
    Browse,
    CataloguePage,
    Categories,
    CategoryCount,
    Failed,
    FailureList,
    FailurePage,
    Generations,
    KeptGeneration,
    Shown,
)

FRESH = 5.0
"""Seconds for which counts of categories are kept though the catalogue has changed."""
SHARE = 20
"""How many times as long as counting took they are kept at least: it reads all products."""


def browse(database: Database, question: Browse) -> CataloguePage:
    """A page of the catalogue. Raises DatabaseUnavailable."""
    wanted = Wanted(question.category, question.uncategorised, question.prefix)
    with database.reading() as session:
        found = catalogue.page(session, wanted, question.after, question.limit + 1)
    shown = tuple(
        Shown(
            product_id=each.product_id,
            name=each.name,
            category=each.category,
            attributes=each.attributes,
        )
        for each in found[: question.limit]
    )
    return CataloguePage(products=shown, more=len(found) > question.limit)


def kept_generations(database: Database, data_dir: Path) -> Generations:
    """The generations whose files are there; after a restore some are not. Raises DatabaseUnavailable."""
    with database.reading() as session:
        current = generations.pointer(session).generation
        names = {each.model.pk: each.model.name for each in models.listed(session)}
        kept = generations.kept(session)
    return Generations(
        generations=tuple(
            KeptGeneration(
                number=each.number,
                model_name=names[each.model_version_pk],
                model_version=each.model_digest,
                images=each.images,
                revision=each.revision,
                recall=each.recall,
                built_at=each.created_at,
                current=each.number == current,
            )
            for each in kept
            if (data_dir / each.directory).is_dir()
        )
    )


def failures(database: Database, question: FailureList) -> FailurePage:
    """A page of what was given up. Raises DatabaseUnavailable."""
    upto = None if question.before is None else question.before - 1
    which = Which(reason=question.reason, product_id=question.product_id, upto=upto)
    with database.reading() as session:
        found = dead_letters.list_(session, which, limit=question.limit + 1)
    shown = tuple(
        Failed(
            id=each.pk,
            product_id=each.product_id,
            name=each.name,
            reason=each.reason,
            detail=each.detail,
            attempts=each.attempts,
            at=each.created_at,
        )
        for each in found[: question.limit]
    )
    return FailurePage(failures=shown, more=len(found) > question.limit)


@dataclass(frozen=True)
class _Counted:
    """Counts, and when and for how long they were made."""

    reply: Categories
    revision: int
    at: float
    took: float


class CategoryCounts:
    """Counts the products of each category, which reads all of them, and so not at every question."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._counting = threading.Lock()
        self._last: _Counted | None = None

    def now(self) -> Categories:
        """The counts, some seconds old at most while they take no time. Raises DatabaseUnavailable."""
        with self._counting, self._database.reading() as session:
            revision, began = revisions.current(session), self._clock()
            last = self._last
            if last is None or self._is_old(last, revision, began):
                found = catalogue.categories(session)
                last = _Counted(_reply(found), revision, began, self._clock() - began)
                self._last = last
            return last.reply

    @staticmethod
    def _is_old(last: _Counted, revision: int, now: float) -> bool:
        return revision != last.revision and now - last.at > max(FRESH, SHARE * last.took)


def _reply(found: dict[str | None, int]) -> Categories:
    ordered = sorted(found.items(), key=lambda each: (-each[1], each[0] or ""))
    return Categories(
        total=sum(found.values()),
        categories=tuple(
            CategoryCount(category=category, products=count)
            for category, count in ordered[:MAX_CATEGORIES]
        ),
    )
