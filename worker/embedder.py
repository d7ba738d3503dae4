"""From a reference to a picture to its vector: the parts of an embedding worker, opened and closed together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from redis import Redis

from producer import tracing
from producer.messages import ImageRef
from producer.reasons import Reason
from worker import measures
from worker.embedding import library
from worker.embedding.batcher import MicroBatcher
from worker.embedding.library import ModelSource
from worker.embedding.network import Network
from worker.errors import DeviceFailed
from worker.images.decode import Decoded, DecodeSpec
from worker.images.errors import ImageError
from worker.images.fetch import Fetcher, FetchPolicy, Picture
from worker.images.pool import DecoderPool
from worker.preparing import NO_VECTOR
from worker.settings import WorkerSettings

MAX_DECODERS = 8


class Studio:
    """Gets pictures and decodes them, for all networks of a process. Its methods may be called from any thread."""

    def __init__(self, settings: WorkerSettings, redis: Redis) -> None:
        with ExitStack() as opening:
            policy = FetchPolicy(
                roots=settings.roots,
                hosts=settings.image_hosts,
                buckets=settings.image_buckets,
                store_options=settings.store_options,
                timeout=settings.fetch_timeout,
            )
            self._fetcher = opening.enter_context(Fetcher(policy, redis))
            self.decoders = opening.enter_context(
                DecoderPool(
                    settings.decoders or min(os.cpu_count() or 1, MAX_DECODERS),
                    timeout=settings.decode_timeout,
                )
            )
            self._open = opening.pop_all()

    def fetch(self, image: ImageRef) -> Picture:
        """Get a picture's bytes; raises ImageError."""
        with measures.stage("fetch"):
            return self._fetcher.fetch(image)

    def decode(self, data: bytes, spec: DecodeSpec) -> Decoded:
        """Decode one picture; raises ImageError."""
        with measures.stage("decode"):
            return self.decoders.decode(data, spec)

    def decode_many(
        self, pictures: Sequence[bytes], spec: DecodeSpec
    ) -> list[Decoded | ImageError]:
        """Decode several at once, in order; a bad picture is an ImageError in its place."""
        if not pictures:
            return []
        with measures.stage("decode"):
            return self.decoders.decode_many(pictures, spec)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()


class Embedder:
    """One network on one device, with the decoders that feed it. Its methods may be called from any thread.

    Opening raises ModelError when the model cannot be loaded.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        redis: Redis,
        source: ModelSource | None = None,
        studio: Studio | None = None,
    ) -> None:
        """Of LOOKALIKE_MODEL, unless `source` is another one; with a studio of its own, unless it shares one."""
        source = source or library.resolve(settings.model)
        self.config = source.config
        self._spec = source.config.decode_spec()
        self._bare_spec = source.config.decode_spec(thumbnail=0)
        with ExitStack() as opening:
            self._studio = studio or opening.enter_context(Studio(settings, redis))
            self.network = Network.load(
                source, device=settings.device, threads=settings.model_threads or None
            )
            opening.callback(self.network.close)
            self._batcher = opening.enter_context(
                MicroBatcher(self.network.embed, max_batch=settings.max_batch)
            )
            self._open = opening.pop_all()
        self.fetch = self._studio.fetch

    def decode_many(self, pictures: Sequence[bytes]) -> list[Decoded | ImageError]:
        """Decode for this network, in order; a bad picture is an ImageError in its place."""
        return self._studio.decode_many(pictures, self._spec)

    def decode_bare(self, pictures: Sequence[bytes]) -> list[Decoded | ImageError]:
        """As `decode_many`, without thumbnails."""
        return self._studio.decode_many(pictures, self._bare_spec)

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed uint8 [n, size, size, 3], in batches shared with whoever else is waiting.

        Gives unit rows float32 [n, d]; a row without a direction is NaN. Raises DeviceFailed.
        """
        try:
            return self._batcher.embed(pixels)
        except Exception as error:  # a picture that fails alone is a NaN row
            raise DeviceFailed(f"the network failed on {self.network.device}: {error}") from error

    @property
    def busy_for(self) -> float:
        """Seconds that the network has been at its batch; 0 when it waits for one."""
        return self._batcher.busy_for

    def embed_picture(self, image: ImageRef) -> NDArray[np.float32]:
        """Fetch, decode and embed one picture: float32 [d], unit length; raises ImageError."""
        with tracing.span("fetch"):
            picture = self.fetch(image)
        with tracing.span("decode"):
            decoded = self._studio.decode(picture.data, self._bare_spec)
        with tracing.span("model"):
            vector: NDArray[np.float32] = self.embed(decoded.pixels[np.newaxis])[0]
        if not np.isfinite(vector).all():
            raise ImageError(Reason.BAD_VECTOR, NO_VECTOR)
        return vector

    def close(self) -> None:
        """Finish what is queued, then end the children."""
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
