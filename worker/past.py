"""Lookups as a kept generation of the index would have answered them: from its files, by its own model."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path

from db.queries import catalogue, generations
from db.queries.generations import Generation as Published
from db.session import Database
from producer.browsing import PastLookup
from producer.messages import BatchReply, ProductLookup
from producer.reasons import Reason
from worker.desk import Unanswerable
from worker.index.errors import EngineBroken, GenerationRefused
from worker.index.generation import Expected, Generation
from worker.index.overlay import Overlay
from worker.index.view import View
from worker.lookup import Answerer

MOST = 2
"""Generations that are open at once: those that somebody looks at side by side."""
LINGER = 60.0
"""Seconds after the last question for which one stays open; it cannot be cleaned up until then."""


@dataclass(frozen=True)
class Still:
    """A view that nothing changes."""

    view: View

    def refresh(self) -> View:
        """The same."""
        return self.view


@dataclass
class _Opened:
    view: View
    asked_at: float = field(default_factory=time.monotonic)


class Past:
    """Opens kept generations when somebody asks, and lets them go after a while."""

    def __init__(self, database: Database, data_dir: Path, linger: float = LINGER) -> None:
        self._database = database
        self._data_dir = data_dir
        self._linger = linger
        self._lock = threading.Lock()
        self._opened: OrderedDict[tuple[int, str], _Opened] = OrderedDict()
        self._timer: threading.Timer | None = None

    def answer(self, question: PastLookup) -> BatchReply:
        """What the generation finds; its products are shown as the catalogue has them now, and none that is gone.

        Raises Unanswerable for a generation that is not kept, or a product that it does not have, and
        DatabaseUnavailable.
        """
        view = self._view(question.generation)
        asked = ProductLookup(
            id=question.id,
            expires_at=question.expires_at,
            product_ids=(question.product_id,),
            selection=question.selection,
        )
        reply = Answerer(self._database, Still(view)).by_products(asked)
        if reply.not_found and self._is_there(question.product_id):
            raise Unanswerable(
                Reason.NOT_IN_GENERATION,
                f"generation {question.generation} does not have this product, which came later: ask without "
                "a generation",
            )
        return reply

    def close(self) -> None:
        """Let all go."""
        with self._lock:
            self._opened.clear()
            if self._timer is not None:
                self._timer.cancel()

    def _is_there(self, product_id: str) -> bool:
        with self._database.reading() as session:
            return bool(catalogue.live_images(session, [product_id]))

    def _view(self, number: int) -> View:
        row = self._row(number)
        key = (row.number, row.manifest_sha256)
        with self._lock:  # one is opened at a time: it may read all of it
            found = self._opened.pop(key, None) or _Opened(self._open(row))
            self._opened[key] = replace(found, asked_at=time.monotonic())
            while len(self._opened) > MOST:
                self._opened.popitem(last=False)
            self._let_go_later()
            return found.view

    def _row(self, number: int) -> Published:
        with self._database.reading() as session:
            kept = {each.number: each for each in generations.kept(session)}
        if number not in kept:
            there = ", ".join(map(str, sorted(kept))) or "none"
            raise Unanswerable(
                Reason.UNKNOWN_GENERATION, f"generation {number} is not kept: there is {there}"
            )
        return kept[number]

    def _open(self, row: Published) -> View:
        expected = Expected(row.number, row.model_digest, row.manifest_sha256)
        try:
            generation = Generation.open(self._data_dir / row.directory, expected)
        except (GenerationRefused, EngineBroken) as error:
            raise Unanswerable(
                Reason.UNKNOWN_GENERATION, f"generation {row.number} cannot be opened: {error}"
            ) from error
        dimension = generation.manifest.dimension
        return View(
            revision=row.revision,
            at=row.created_at,
            model_version_pk=None,  # vectors that it does not have are not to come from SQL
            model_digest=row.model_digest,
            dimension=dimension,
            generation=generation,
            overlay=Overlay(dimension, generation.slots).snapshot(),
        )

    # -- letting go -------------------------------------------------------------------------------

    def _let_go_later(self) -> None:
        if self._timer is None or not self._timer.is_alive():
            self._timer = threading.Timer(self._linger, self._let_go)
            self._timer.daemon = True
            self._timer.start()

    def _let_go(self) -> None:
        with self._lock:
            least = time.monotonic() - self._linger
            for key, each in list(self._opened.items()):
                if each.asked_at <= least:
                    del self._opened[key]
            self._timer = None
            if self._opened:
                self._let_go_later()
