"""Mends what an audit found, and audits again.

Embeddings first: a bad one is deleted, and the picture embedded again from where its bytes came. Then the index: a
new generation in the place of one that differs from the catalogue. Then what nobody needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from redis.exceptions import RedisError

from db.queries import audit as reads
from db.queries import generations, leases, models, revisions
from db.queries.audit import Recorded
from db.queries.generations import LEASE, Pointer
from db.queries.models import ModelVersion
from db.session import Database
from producer.errors import QueueFull, QueueUnavailable
from producer.messages import ImageItem, ItemFailure
from worker.audit import embeddings, unused
from worker.audit.auditor import Auditor, Progress, Report
from worker.audit.findings import OF_EMBEDDINGS, OF_PICTURES, Example, Kind, counted
from worker.audit.requeue import item_of
from worker.index import cleanup
from worker.index.errors import BuildFailed
from worker.index.rebuild import BuildSettings, rebuild
from worker.lease import Lease, LeaseHeld

LISTED = 10_000
"""Pictures to be added again that are named; more are counted."""
STEPS = ("embeddings", "embedding again", "rebuilding", "deleting")
"""What `on_progress` is called with besides the audit's own steps, and the share done of it."""
CAME_AS_BYTES = "its bytes came with the message and are not kept"
PATIENCE, PAUSE = 10, 0.5
"""Tries to delete a generation that processes are letting go of, and seconds between them."""


class Embedders(Protocol):
    """Whoever embeds pictures again: see `worker.audit.requeue.Requeue`."""

    @property
    def sent(self) -> int: ...
    def send(self, pictures: Sequence[tuple[bytes, ImageItem]]) -> None: ...
    @property
    def attended(self) -> bool: ...
    def wait(self, on_share: Callable[[float], None]) -> int: ...
    @property
    def failures(self) -> tuple[ItemFailure, ...]: ...


@dataclass(frozen=True)
class Repaired:
    """What was done, what is left for the operator, and what is still wrong."""

    before: Report
    after: Report
    counter: int | None
    """What the revision counter was raised to."""
    embeddings_deleted: int
    sent: int
    """Pictures that were put on the queue to be embedded again."""
    waiting: int
    """How many of them are not done yet."""
    add_again: tuple[Example, ...]
    add_again_count: int
    """Pictures that cannot be embedded again from here: the shop has to add them."""
    generation: int | None
    """The one that was built."""
    removed: tuple[str, ...]
    """Directories that were deleted: of no generation, and of those that could not be used."""
    unused_embeddings: int
    unused_thumbnails: int
    remarks: tuple[str, ...]
    """What could not be done, and what to do about it."""


@dataclass
class _Done:
    """What was done so far."""

    counter: int | None = None
    embeddings_deleted: int = 0
    waiting: int = 0
    add_again: list[Example] = field(default_factory=list)
    add_again_count: int = 0
    generation: int | None = None
    removed: list[str] = field(default_factory=list)
    unused_embeddings: int = 0
    unused_thumbnails: int = 0
    remarks: list[str] = field(default_factory=list)

    def to_add(self, example: Example) -> None:
        """Name a picture that the shop has to add again."""
        self.add_again_count += 1
        if len(self.add_again) < LISTED:
            self.add_again.append(example)


