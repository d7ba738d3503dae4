"""The audit: catalogue, embeddings, index and overlay against each other, at one revision.

A view of the index is taken, then SQL is read in one snapshot, which may be a little newer. What changed after the
view's revision, and whatever looks wrong, is looked at once more, in a newer view and a newer snapshot, before
it counts. Memory does not grow with the catalogue but for some 25 bytes a picture, and the view's own overlay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy.orm import Session

from db.queries import audit as reads
from db.queries import catalogue, models, revisions
from db.queries.audit import AuditedImage
from db.queries.models import ModelVersion
from db.session import Database
from worker.audit import embeddings, generations, sight, unused
from worker.audit.embeddings import Vetted
from worker.audit.findings import EXAMPLES, Finding, Flaw, Kind, Tally
from worker.audit.generations import Kept
from worker.audit.labels import Labels
from worker.audit.sight import Seen
from worker.index.follower import Follower
from worker.index.view import View

Progress = Callable[[str, float], None]
STEPS = ("generations", "pictures", "unused")
"""What `on_progress` is called with, and the share done of it."""
TRIES, PAUSE = 5, 0.05
"""Looks at a picture that keeps changing, before it is left to the next audit; seconds between them, growing."""


MOST_WITHOUT_INDEX = 100_000
"""Pictures up to which they are compared with a view that has no generation to map, but them all in memory."""


@dataclass(frozen=True)
class Report:
    """What was looked at and what was found."""

    revision: int
    """Newest change that was looked at."""
    generation: int | None
    """The one that was compared; another is current when that cannot be used."""
    model: str | None
    images: int
    """Live pictures."""
    pending: int
    """Pictures that changed since the generation: those in its overlay."""
    findings: tuple[Finding, ...]
    seconds: float
    kept: Kept

    @property
    def gaps(self) -> int:
        """How much is wrong; notes do not count."""
        return sum(finding.count for finding in self.findings if finding.is_gap)

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds that were found, notes too."""
        return frozenset(finding.kind for finding in self.findings)

    def count(self, kind: Kind) -> int:
        """How many of a kind."""
        return sum(finding.count for finding in self.findings if finding.kind is kind)


class Auditor:
    """Audits one catalogue and its index, as a worker of this host would open it."""

    def __init__(
        self,
        database: Database,
        data_dir: Path,
        *,
        overlay_limit: int,
        on_progress: Progress = lambda step, share: None,
    ) -> None:
        """`overlay_limit` is the number of pending changes from which a rebuild is due."""
        self._database = database
        self._data_dir = data_dir
        self._overlay_limit = overlay_limit
        self._progress = on_progress

    def audit(self) -> Report:
        """Look at everything; raises DatabaseUnavailable."""
        began = time.monotonic()
        kept = generations.check(
            self._database, self._data_dir, lambda share: self._progress("generations", share)
        )
        return replace(self.audit_pictures(kept), seconds=time.monotonic() - began)

    def audit_pictures(self, kept: Kept) -> Report:
        """Look at everything but the generations' files, which `kept` tells of."""
        began = time.monotonic()
        follower = Follower(self._database, self._data_dir) if self._comparable(kept) else None
        look = _Look(self._database, follower, self._progress)
        look.run()
        view, tally = look.view, look.tally
        kept.tell(tally)
        pending = view.pending if view else look.live
        if pending > self._overlay_limit:
            tally.add(Kind.OVERLAY_LARGE, count=pending)
        with self._database.reading() as session:
            names = reads.names_of(session, tally.image_pks)
            model = models.active(session)
        self._progress("unused", 1.0)
        return Report(
            revision=look.revision,
            generation=view.number if view else None,
            model=model.digest if model else None,
            images=look.live,
            pending=pending,
            findings=tally.findings(names),
            seconds=time.monotonic() - began,
            kept=kept,
        )

    def _comparable(self, kept: Kept) -> bool:
        """Whether a view is worth its memory: one without a generation is a copy of all vectors that SQL has."""
        if kept.serving is not None:
            return True
        with self._database.reading() as session:
            return reads.count_images(session) <= MOST_WITHOUT_INDEX


@dataclass(frozen=True)
class _Looked:
    """A block of pictures in SQL beside a view."""

    flaws: list[Flaw]
    later: list[int]
    """Those that changed after the view."""
    settled: list[AuditedImage]
    """The live ones that did not."""


Examine = Callable[[Session, View | None, list[int]], _Looked]
"""Looks at pictures by their keys in a session's snapshot, and in a view that may be older."""


