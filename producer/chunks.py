"""Chunks: pictures that travel in one message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from producer.errors import InvalidRequest
from producer.messages import ImageItem
from producer.rows import Row
from producer.versions import Versions

GROUP = 16
"""Chunks that are written down in one round trip."""
CHUNK_BYTES = 8 * 1024 * 1024
"""A chunk, and a group, is closed early when the bytes to go beside it are more than this."""


class Chunk:
    """Pictures that go into one message, and the bytes that go beside it."""

    def __init__(self) -> None:
        self.items: list[ImageItem] = []
        self.pictures: dict[str, bytes] = {}
        self.bytes = 0

    def add(self, item: ImageItem, data: bytes | None) -> None:
        """Take one more picture in."""
        self.items.append(item)
        if data is not None and item.image.kind == "bytes":
            self.pictures[item.image.key] = data
            self.bytes += len(data)

    def full(self, size: int) -> bool:
        """Whether it is time to send."""
        return len(self.items) >= size or self.bytes > CHUNK_BYTES


def chunks(
    rows: Iterable[Row | Mapping[str, Any]], size: int, versions: Versions
) -> Iterator[Chunk]:
    """Rows as chunks of `size` pictures.

    InvalidRequest says which row is wrong, once those before it are given out.
    """
    chunk = Chunk()
    number = 0
    try:
        for number, value in enumerate(rows, start=1):  # noqa: B007
            item, data = Row.of(value).item(versions.next())
            chunk.add(item, data)
            if chunk.full(size):
                yield chunk
                chunk = Chunk()
    except Exception as error:
        if chunk.items:
            yield chunk
        if type(error) is InvalidRequest:
            raise _located(error, number) from None
        raise
    if chunk.items:
        yield chunk


def groups(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    """Chunks by the group; what came before an error of the rows is given out before it is raised."""
    group: list[Chunk] = []
    try:
        for chunk in chunks:
            group.append(chunk)
            if len(group) == GROUP or sum(each.bytes for each in group) > CHUNK_BYTES:
                yield group
                group = []
    except Exception:
        if group:
            yield group
        raise
    if group:
        yield group


def _located(error: InvalidRequest, number: int) -> InvalidRequest:
    before = f"; the {number - 1} rows before it were accepted" if number > 1 else ""
    return InvalidRequest(f"row {number}: {error}{before}")
