"""The producer: what a shop's backend talks to."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from pydantic import BaseModel, JsonValue

from producer import checks
from producer.chunks import Chunk, chunks, groups
from producer.comparison import Comparison, ComparisonReply, ProductList, ProductPage
from producer.errors import InvalidRequest, LookupTimeout, QueueFull, ServiceUnresponsive
from producer.ids import new_id
from producer.lookups import Asked, BatchLookup, Lookup
from producer.messages import (
    IngestChunk,
    Outcome,
    ProductLookup,
    Question,
    QueueStatus,
    Removal,
    RemoveChunk,
    StatusReply,
    StatusRequest,
    ThumbnailReply,
    ThumbnailRequest,
)
from producer.pictures import PictureSource
from producer.receipts import Receipt, Tracker
from producer.room import Room, WhenFull
from producer.rows import Row
from producer.selection import Options, selection
from producer.settings import ProducerSettings
from producer.sync import Sync, Synced
from producer.taste import Pictures, Products, Taste
from producer.transport import RedisTransport, Transport
from producer.versions import Versions

R = TypeVar("R", bound=BaseModel)
MAX_REMOVALS = 1000
MAX_THUMBNAILS = 500
ANSWERED_IN = 60.0
"""Seconds that the service may take to compare a page of pictures."""


class Producer:
    """Puts products and questions on the queue. Threads may share one, and so may forked processes.

    Nothing is connected until the first call. Close it, or use it as a context manager, to let its
    connections go. Every method that talks to Redis may raise QueueUnavailable; arguments that no worker
    could serve raise InvalidRequest before anything is sent.
    """

    def __init__(
        self, settings: ProducerSettings | None = None, *, transport: Transport | None = None
    ) -> None:
        self._settings = settings or ProducerSettings.from_env()
        self._transport = transport or RedisTransport(self._settings)
        self._versions = Versions()

    @classmethod
    def from_env(cls) -> Self:
        """A producer with the settings of the environment and `.env`; SettingsError if they are wrong."""
        return cls(ProducerSettings.from_env())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of every connection."""
        self._transport.close()

    # -- the catalogue ----------------------------------------------------------------------------

    def add(
        self,
        product_id: str,
        image: PictureSource,
        /,
        *,
        name: str = "main",
        category: str | None = None,
        version: int | None = None,
        when_full: WhenFull = "wait",
        timeout: float | None = None,
        **attributes: JsonValue | Decimal,
    ) -> Receipt:
        """Make a picture of a product searchable, or replace it; returns once the job cannot be lost.

        `image` is a path (as the worker sees it), an http(s) address, bytes or an open file. A product's
        other pictures have other names. Attributes are strings, numbers, booleans or lists of them; a Decimal
        becomes a float. `version` orders the changes of a product: the greatest wins, however
        late it comes; the time of the call if not given. When the service is behind by more jobs than
        LOOKALIKE_MAX_BACKLOG, waits (for at most `timeout` seconds) or raises QueueFull, as `when_full` says.
        """
        row = Row(product_id, image, name, category, attributes, version)
        item, data = row.item(self._versions.next())
        chunk = Chunk()
        chunk.add(item, data)
        room = Room(self._transport, self._settings.max_backlog, when_full, timeout)
        return self._send([chunk], room)[0]

    def add_many(
        self,
        rows: Iterable[Row | Mapping[str, Any]],
        *,
        when_full: WhenFull = "wait",
        timeout: float | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> list[Receipt]:
        """Make many pictures searchable, in chunks; returns a receipt for each chunk.

        A row is a Row, or a mapping with product_id and image, optionally name, category and version; its
        other keys are attributes. `rows` is read as it is sent, so it may be a generator. `progress` is
        called with the number of rows accepted so far. `when_full` and `timeout` are as in `add`, for the
        whole call. At a row that is wrong, raises InvalidRequest that says which; at a full queue, QueueFull,
        whose `accepted` says how many rows were taken. The rows before either are accepted.
        """
        room = Room(self._transport, self._settings.max_backlog, when_full, timeout)
        receipts: list[Receipt] = []
        accepted = 0
        for group in groups(chunks(rows, self._settings.chunk_size, self._versions)):
            waiting = group
            while waiting:
                part, waiting = self._part(waiting, room, accepted)
                receipts += self._send(part, room)
                accepted += sum(len(chunk.items) for chunk in part)
                if progress is not None:
                    progress(accepted)
        return receipts

    def remove(
        self,
        *product_ids: str,
        version: int | None = None,
        when_full: WhenFull = "wait",
        timeout: float | None = None,
    ) -> list[Receipt]:
        """Take products out: they are gone from answers when this is applied, whatever the index's age.

        Removing what is not there is no error. `version`, `when_full` and `timeout` are as in `add`, but
        twice the backlog is allowed, so that a flood of new pictures does not hold removals up.
        """
        ids = checks.product_ids(product_ids, most=None)
        versions = {id_: self._versions.next() if version is None else version for id_ in ids}
        return self._remove(versions, when_full, timeout)

    def _remove(
        self, versions: Mapping[str, int], when_full: WhenFull, timeout: float | None
    ) -> list[Receipt]:
        room = Room(self._transport, 2 * self._settings.max_backlog, when_full, timeout)
        receipts = []
        ids = list(versions)
        for start in range(0, len(ids), MAX_REMOVALS):
            removals = tuple(
                checks.build(Removal, product_id=id_, version=versions[id_])
                for id_ in ids[start : start + MAX_REMOVALS]
            )
            room.wait_for_one()
            job = RemoveChunk(id=new_id(), accepted_at=time.time(), items=removals)
            receipts += self._accept([job], room)
        return receipts

    def sync(
        self,
        rows: Iterable[Row | Mapping[str, Any]],
        *,
        delete: bool = False,
        dry_run: bool = False,
        checksum: bool = False,
        when_full: WhenFull = "wait",
        timeout: float | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Synced:
        """Compare a whole catalogue with the service's, and send only what differs.

        Rows are as in `add_many`. A picture is taken for the same when it is from the same path or address, and
        the product has the same category and attributes; of pictures given as bytes, and with `checksum` of
        local files, the bytes are compared instead. Products that are not among the rows are counted, and with
        `delete` removed, unless they change meanwhile. With `dry_run` nothing is sent. `progress`
        is called with the number of rows compared. Raises ServiceUnresponsive when no worker answers.
        """
        return Sync(
            compare=lambda pictures: self._asked(Comparison, ComparisonReply, pictures=pictures),
            list_products=lambda after: self._asked(ProductList, ProductPage, after=after),
            add=lambda missing: self.add_many(missing, when_full=when_full, timeout=timeout),
            remove=lambda versions: self._remove(versions, when_full, timeout),
            delete=delete,
            dry_run=dry_run,
            checksum=checksum,
            progress=progress or (lambda _: None),
        ).run(rows)

    def wait_for(
        self,
        receipts: Iterable[Receipt],
        timeout: float | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Outcome:
        """Wait until every job has been applied or given up; returns what became of all items together.

        `progress` is called with the number of items done. Raises JobTimeout after `timeout` seconds.
        """
        tracker = self.track(receipts)
        tracker.wait(timeout, progress)
        return tracker.outcome

    def track(self, receipts: Iterable[Receipt] = ()) -> Tracker:
        """Follow jobs while others are still being added."""
        return Tracker(self._transport, receipts)

    def outcome(self, job_id: str) -> Outcome | None:
        """What became of one job, by its id; None while it is not known, or no longer."""
        return self._transport.outcomes([job_id])[0]

    # -- lookups ----------------------------------------------------------------------------------

    def find_similar(
        self,
        product_id: Products | None = None,
        *,
        image: Pictures | None = None,
        disliked: Products = (),
        disliked_image: Pictures = (),
        limit: int = 10,
        where: Mapping[str, object] | None = None,
        **options: Unpack[Options],
    ) -> Lookup:
        """Ask for products that look like a product, like a picture, or like several together; returns at once.

        Products (64 at most) and pictures (8) make one taste, and matches keep away from those `disliked`;
        no product that is named is among its matches.

        `where` keeps matches whose category and attributes are as given: a value, a list of values any of
        which may hold, or a range such as {"price": {"lt": 50}}. The reply has `limit` matches (1 to 1000)
        whenever so many exist, unless one of these leaves products out:

        - `min_similarity`: those that are less similar than this cosine (-1 to 1);
        - `collapse`: those whose picture is within this distance (0 to 2) of a nearer match's; 0 is for the
          same picture under several ids;
        - `at_most`: those beyond so many with the same value of an attribute, such as {"brand": 2}.

        `diversity` (0 to 1) is the weight of being unlike the matches before, rather than like what is asked
        about.
        """
        picked = selection(limit, where, **options)
        taste = Taste.of(product_id, image, disliked, disliked_image)
        question = taste.question(picked, **self._new_question())
        self._transport.store(taste.sent, self._settings.lookup_ttl)
        self._transport.ask(question)
        return Lookup(question.id, self._transport)

    def find_similar_many(
        self,
        product_ids: Iterable[str],
        limit: int = 10,
        where: Mapping[str, object] | None = None,
        **options: Unpack[Options],
    ) -> BatchLookup:
        """Ask about up to 256 products, each by itself, in one message, answered from one view of the index.

        Products times `limit` may be at most 25,600; `where` and the options are as in `find_similar`.
        """
        ids = checks.product_ids(product_ids)
        picked = selection(limit, where, **options)
        checks.matches(ids, picked.limit)
        question = checks.build(
            ProductLookup, product_ids=ids, selection=picked, **self._new_question()
        )
        self._transport.ask(question)
        return BatchLookup(question.id, self._transport)

    def lookup(self, lookup_id: str) -> Lookup:
        """A lookup that was asked here or in another process, by its id."""
        return Lookup(_lookup_id(lookup_id), self._transport)

    def batch(self, lookup_id: str) -> BatchLookup:
        """A lookup of `find_similar_many`, by its id."""
        return BatchLookup(_lookup_id(lookup_id), self._transport)

    # -- the service ------------------------------------------------------------------------------

    def backlog(self) -> int:
        """How many jobs are accepted and not yet applied."""
        return self._transport.backlog()

    def queue_status(self) -> tuple[QueueStatus, ...]:
        """How many messages wait in each queue, straight from Redis: also when no worker runs."""
        return self._transport.queues()

    def status(self, timeout: float = 3.0) -> StatusReply:
        """What the service says of itself; ServiceUnresponsive if no worker does within `timeout` seconds."""
        question = StatusRequest(**self._new_question(timeout))
        return self._ask(question, StatusReply, timeout)

    def thumbnails(
        self, images: Sequence[tuple[str, str]], timeout: float = 10.0
    ) -> dict[tuple[str, str], bytes]:
        """Small JPEGs of pictures, by (product id, image name); those that do not exist are left out.

        Raises ServiceUnresponsive if no worker answers within `timeout` seconds.
        """
        found: dict[tuple[str, str], bytes] = {}
        for start in range(0, len(images), MAX_THUMBNAILS):
            page = tuple(dict.fromkeys(images[start : start + MAX_THUMBNAILS]))
            question = checks.build(ThumbnailRequest, images=page, **self._new_question(timeout))
            for each in self._ask(question, ThumbnailReply, timeout).thumbnails:
                found[each.product_id, each.name] = base64.b64decode(each.jpeg)
        return found

    # -- how --------------------------------------------------------------------------------------

    def _part(
        self, group: list[Chunk], room: Room, accepted: int
    ) -> tuple[list[Chunk], list[Chunk]]:
        try:
            free = room.wait_for_one()
        except QueueFull as error:
            error.accepted = accepted
            raise
        return group[:free], group[free:]

    def _send(self, chunks: Sequence[Chunk], room: Room) -> list[Receipt]:
        if room.unknown:
            room.wait_for_one()
        for chunk in chunks:
            self._transport.store(chunk.pictures, self._settings.picture_ttl)
        now = time.time()
        return self._accept(
            [IngestChunk(id=new_id(), accepted_at=now, items=tuple(c.items)) for c in chunks], room
        )

    def _accept(self, jobs: Sequence[IngestChunk | RemoveChunk], room: Room) -> list[Receipt]:
        room.taken(self._transport.accept(jobs))
        return [Receipt(job.id, len(job.items), self._transport) for job in jobs]

    def _asked(self, question: type[Question], reply: type[R], **fields: object) -> R:
        built = checks.build(question, **fields, **self._new_question(ANSWERED_IN))
        return self._ask(built, reply, ANSWERED_IN)

    def _ask(self, question: Question, reply: type[R], timeout: float) -> R:
        self._transport.ask(question)
        try:
            return Asked(question.id, self._transport, reply).result(timeout)
        except LookupTimeout:
            raise ServiceUnresponsive(
                f"no worker answered within {timeout:g} s: start one with `lookalike-worker up`, or wait "
                "longer"
            ) from None

    def _new_question(self, lifetime: float | None = None) -> dict[str, Any]:
        kept = self._settings.lookup_ttl if lifetime is None else lifetime
        return {"id": new_id(), "expires_at": time.time() + kept}


def _lookup_id(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidRequest("a lookup's id is a string: pass `lookup.id`")
    return value