class _Look:
    """One pass over the catalogue."""

    def __init__(self, database: Database, follower: Follower | None, progress: Progress) -> None:
        self._database = database
        self._follower = follower
        self._progress = progress
        self.view = self._newest_view()
        base = self.view.generation if self.view else None
        self._seen = Seen(self.view) if self.view else None
        self._labels = Labels(base) if base else None
        self.tally = Tally()
        self.live = 0
        self.revision = 0

    def _newest_view(self) -> View | None:
        return self._follower.refresh() if self._follower else None

    def run(self) -> None:
        """Look at all pictures, at revisions, and at what is used by none."""
        with self._database.reading() as session:
            self.revision = revisions.current(session)
            self._revisions(session)
            model = models.active(session)
            if model is not None:
                self._pictures(session, model)
            for image_pks in self._seen.strangers() if self._seen else ():
                self._tell(_strangers, image_pks)
            for image_pks in self._labels.suspects() if self._labels else ():
                self._tell(self._otherwise_labelled, image_pks)
            self._unused(session)

    def _pictures(self, session: Session, model: ModelVersion) -> None:
        total, done = max(reads.count_images(session), 1), 0
        for block in reads.stream_images(session, model.pk, reads.BLOCK):
            live = [row.image_pk for row in block if not row.removed]
            self.live += len(live)
            looked = _look_at(session, model, self.view, block)
            if self._seen is not None:
                self._seen.mark(live)
            if self.view is not None and self._labels is not None:
                self._labels.take(self.view, looked.settled)
            suspects = {flaw.image_pk for flaw in looked.flaws} | set(looked.later)
            self._tell(_look_again, sorted(suspects))
            done += len(block)
            self._progress("pictures", min(done / total, 1.0))

    def _tell(self, examine: Examine, image_pks: list[int]) -> None:
        """Count what is still wrong with these pictures in a newer view and a newer snapshot."""
        for tried in range(TRIES):
            if not image_pks:
                return
            time.sleep(tried * PAUSE)
            view = self._newest_view()
            with self._database.reading() as session:
                looked = examine(session, view, image_pks)
            later = set(looked.later)
            for flaw in looked.flaws:
                if flaw.image_pk not in later:
                    self.tally.picture(flaw)
            image_pks = looked.later

    def _otherwise_labelled(
        self, session: Session, view: View | None, image_pks: list[int]
    ) -> _Looked:
        assert self._labels is not None
        assert view is not None
        looked = _look_again(session, view, image_pks)
        differ = self._labels.differ(view, looked.settled)
        return replace(looked, flaws=[Flaw(pk, Kind.WRONG_ATTRIBUTES) for pk in differ])

    # -- the rest ---------------------------------------------------------------------------------

    def _revisions(self, session: Session) -> None:
        ahead = reads.ahead(session, EXAMPLES)
        for pk in ahead.image_pks:
            self.tally.picture(Flaw(pk, Kind.REVISION_AHEAD))
        self.tally.add(Kind.REVISION_AHEAD, count=ahead.images - len(ahead.image_pks))
        products = [f"product {each!r}" for each in ahead.product_ids]
        self.tally.add(Kind.REVISION_AHEAD, *products, count=ahead.products)

    def _unused(self, session: Session) -> None:
        self._progress("unused", 0.0)
        used = unused.read_used(session)
        self._progress("unused", 0.5)
        for digests in unused.embeddings(session, used):
            self._note(Kind.UNUSED_EMBEDDING, digests)
        for digests in unused.thumbnails(session, used):
            self._note(Kind.UNUSED_THUMBNAIL, digests)

    def _note(self, kind: Kind, digests: Sequence[bytes]) -> None:
        self.tally.add(kind, *(each.hex()[:16] for each in digests[:EXAMPLES]), count=len(digests))


def _look_again(session: Session, view: View | None, image_pks: list[int]) -> _Looked:
    model = models.active(session)
    if model is None:
        return _Looked([], [], [])
    return _look_at(session, model, view, reads.images_of(session, image_pks, model.pk))


def _look_at(
    session: Session, model: ModelVersion, view: View | None, rows: Sequence[AuditedImage]
) -> _Looked:
    """Embeddings under the active model; then what the view has of the live ones, by the view's own model."""
    vetted = embeddings.vet(rows, model.dimension)
    if view is None:
        return _Looked(vetted.flaws, [], [])
    later = _later(session, view, rows)
    settled = [row for row in rows if not row.removed and row.image_pk not in later]
    theirs = vetted if view.model_version_pk == model.pk else _of_the_view(session, view, rows)
    keys = {row.image_pk for row in settled}
    chosen = [i for i, row in enumerate(theirs.usable) if row.image_pk in keys]
    pictures = [theirs.usable[i] for i in chosen]
    flaws = vetted.flaws + sight.compare(view, pictures, theirs.vectors[chosen])
    return _Looked(flaws, sorted(later), settled)


def _later(session: Session, view: View, rows: Sequence[AuditedImage]) -> set[int]:
    """What changed after the view; not what has a revision above the counter, which no newer view would reach."""
    newest = revisions.current(session)
    return {
        row.image_pk
        for row in rows
        for revision in (row.revision, row.product_revision)
        if view.revision < revision <= newest
    }


def _strangers(session: Session, view: View | None, image_pks: list[int]) -> _Looked:
    """Which of these the view would answer with, though SQL does not know them as live."""
    assert view is not None
    rows = {row.image_pk: row for row in reads.images_of(session, image_pks, 0)}
    held = sight.holds(view, image_pks).tolist()
    shown = [
        pk
        for pk, there in zip(image_pks, held, strict=True)
        if there and (pk not in rows or rows[pk].removed)
    ]
    later = _later(session, view, [rows[pk] for pk in shown if pk in rows])
    return _Looked([Flaw(pk, Kind.NOT_LIVE) for pk in shown], sorted(later), [])


def _of_the_view(session: Session, view: View, rows: Sequence[AuditedImage]) -> Vetted:
    """The live pictures with their vectors under the view's model, where it is not the active one."""
    model_version_pk = view.model_version_pk
    known: dict[int, bytes] = {}
    if model_version_pk is not None:
        known = catalogue.vectors_of(session, [row.image_pk for row in rows], model_version_pk)
    under = [
        row._replace(vector=known[row.image_pk], dimension=view.dimension)
        for row in rows
        if row.image_pk in known
    ]
    return embeddings.vet(under, view.dimension)
