"""Embeddings and thumbnails of bytes that no picture has, live or removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db.queries import audit


class Used:
    """The bytes that pictures have, by 64 bits of their digests: 8 bytes a picture, for any number of them.

    Two digests may share those bits, one time in 10^12 or so; the one that is not used is kept for nothing then.
    """

    def __init__(self, blocks: Iterable[Sequence[bytes]]) -> None:
        parts = [_bits(block) for block in blocks]
        self._bits = np.unique(np.concatenate([np.empty(0, np.uint64), *parts]))

    def without(self, digests: Sequence[bytes]) -> list[bytes]:
        """Those of the digests that no picture has."""
        wanted = _bits(digests)
        places = np.minimum(np.searchsorted(self._bits, wanted), max(len(self._bits) - 1, 0))
        used = self._bits[places] == wanted if len(self._bits) else np.zeros(len(wanted), np.bool_)
        return [digest for digest, known in zip(digests, used.tolist(), strict=True) if not known]


def read_used(session: Session) -> Used:
    """The bytes of all pictures, live and removed."""
    return Used(audit.stream_digests(session))


def embeddings(session: Session, used: Used) -> Iterator[list[bytes]]:
    """Digests of embeddings that no picture refers to, block by block."""
    return _without(audit.stream_embeddings(session), used)


def thumbnails(session: Session, used: Used) -> Iterator[list[bytes]]:
    """Digests of thumbnails that no picture refers to, block by block."""
    return _without(audit.stream_thumbnails(session), used)


def _without(blocks: Iterable[Sequence[bytes]], used: Used) -> Iterator[list[bytes]]:
    for block in blocks:
        if unused := used.without(block):
            yield unused


def _bits(digests: Sequence[bytes]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(digest[:8].ljust(8, b"\0") for digest in digests), dtype="<u8")
