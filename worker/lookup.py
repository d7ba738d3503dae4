"""Answers lookups from one view of the index, checked against SQL before they go out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db.queries import catalogue
from db.queries.catalogue import Described, LiveProduct
from db.session import Database
from producer import tracing
from producer.messages import (
    AsOf,
    BatchReply,
    Match,
    PictureLookup,
    ProductLookup,
    Reply,
    SearchPath,
    Selection,
    TasteLookup,
)
from worker import choosing
from worker.choosing import Pool
from worker.index import attributes, filters, score
from worker.index.errors import WrongModel
from worker.index.score import Vectors
from worker.index.search import Ask, Candidates, nearest
from worker.index.view import View
from worker.sampling import NEAREST, Sample, Sampler
from worker.taste import blend

Flags = NDArray[np.bool_]

__all__ = ["Answerer", "WrongModel"]

ATTEMPTS = 3
"""How often a lookup is begun again because the catalogue changed under it; the last answer goes out."""
WIDEN = 4
"""How many times as many products are looked at when too few of them will do."""
CELLS = 1 << 22
"""Candidates that are in memory at once."""
CATEGORY = filters.CATEGORY


@dataclass(frozen=True)
class _Question:
    """Something to find others for."""

    vectors: Vectors
    """Its pictures [p, d]: a match is as near as it is to the nearest of them."""
    leave_out: frozenset[int]
    """Keys of products that are no answer."""
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
    selection: Selection
    described: dict[int, Described] = field(default_factory=dict)
    asked: set[int] = field(default_factory=set)

    @property
    def stale(self) -> bool:
        """Whether the index gave pictures that SQL says are gone: the view is older than the session."""
        return len(self.described) < len(self.asked)


class Views(Protocol):
    """What gives the view of the index to answer from."""

    @property
    def view(self) -> View:
        """The last one."""

    def refresh(self) -> View:
        """The newest one."""


class Answerer:
    """Answers questions; one per process, for all of its threads. Every method may raise DatabaseUnavailable."""

    def __init__(self, database: Database, follower: Views, sampler: Sampler | None = None) -> None:
        """`sampler` is offered what was answered."""
        self._database = database
        self._follower = follower
        self._sampler = sampler

    @property
    def model_digest(self) -> str | None:
        """By which model pictures are to be embedded now; None before there is any."""
        return self._follower.view.model_digest

    def by_products(self, question: ProductLookup) -> BatchReply:
        """One reply for each product that is in the catalogue, in the order asked."""
        ids = dict.fromkeys(question.product_ids)
        answers = self._answers(
            lambda search: list(_of_products(search, list(ids))), question.selection
        )
        replies = {reply.product_id: reply for reply in answers}
        return BatchReply(
            replies=tuple(replies[i] for i in question.product_ids if i in replies),
            not_found=tuple(i for i in ids if i not in replies),
        )

    def by_taste(self, question: TasteLookup) -> BatchReply:
        """One reply for all products together, or the ids that are not in the catalogue."""
        return self._by_taste(question, [], [])

    def by_pictures(
        self,
        question: PictureLookup,
        liked: Sequence[Vectors],
        disliked: Sequence[Vectors],
        model_digest: str,
    ) -> Reply | BatchReply:
        """The reply to pictures whose vectors (float32 [d], unit length) the model of that digest made.

        A BatchReply only to name products of the question that are not in the catalogue. Raises WrongModel when
        the index is made with another model, ValueError when something is no such vector.
        """
        batch = self._by_taste(question, liked, disliked, model_digest)
        return batch.replies[0] if batch.replies else batch

    def _by_taste(
        self,
        question: TasteLookup | PictureLookup,
        liked: Sequence[Vectors],
        disliked: Sequence[Vectors],
        model_digest: str = "",
    ) -> BatchReply:
        missing: list[str] = []

        def questions(search: _Search) -> list[_Question]:
            for vector in (*liked, *disliked):
                _check(search.view, vector, model_digest)
            named = dict.fromkeys((*question.liked, *question.disliked))
            of_each = _of_products(search, list(named))
            known = {each.product_id or "": each for each in of_each}
            missing[:] = [id_ for id_ in named if id_ not in known]
            if missing:
                return []
            wanted = [known[id_].vectors for id_ in question.liked]
            wanted += [np.asarray(each, np.float32).reshape(1, -1) for each in liked]
            unwanted = [known[id_].vectors for id_ in question.disliked]
            unwanted += [np.asarray(each, np.float32).reshape(1, -1) for each in disliked]
            leave_out = frozenset[int]().union(*(each.leave_out for each in known.values()))
            return [_Question(blend(wanted, unwanted).reshape(1, -1), leave_out, None)]

        replies = self._answers(questions, question.selection)
        return BatchReply(replies=tuple(replies), not_found=tuple(missing))

    def _answers(
        self, questions: Callable[[_Search], list[_Question]], selection: Selection
    ) -> list[Reply]:
        """Answer from one view, and again from a newer one where SQL shows that it was overtaken."""
        answered = -1
        for _ in range(ATTEMPTS):
            view = self._follower.refresh()
            if view.revision == answered:  # there is none that is newer
                break
            answered = view.revision
            with tracing.span("search"), self._database.reading() as session:
                search = _Search(view, session, selection)
                asked = questions(search)
                replies = _answered(search, asked)
            if not search.stale:
                break
        if self._sampler is not None and asked:
            self._sampler.offer(lambda: Sample(view, _ask(search, asked[:1], NEAREST)))
        return replies


def _check(view: View, vector: Vectors, model_digest: str) -> None:
    if view.model_digest is None:
        return
    if view.model_digest != model_digest:
        raise WrongModel(
            f"the picture was embedded by model {model_digest[:12]}, the index is of {view.model_digest[:12]}"
        )
    if vector.size != view.dimension or not np.isfinite(vector).all():
        raise ValueError(f"a vector of {view.dimension} finite numbers is needed")


# -- the questions --------------------------------------------------------------------------------


def _of_products(search: _Search, product_ids: list[str]) -> Iterator[_Question]:
    """Questions for the products that are live and have a vector of the view's model."""
    live = catalogue.live_images(search.session, product_ids)
    products = [live[i] for i in product_ids if i in live]
    pks = [pk for product in products for pk in product.image_pks]
    vectors, found = _vectors(search, pks)
    return _split(products, vectors, found)


