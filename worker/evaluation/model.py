"""A model that is judged: what it says of labelled pictures, which it sees as it would in service."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from producer.reasons import Reason
from worker.embedding import library
from worker.images.decode import MAX_BYTES, Decoded, DecodeSpec
from worker.images.errors import ImageError
from worker.images.pool import DecoderPool
from worker.settings import WorkerSettings
from worker.training.labelled import Labelled

AT_ONCE = 256
"""Pictures that are decoded while the network embeds as many before them."""
THUMBNAIL = 160
MAX_DECODERS = 8
NO_DIRECTION = "the network gives no usable vector for it"

Vectors = NDArray[np.float32]
Scores = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Embedded:
    """What a model says of pictures, in their order.

    `vectors` float32 [n, d] of unit length. `scores` float32 [n, c] of the categories that the network was
    fine-tuned on; None if it was on none, or was not asked. Rows are NaN of pictures without a vector, for which
    `refused` says why.
    """

    vectors: Vectors
    scores: Scores | None
    refused: dict[int, str]


class Model:
    """A network, and the decoders that feed it; to be closed. Opening raises ModelError."""

    def __init__(self, spec: str, settings: WorkerSettings) -> None:
        source = library.resolve(spec)
        from worker.embedding.network import Network

        self.spec = spec
        self.config = source.config
        self._batch = settings.max_batch
        with ExitStack() as opening:
            decoders = settings.decoders or min(os.cpu_count() or 1, MAX_DECODERS)
            pool = DecoderPool(decoders, timeout=settings.decode_timeout)
            self._decoders = opening.enter_context(pool)
            self._ahead = opening.enter_context(ThreadPoolExecutor(1, "decoding"))
            threads = settings.model_threads or None
            self._network = Network.load(source, device=settings.device, threads=threads)
            opening.callback(self._network.close)
            self._open = opening.pop_all()

    def embed(
        self,
        pictures: Sequence[Labelled],
        *,
        classify: bool = False,
        progress: Callable[[float], None] = lambda _share: None,
    ) -> Embedded:
        """Embed pictures, and with `classify` let a network that has categories of its own say them, too."""
        classes = len(self.config.categories or ()) if classify else 0
        vectors = np.full((len(pictures), self.config.dimension), np.nan, np.float32)
        scores = np.full((len(pictures), classes), np.nan, np.float32)
        refused: dict[int, str] = {}
        for start, results in self._decoded(pictures):
            good = {}
            for place, result in enumerate(results, start):
                if isinstance(result, Decoded):
                    good[place] = result.pixels
                else:
                    refused[place] = result.detail
            for places, pixels in self._batches(good):
                vectors[places] = self._network.embed(pixels)
                if classes:
                    scores[places] = self._network.classify(pixels)
            progress((start + len(results)) / len(pictures))
        blind = set(np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()) - refused.keys()
        refused |= dict.fromkeys(blind, NO_DIRECTION)
        return Embedded(vectors, scores if classes else None, refused)

    def _batches(
        self, good: Mapping[int, NDArray[np.uint8]]
    ) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
        places = list(good)
        for start in range(0, len(places), self._batch):
            some = places[start : start + self._batch]
            yield some, np.stack([good[place] for place in some])

    def thumbnail(self, picture: Labelled) -> bytes | None:
        """A small JPEG to show; None of one that cannot be decoded."""
        spec = self.config.decode_spec(thumbnail=THUMBNAIL)
        (result,) = _decode([picture], self._decoders, spec)
        return result.thumbnail if isinstance(result, Decoded) else None

    def close(self) -> None:
        """End the threads and the decoding children."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _decoded(
        self, pictures: Sequence[Labelled]
    ) -> Iterator[tuple[int, list[Decoded | ImageError]]]:
        """Place of the first, and the results, of some pictures at a time; the next are decoded meanwhile."""
        spec = self.config.decode_spec(thumbnail=0)
        starts = range(0, len(pictures), AT_ONCE)
        waiting = [
            self._ahead.submit(_decode, pictures[start : start + AT_ONCE], self._decoders, spec)
            for start in starts[:1]
        ]
        for start in starts:
            results = waiting.pop().result()
            after = start + AT_ONCE
            if after < len(pictures):
                coming = pictures[after : after + AT_ONCE]
                waiting.append(self._ahead.submit(_decode, coming, self._decoders, spec))
            yield start, results


def _decode(
    pictures: Sequence[Labelled], decoders: DecoderPool, spec: DecodeSpec
) -> list[Decoded | ImageError]:
    """In order; a bad picture is an ImageError in its place."""
    data = [_data(each) for each in pictures]
    results = iter(decoders.decode_many([each for each in data if isinstance(each, bytes)], spec))
    return [next(results) if isinstance(each, bytes) else each for each in data]


def _data(picture: Labelled) -> bytes | ImageError:
    """The bytes of a file; of grey pixels, and of what is inside a box, a PNG."""
    if not isinstance(picture.picture, Path):
        return _png(Image.fromarray(picture.picture))
    try:
        if picture.box is None:
            with picture.picture.open("rb") as file:
                return file.read(MAX_BYTES + 1)
        box = picture.box
        with Image.open(picture.picture) as image:
            return _png(image.crop((box.left, box.top, box.right, box.bottom)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return ImageError(Reason.CORRUPT_IMAGE, str(error))


def _png(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, "PNG", compress_level=1)
    return written.getvalue()
