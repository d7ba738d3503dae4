"""Answers lookups from one view of the index, checked against SQL before they go out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db.queries import catalogue
from db.queries.catalogue import Described, LiveProduct
from db.session import Database
from producer.messages import AsOf, BatchReply, Match, ProductLookup, Reply, SearchPath, Where
from worker.index import filters, score
from worker.index.errors import WrongModel
from worker.index.follower import Follower
from worker.index.score import Vectors
from worker.index.search import NO_PRODUCT, Ask, Candidates, nearest
from worker.index.view import View

Flags = NDArray[np.bool_]

__all__ = ["Answerer", "WrongModel"]

ATTEMPTS = 3
"""How often a lookup is begun again because the catalogue changed under it; the last answer goes out."""
FILTERED_FETCH = 4
"""Products to look at for each one wanted, when attributes decide; four times as many when too few remain."""
CELLS = 1 << 22
"""Candidates that are in memory at once."""


@dataclass(frozen=True)
class _Question:
    """One product or picture to find others for."""

    vectors: Vectors
    """Its pictures [p, d]."""
    product_pk: int
    product_id: str | None


@dataclass
class _Found:
    """What is known of the answer to one question so far."""

    matches: tuple[Match, ...] = ()
    path: SearchPath = "none"


@dataclass
class _Search:
    """A search for all questions of a message, in one view and one session."""

    view: View
    session: Session
    limit: int
    where: Where
    described: dict[int, Described] = field(default_factory=dict)
    asked: set[int] = field(default_factory=set)

    @property
    def stale(self) -> bool:
        """Whether the index gave pictures that SQL says are gone: the view is older than the session."""
        return len(self.described) < len(self.asked)


class Answerer:
    """Answers questions; one per process, used by all of its threads."""

    def __init__(self, database: Database, follower: Follower) -> None:
        self._database = database
        self._follower = follower

    def by_products(self, question: ProductLookup) -> BatchReply:
        """One reply for each product that is in the catalogue, in the order asked.

        Raises DatabaseUnavailable.
        """
        ids = dict.fromkeys(question.product_ids)
        answers = self._answers(
            lambda search: _of_products(search, list(ids)), question.limit, question.where
        )
        replies = {reply.product_id: reply for reply in answers}
        return BatchReply(
            replies=tuple(replies[i] for i in question.product_ids if i in replies),
            not_found=tuple(i for i in ids if i not in replies),
        )

    def by_vector(
        self, vector: Vectors, model_digest: str, limit: int, where: Where | None = None
    ) -> Reply:
        """What looks like this vector (float32 [d], unit length, made by the model of that digest)?

        Raises WrongModel when the index is made with another model, ValueError when it is not such a vector,
        DatabaseUnavailable.
        """

        def questions(search: _Search) -> list[_Question]:
            _check(search.view, vector, model_digest)
            return [_Question(vector.reshape(1, -1).astype(np.float32), NO_PRODUCT, None)]

        return self._answers(questions, limit, where or {})[0]

    def _answers(
        self, questions: Callable[[_Search], list[_Question]], limit: int, where: Where
    ) -> list[Reply]:
        """Answer from one view, and again from a newer one where SQL shows that it was overtaken."""
        for _ in range(ATTEMPTS):
            view = self._follower.refresh()
            with self._database.reading() as session:
                search = _Search(view, session, limit, where)
                replies = _answered(search, questions(search))
            if not search.stale:
                break
        return replies


def _check(view: View, vector: Vectors, model_digest: str) -> None:
    if view.model_digest is None:
        return
    if view.model_digest != model_digest:
        raise WrongModel(
            f"the picture was embedded by model {model_digest[:12]}, the index is of {view.model_digest[:12]}: "
            "start the worker with the LOOKALIKE_MODEL of the index, or rebuild it (lookalike-worker reindex)"
        )
    if vector.size != view.dimension or not np.isfinite(vector).all():
        raise ValueError(f"a vector of {view.dimension} finite numbers is needed")


# -- the questions --------------------------------------------------------------------------------


def _of_products(search: _Search, product_ids: list[str]) -> list[_Question]:
    """Questions for the products that are live and have a vector of the view's model."""
    live = catalogue.live_images(search.session, product_ids)
    products = [live[i] for i in product_ids if i in live]
    pks = [pk for product in products for pk in product.image_pks]
    vectors, found = _vectors(search, pks)
    return list(_split(products, vectors, found))


