"""Puts pictures of the catalogue on the queue once more, from where their bytes came, and waits for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Self

from pydantic import ValidationError

from db.queries.audit import Recorded
from producer.messages import (
    MAX_CHUNK,
    ImageItem,
    ImageRef,
    ItemFailure,
    PathImage,
    StoreImage,
    UrlImage,
)
from producer.transport import connect
from worker.heartbeat import beating
from worker.resending import Resender
from worker.settings import WorkerSettings

EMBED = "embed"
"""The role of the workers that take the pictures."""


def item_of(picture: Recorded) -> ImageItem | None:
    """The message that described the picture; None where its source is no place to have its bytes from again.

    It has the picture's own version: if the shop changed or removed the product in the meantime, that holds.
    """
    try:
        image = _reference(picture.source)
        if image is None:
            return None
        return ImageItem(
            product_id=picture.product_id,
            name=picture.name,
            image=image,
            category=picture.category,
            attributes=picture.attributes,
            version=picture.version,
        )
    except ValidationError:
        return None


def _reference(source: str) -> ImageRef | None:
    """Where the bytes can be had again; None for those that came beside their message."""
    if source.startswith("/"):
        return PathImage(path=source)
    if source.startswith(("http://", "https://")):
        return UrlImage(url=source)
    if source.startswith(("s3://", "gs://")):
        return StoreImage(url=source)
    return None


def chunked(pictures: Iterable[tuple[bytes, ImageItem]], size: int) -> Iterator[list[ImageItem]]:
    """Items in messages of about `size`. Those of the same bytes, by their digests, go together.

    A worker makes the vector of some bytes once; the pictures that can be found by it from then on are those of
    that message.
    """
    chunk: list[ImageItem] = []
    ordered = sorted(pictures, key=lambda each: each[0])
    for _, alike in groupby(ordered, key=lambda each: each[0]):
        group = [item for _, item in alike]
        if chunk and len(chunk) + len(group) > size:
            yield chunk
            chunk = []
        while len(group) > MAX_CHUNK:
            yield group[:MAX_CHUNK]
            group = group[MAX_CHUNK:]
        chunk += group
        if len(chunk) > size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class Requeue:
    """The queue of the service, for pictures that have to be embedded again. Raises as `Resender` does."""

    def __init__(self, settings: WorkerSettings, timeout: float) -> None:
        self._settings = settings
        self._resender = Resender(settings, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._resender.__exit__(None, None, None)

    @property
    def sent(self) -> int:
        """Pictures that were sent so far."""
        return self._resender.sent

    def send(self, pictures: Sequence[tuple[bytes, ImageItem]]) -> None:
        """Write the pictures down in the ledger and publish them; each comes with the digest of its bytes."""
        for items in chunked(pictures, self._settings.chunk_size):
            self._resender.send(items)

    @property
    def attended(self) -> bool:
        """Whether an embed worker is there to take the pictures."""
        with connect(self._settings) as redis:
            return any(beat.role == EMBED for beat in beating(redis))

    def wait(self, on_share: Callable[[float], None]) -> int:
        """Wait until every picture has ended, `timeout` seconds at most; how many have not."""
        return self._resender.wait(on_share)

    @property
    def failures(self) -> tuple[ItemFailure, ...]:
        """The pictures that could not be had again, with the reason of each."""
        return self._resender.failures
