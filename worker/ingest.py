"""Apply a chunk of pictures: prepare them, and commit what came of it in one transaction.

One bad picture never fails its chunk (invariant 3): it becomes a dead letter at once when its error is
permanent, and part of a later job when it is not. What the database refuses stays in the ledger.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from db.queries import backfill, catalogue, dead_letters, fences, models, revisions
from db.queries.catalogue import ImageChange, NewEmbedding
from db.queries.dead_letters import NewDeadLetter
from db.session import Database
from producer import tracing
from producer.ledger import Claim, Ledger, follow_up
from producer.messages import ImageItem, IngestChunk, ItemFailure, Outcome, RemoveChunk
from worker import measures
from worker.giving_up import letter_of
from worker.preparing import Pictured, Prepared, Refused, Vectors

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
QUARANTINE_AFTER = 2
"""Workers that died with a chunk before its pictures are tried one by one, in a process that may die of them."""

Prepare = Callable[[Sequence[ImageItem]], Prepared]


class _EmbeddingGone(Exception):
    """A vector that was there when the chunk was begun is not there any more."""


@dataclass(frozen=True)
class Ingester:
    """Turns messages about pictures into rows. Safe to call from several threads, as its parts are."""

    database: Database
    ledger: Ledger
    model_version_pk: int
    prepare: Prepare
    quarantine: Prepare
    """As `prepare`, for a chunk that workers died with: whatever a picture does to it, the others come back."""
    on_commit: Callable[[int, float], object] | None = None
    """Told the revision of what lookups can see since a commit, and when its job was accepted (epoch seconds)."""

    def ingest(self, claim: Claim[IngestChunk]) -> Outcome:
        """Make the chunk's pictures searchable and tell the ledger.

        Raises DatabaseUnavailable when nothing could be committed, and Fenced when another worker has taken the
        job over; it is in the ledger then.
        """
        prepare = self.prepare if claim.deaths < QUARANTINE_AFTER else self.quarantine
        while True:
            try:
                return self._apply(claim, prepare(claim.job.items))
            except _EmbeddingGone:
                log.info("job %s: a vector was deleted as unused; making it again", claim.job.id)

    def _apply(self, claim: Claim[IngestChunk], prepared: Prepared) -> Outcome:
        chunk = claim.job
        again = [
            each
            for each in prepared.refused
            if each.error.transient and chunk.attempt < MAX_ATTEMPTS
        ]
        dead = [each for each in prepared.refused if each not in again]
        retry = follow_up(chunk, [each.item for each in again]) if again else None
        revision = self._commit(claim, prepared, dead)
        if revision is not None and self.on_commit is not None:
            self.on_commit(revision, chunk.accepted_at)
        failures = [_failure(each, None) for each in dead]
        failures += [_failure(each, retry) for each in again]
        outcome = Outcome(applied=len(prepared.pictured), failures=tuple(failures))
        if self.ledger.clear(claim, outcome, follow_ups=[retry] if retry else []):
            measures.ended(claim, outcome)
            if failures:
                log.info("job %s: %s", chunk.id, _told(failures))
        return outcome

    def _commit(
        self, claim: Claim[IngestChunk], prepared: Prepared, dead: Sequence[Refused]
    ) -> int | None:
        made = {self.model_version_pk: prepared.vectors, **prepared.beside}
        with (
            tracing.span("commit"),
            measures.stage("commit"),
            self.database.writing() as session,
        ):
            for model_version_pk in sorted(
                made
            ):  # all in one order: none waits for another in a ring
                catalogue.add_embeddings(session, model_version_pk, new(made[model_version_pk]))
            catalogue.add_thumbnails(session, list(prepared.thumbnails.items()))
            dead_letters.add(session, [_dead_letter(claim, each) for each in dead])
            changes = [_change(each) for each in prepared.pictured]
            # Under the lock, since another model may have become the active one meanwhile.
            revisions.lock(session)
            embedded = _visible(session, made)
            applied = catalogue.apply(session, changes, [], embedded=embedded)
            revealed = catalogue.reveal(session, embedded, applied.revision)
            # Under the catalogue's lock: `verify --repair` deletes vectors that nobody used a moment ago.
            known = {each.sha256 for each in prepared.pictured} - prepared.vectors.keys()
            if known - catalogue.known_embeddings(session, known, self.model_version_pk):
                raise _EmbeddingGone
            fences.check(session, claim.job.id, claim.token)
        return applied.revision if applied.revision is not None else revealed


def _visible(session: Session, made: Mapping[int, Vectors]) -> set[bytes]:
    """Bytes whose new vectors lookups must come to know of: the active model's, and those that an index of the
    incoming one, which may be built at the moment, does without."""
    serving = models.serving(session)
    active, incoming = serving.active, serving.incoming
    visible = set(made.get(active.pk, ())) if active is not None else set()
    if incoming is not None and serving.without_missing:
        visible |= backfill.given_up(session, incoming.pk, made.get(incoming.pk, {}))
    return visible


def new(vectors: Vectors) -> list[NewEmbedding]:
    """Vectors as they are stored."""
    return [
        NewEmbedding(digest, len(vector), vector.astype("<f4").tobytes())
        for digest, vector in vectors.items()
    ]


def remove(database: Database, ledger: Ledger, claim: Claim[RemoveChunk]) -> Outcome:
    """Take products out of the catalogue and tell the ledger. Raises as `Ingester.ingest` does."""
    chunk = claim.job
    removals = [catalogue.ProductRemoval(each.product_id, each.version) for each in chunk.items]
    with tracing.span("commit"), database.writing() as session:
        catalogue.apply(session, [], removals)
        fences.check(session, chunk.id, claim.token)
    outcome = Outcome(applied=len(removals))
    if ledger.clear(claim, outcome):
        measures.ended(claim, outcome)
    return outcome


def _told(failures: Sequence[ItemFailure]) -> str:
    """What was not applied, in a line: how many of each reason, and what becomes of them."""
    given_up = [each for each in failures if each.retried_as is None]
    again = [each for each in failures if each.retried_as is not None]
    told = [f"given up: {_by_reason(given_up)}"] if given_up else []
    told += [f"tried again as {again[0].retried_as}: {_by_reason(again)}"] if again else []
    return "; ".join(told)


def _by_reason(failures: Sequence[ItemFailure]) -> str:
    return ", ".join(
        f"{count} {reason}" for reason, count in Counter(each.reason for each in failures).items()
    )


def _failure(refused: Refused, retry: IngestChunk | None) -> ItemFailure:
    return ItemFailure(
        product_id=refused.item.product_id,
        name=refused.item.name,
        reason=refused.error.reason,
        detail=refused.error.detail,
        retried_as=retry.id if retry else None,
    )


def _change(pictured: Pictured) -> ImageChange:
    item = pictured.item
    return ImageChange(
        product_id=item.product_id,
        name=item.name,
        content_sha256=pictured.sha256,
        source=pictured.source,
        category=item.category,
        attributes=dict(item.attributes),
        version=item.version,
    )


def _dead_letter(claim: Claim[IngestChunk], refused: Refused) -> NewDeadLetter:
    error, attempts = refused.error, claim.job.attempt + claim.deaths
    return letter_of(claim.job, refused.item, error.reason, error.detail, attempts)