class Repairer:
    """Mends one catalogue and its index."""

    def __init__(
        self,
        database: Database,
        data_dir: Path,
        build: BuildSettings,
        *,
        auditor: Auditor,
        embedders: Embedders,
        on_progress: Progress = lambda step, share: None,
    ) -> None:
        self._database = database
        self._data_dir = data_dir
        self._build = build
        self._auditor = auditor
        self._embedders = embedders
        self._progress = on_progress
        self._done = _Done()
        self._cut_off = False

    def repair(self, before: Report) -> Repaired:
        """Mend what the audit found; what cannot be mended is remarked upon. Raises DatabaseUnavailable."""
        self._done = _Done()
        self._raise_counter(before)
        found = before
        if before.kinds & OF_EMBEDDINGS:
            self._mend_embeddings()
            # What was embedded may be all that lookups could not find, or not be findable by it.
            found = self._auditor.audit_pictures(before.kept)
        self._mend_index(found)
        self._delete_unused(found)
        return self._told(before, self._auditor.audit())

    def _told(self, before: Report, after: Report) -> Repaired:
        done = self._done
        other = after.count(Kind.MISSING_EMBEDDING) - done.waiting - done.add_again_count
        if other > 0 and self._embedders.sent and not self._cut_off:
            self._remark(
                f"{counted(other, 'picture')} fetched, and still without an embedding: the source has other bytes "
                "now than the catalogue knows; add what is left again"
            )
        return Repaired(
            before=before,
            after=after,
            counter=done.counter,
            embeddings_deleted=done.embeddings_deleted,
            sent=self._embedders.sent,
            waiting=done.waiting,
            add_again=tuple(done.add_again),
            add_again_count=done.add_again_count,
            generation=done.generation,
            removed=(*sorted({*before.kept.litter} - {*after.kept.litter}), *done.removed),
            unused_embeddings=done.unused_embeddings,
            unused_thumbnails=done.unused_thumbnails,
            remarks=tuple(done.remarks),
        )

    def _raise_counter(self, report: Report) -> None:
        if Kind.REVISION_AHEAD not in report.kinds:
            return
        with self._database.writing() as session:
            highest = reads.ahead(session, 0).highest
            least = max(highest, *report.kept.ahead.values(), 0)
            if least > revisions.current(session):
                self._done.counter = revisions.raise_to(session, least)

    # -- embeddings -------------------------------------------------------------------------------

    def _mend_embeddings(self) -> None:
        with self._database.reading() as session:
            model = models.active(session)
            if model is None:
                return
            total, looked_at = max(reads.count_images(session), 1), 0
            for block in reads.stream_images(session, model.pk, reads.BLOCK):
                flaws = embeddings.vet(block, model.dimension).flaws
                if flaws:
                    self._mend_block([flaw.image_pk for flaw in flaws], model)
                looked_at += len(block)
                self._progress("embeddings", min(looked_at / total, 1.0))
        with self._queue_needed():
            self._wait()

    def _mend_block(self, image_pks: list[int], model: ModelVersion) -> None:
        """Delete what is bad of these pictures' embeddings, as they are now, and send the live ones."""
        with self._database.writing() as session:
            revisions.lock(session)
            rows = reads.images_of(session, image_pks, model.pk)
            flaws = embeddings.vet(rows, model.dimension).flaws
            bad = {flaw.image_pk for flaw in flaws if flaw.kind is Kind.BAD_EMBEDDING}
            digests = [row.content_sha256 for row in rows if row.image_pk in bad]
            self._done.embeddings_deleted += reads.delete_embeddings(session, digests, model.pk)
        with self._database.reading() as session:
            pictures = reads.recorded(session, [flaw.image_pk for flaw in flaws])
        items = list(self._sendable(pictures))
        if items and not self._cut_off:
            with self._queue_needed():
                self._embedders.send(items)

    def _sendable(self, pictures: Sequence[Recorded]) -> Iterator[tuple[bytes, ImageItem]]:
        for picture in pictures:
            item = item_of(picture)
            if item is not None:
                yield picture.content_sha256, item
            else:
                why = f"its source, {picture.source!r}, cannot be read again"
                why = CAME_AS_BYTES if picture.source.startswith("bytes") else why
                self._done.to_add(Example(picture.product_id, picture.name, why))

    def _wait(self) -> None:
        if not self._embedders.sent:
            return
        if not self._embedders.attended:
            self._done.waiting = self._embedders.sent
            self._remark(
                "no embed worker runs, so the pictures wait in the queue: start one (`lookalike-worker up`), "
                "and verify again when they are done"
            )
            return
        self._done.waiting = self._embedders.wait(
            lambda share: self._progress("embedding again", share)
        )
        if self._done.waiting:
            self._remark(
                f"{counted(self._done.waiting, 'picture')} still waiting to be embedded: nothing is lost; verify "
                "again when `lookalike status` shows none that wait"
            )
        for failure in self._embedders.failures:
            self._done.to_add(Example(failure.product_id, failure.name, failure.detail))

    @contextmanager
    def _queue_needed(self) -> Iterator[None]:
        try:
            yield
        except (QueueUnavailable, QueueFull, RedisError) as error:
            self._cut_off = True
            self._remark(
                f"not all pictures could be sent to be embedded again: {error}; then repair again"
            )

    # -- the index --------------------------------------------------------------------------------

    def _mend_index(self, report: Report) -> None:
        pointer, unfit = self._pointer(), report.kept.unfit
        differs = report.kinds & OF_PICTURES or report.kept.points_at_nothing
        if differs or pointer.generation in unfit:
            self._rebuild(pointer)
        if unfit or report.kept.litter:
            self._tidy(sorted(unfit))

    def _rebuild(self, pointer: Pointer) -> None:
        if pointer.pinned:
            self._remark(
                f"generation {pointer.generation} was chosen by a rollback and stays: replace it with "
                "`lookalike-worker reindex`"
            )
            return
        try:
            built = rebuild(
                self._database,
                self._data_dir,
                self._build,
                on_progress=lambda _, share: self._progress("rebuilding", share),
            )
        except (BuildFailed, OSError) as error:
            self._remark(f"no new index: {error}")
            return
        if built is None:
            self._remark(
                f"no new index, since another build is running{self._holder()}: verify again after it"
            )
            return
        self._progress("rebuilding", 1.0)
        self._done.generation = built.number

    def _tidy(self, unfit: Sequence[int]) -> None:
        try:
            with Lease(self._database, LEASE) as lease:
                cleanup.clean(self._database, self._data_dir, self._build.keep, lease.token)
                for number in unfit:
                    self._discard(number)
        except LeaseHeld as held:
            self._remark(f"nothing was deleted of the index, since {held}: verify again after it")

    def _discard(self, number: int) -> None:
        with self._database.reading() as session:
            row = generations.get(session, number)
            gone = generations.removed_at(session, number) is not None
        if row is None or gone:
            return
        for _ in range(PATIENCE):  # processes that have just been given a new one let go of it
            if number == self._pointer().generation:
                return
            if cleanup.discard(self._database, self._data_dir, number):
                self._done.removed.append(row.directory)
                return
            time.sleep(PAUSE)
        self._remark(
            f"generation {number} stays for now, since a process has it open: repair again later"
        )

    def _pointer(self) -> Pointer:
        with self._database.reading() as session:
            return generations.pointer(session)

    def _holder(self) -> str:
        with self._database.reading() as session:
            holder = leases.holder(session, LEASE)
        return f" ({holder.name})" if holder else ""

    # -- what nobody needs ------------------------------------------------------------------------

    def _delete_unused(self, report: Report) -> None:
        if not report.kinds & {Kind.UNUSED_EMBEDDING, Kind.UNUSED_THUMBNAIL}:
            return
        with self._database.reading() as session:
            since = revisions.current(session)
            used = unused.read_used(session)
            for find in (unused.embeddings, unused.thumbnails):
                for digests in find(session, used):
                    self._delete(digests, since)
        self._progress("deleting", 1.0)

    def _delete(self, digests: Sequence[bytes], since: int) -> None:
        with self._database.writing() as session:
            embedded, thumbnails = reads.delete_unused(session, digests, since)
        self._done.unused_embeddings += embedded
        self._done.unused_thumbnails += thumbnails

    def _remark(self, text: str) -> None:
        if text not in self._done.remarks:
            self._done.remarks.append(text)