def _split(products: Sequence[LiveProduct], vectors: Vectors, found: Flags) -> Iterator[_Question]:
    start = 0
    for product in products:
        stop = start + len(product.image_pks)
        own = vectors[start:stop][found[start:stop]]
        if len(own):
            yield _Question(own, product.product_pk, product.product_id)
        start = stop


def _vectors(search: _Search, image_pks: list[int]) -> tuple[Vectors, Flags]:
    """Vectors from the view; from SQL those that were committed after it."""
    vectors, found = search.view.vectors_of(image_pks)
    model = search.view.model_version_pk
    missing = [i for i, there in enumerate(found.tolist()) if not there]
    if missing and model is not None:
        stored = catalogue.vectors_of(search.session, [image_pks[i] for i in missing], model)
        for i in missing:
            blob = stored.get(image_pks[i], b"")
            if len(blob) == 4 * search.view.dimension:
                vectors[i] = score.rounded(np.frombuffer(blob, dtype="<f4"))
                found[i] = np.isfinite(vectors[i]).all()
    return vectors, found


# -- the answers ----------------------------------------------------------------------------------


def _answered(search: _Search, questions: list[_Question]) -> list[Reply]:
    """A reply for each question."""
    found = [_Found() for _ in questions]
    pending = list(range(len(questions)))
    fetch = search.limit
    if filters.beyond_category(search.where):
        fetch = max(FILTERED_FETCH * search.limit, 64)
    while pending:
        short: list[int] = []
        for group in _groups(pending, fetch):
            short += _round(search, questions, found, group, fetch)
        pending, fetch = short, 4 * fetch
    return [_reply(search.view, q, f) for q, f in zip(questions, found, strict=True)]


def _groups(pending: list[int], fetch: int) -> Iterator[list[int]]:
    """As many questions at once as memory allows for so many candidates."""
    step = max(1, CELLS // (8 * fetch))
    for start in range(0, len(pending), step):
        yield pending[start : start + step]


def _round(
    search: _Search, questions: list[_Question], found: list[_Found], group: list[int], fetch: int
) -> list[int]:
    """Look at `fetch` products for each question of the group; which of them need more."""
    candidates = nearest(search.view, _ask(search, [questions[i] for i in group], fetch))
    _describe(search, candidates)
    short = []
    for i, each in zip(group, candidates, strict=True):
        matches = _matches(search, each)
        found[i].matches, found[i].path = matches, each.path
        if len(matches) < search.limit and not each.complete:
            short.append(i)
    return short


def _ask(search: _Search, questions: list[_Question], fetch: int) -> Ask:
    return Ask(
        queries=np.concatenate([q.vectors for q in questions]),
        owners=np.repeat(np.arange(len(questions)), [len(q.vectors) for q in questions]),
        exclude=np.array([q.product_pk for q in questions], dtype=np.int64),
        fetch=fetch,
        categories=filters.categories(search.where),
    )


def _describe(search: _Search, candidates: list[Candidates]) -> None:
    """The final check: what SQL says now of the pictures that are about to be shown."""
    pks = set(np.concatenate([c.image_pks for c in candidates]).tolist()) - search.asked
    if pks:
        search.asked |= pks
        search.described.update(catalogue.describe(search.session, sorted(pks)))


def _matches(search: _Search, candidates: Candidates) -> tuple[Match, ...]:
    matches = []
    pairs = zip(candidates.image_pks.tolist(), candidates.distances.tolist(), strict=True)
    for pk, distance in pairs:
        row = search.described.get(pk)
        if row is None:
            continue
        if search.where and not filters.matches(search.where, row.category, row.attributes):
            continue
        matches.append(_match(row, distance))
        if len(matches) == search.limit:
            break
    return tuple(matches)


def _match(row: Described, distance: float) -> Match:
    return Match(
        product_id=row.product_id,
        name=row.name,
        distance=distance,
        category=row.category,
        attributes=row.attributes,
    )


def _reply(view: View, question: _Question, found: _Found) -> Reply:
    return Reply(
        matches=found.matches,
        product_id=question.product_id,
        generation=view.number,
        model_version=view.model_digest,
        as_of=AsOf(revision=view.revision, at=view.at),
        pending=view.pending,
        path=found.path,
    )