def _split(products: Sequence[LiveProduct], vectors: Vectors, found: Flags) -> Iterator[_Question]:
    start = 0
    for product in products:
        stop = start + len(product.image_pks)
        own = vectors[start:stop][found[start:stop]]
        if len(own):
            yield _Question(own, frozenset((product.product_pk,)), product.product_id)
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
    fetch = choosing.pool_size(search.selection)
    while pending:
        short: list[int] = []
        for group in _groups(pending, fetch):
            short += _round(search, questions, found, group, fetch)
        pending, fetch = short, WIDEN * fetch
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
        rows, distances, beyond = _usable(search, each)
        chosen = _chosen(search, rows, distances)
        matches = [_match(rows[place], float(distances[place])) for place in chosen]
        found[i].matches, found[i].path = tuple(matches), each.path
        if not (each.complete or beyond) and choosing.too_few(
            search.selection, fetch, len(rows), len(matches)
        ):
            short.append(i)
    return short


def _ask(search: _Search, questions: list[_Question], fetch: int) -> Ask:
    return Ask(
        queries=np.concatenate([q.vectors for q in questions]),
        owners=np.repeat(np.arange(len(questions)), [len(q.vectors) for q in questions]),
        exclude=tuple(q.leave_out for q in questions),
        fetch=fetch,
        conditions=filters.conditions(search.selection.where),
    )


def _describe(search: _Search, candidates: list[Candidates]) -> None:
    """The final check: what SQL says now of the pictures that are about to be shown."""
    pks = set(np.concatenate([c.image_pks for c in candidates]).tolist()) - search.asked
    if pks:
        search.asked |= pks
        search.described.update(catalogue.describe(search.session, sorted(pks)))


def _usable(search: _Search, candidates: Candidates) -> tuple[list[Described], Vectors, bool]:
    """Candidates that SQL confirms, their distances, and whether farther ones are too far."""
    selection = search.selection
    near = candidates.distances <= choosing.farthest(selection)
    rows, places = [], []
    for place, pk in enumerate(candidates.image_pks[near].tolist()):
        row = search.described.get(pk)
        if row is not None and filters.matches(selection.where, row.category, row.attributes):
            rows.append(row)
            places.append(place)
    return rows, candidates.distances[places], not bool(near.all())


def _chosen(search: _Search, rows: list[Described], distances: Vectors) -> Sequence[int]:
    """Places of the rows that make the answer."""
    selection = search.selection
    if not choosing.needs_choice(selection) or not rows:
        return range(min(len(rows), selection.limit))
    vectors, _ = _vectors(search, [row.image_pk for row in rows])
    values = [{name: _values(row, name) for name in selection.at_most} for row in rows]
    pool = Pool(distances, vectors, [row.content_sha256 for row in rows], values)
    return choosing.choose(pool, selection)


def _values(row: Described, name: str) -> tuple[Hashable, ...]:
    """What a product counts as for a limited attribute; one that has no value is not limited."""
    value = row.category if name == CATEGORY else row.attributes.get(name)
    found = ((isinstance(each, bool), each) for each in attributes.scalars(value))
    return tuple(dict.fromkeys(found))


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
