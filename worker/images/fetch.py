"""Fetch the bytes of a picture from a file, an address, an object store or Redis, within what the operator allows.

Addresses are parsed by httpx and fetched by httpcore, the connection layer of httpx, because it lets us supply the
code that dials: the address that was checked is the one that is connected to, so a name that resolves
differently the second time gains nothing.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self, cast

from pydantic import SecretStr
from redis import Redis, RedisError

from producer import keys
from producer.messages import BytesImage, ImageRef, PathImage, StoreImage
from producer.reasons import Reason
from worker.images.errors import ImageError
from worker.images.stores import Stores, store_options
from worker.images.web import HostRules, Web

MAX_BYTES = 25 * 1024 * 1024


@dataclass(frozen=True)
class FetchPolicy:
    """What may be fetched: files under `roots`, addresses of `hosts`, and objects of `buckets`.

    A host is `name` (ports 80 and 443), `name:port`, `*.domain` (public addresses only) or `*` (any public
    address). A bucket is `s3://name` or `s3://name/prefix`; `store_options` says how to get in, as JSON by scheme.
    Times are seconds, `timeout` for one picture with its redirects.
    """

    roots: tuple[Path, ...] = ()
    hosts: tuple[str, ...] = ()
    buckets: tuple[str, ...] = ()
    store_options: SecretStr | None = None
    max_bytes: int = MAX_BYTES
    timeout: float = 20.0
    connect_timeout: float = 5.0


@dataclass(frozen=True)
class Picture:
    """The bytes of a picture, and where they came from, without credentials or query string."""

    data: bytes
    source: str

    @cached_property
    def content_sha256(self) -> bytes:
        """32 bytes: what the picture's embedding is keyed by."""
        return hashlib.sha256(self.data).digest()


class Fetcher:
    """Fetches pictures; keeps connections open between them. Thread-safe."""

    def __init__(self, policy: FetchPolicy, redis: Redis) -> None:
        """`redis` must not decode responses: pictures are bytes."""
        self._policy = policy
        self._redis = redis
        self._roots = tuple(root.resolve() for root in policy.roots)
        self._web = Web(
            HostRules(policy.hosts), policy.max_bytes, policy.timeout, policy.connect_timeout
        )
        secret = policy.store_options
        self._stores = Stores(
            policy.buckets,
            store_options(secret.get_secret_value() if secret is not None else None),
            policy.max_bytes,
            policy.timeout,
            policy.connect_timeout,
        )

    def fetch(self, ref: ImageRef) -> Picture:
        """Return the picture; raise ImageError with its reason, transient where a later try may do better."""
        if isinstance(ref, PathImage):
            return self._from_path(ref.path)
        if isinstance(ref, BytesImage):
            return self._from_redis(ref.key)
        if isinstance(ref, StoreImage):
            return Picture(*self._stores.get(ref.url))
        return Picture(*self._web.get(ref.url))

    def close(self) -> None:
        """Close kept connections."""
        self._stores.close()
        self._web.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- Redis --

    def _from_redis(self, key: str) -> Picture:
        try:
            # A range, so that no more than the limit is ever held.
            data = cast(bytes, self._redis.getrange(keys.picture(key), 0, self._policy.max_bytes))
        except RedisError as error:
            detail = f"Redis did not give the picture: {type(error).__name__}"
            raise ImageError(Reason.UNAVAILABLE, detail, transient=True) from None
        if not data:
            raise ImageError(
                Reason.BYTES_EXPIRED,
                "the picture's bytes expired (LOOKALIKE_PICTURE_TTL); send it again",
            )
        self._check_size(len(data))
        if hashlib.sha256(data).hexdigest() != key:
            raise ImageError(
                Reason.CORRUPT_IMAGE, "the picture's bytes are not those that were sent"
            )
        return Picture(data, f"bytes:{key[:16]}")

    # -- files --

    def _from_path(self, path: str) -> Picture:
        root, parts = self._under_a_root(path)
        try:
            descriptor = _open_beneath(root, parts)
        except OSError as error:
            raise _path_error(error, root) from None
        except ValueError:
            raise _no_path() from None
        try:
            return Picture(self._read(descriptor), str(root.joinpath(*parts)))
        except OSError as error:
            raise _path_error(error, root) from None
        finally:
            os.close(descriptor)

    def _under_a_root(self, path: str) -> tuple[Path, tuple[str, ...]]:
        try:
            resolved = Path(path).resolve()
        except (OSError, RuntimeError, ValueError):
            raise _no_path() from None
        for root in self._roots:
            if resolved.is_relative_to(root):
                return root, resolved.relative_to(root).parts
        raise ImageError(
            Reason.PATH_DENIED,
            "the file is not under a folder that the worker may read; name its folder in LOOKALIKE_IMAGE_ROOTS",
        )

    def _read(self, descriptor: int) -> bytes:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(Reason.PATH_DENIED, "this is not a regular file")
        self._check_size(status.st_size)
        blocks: list[bytes] = []
        room = self._policy.max_bytes + 1
        while room > 0 and (block := os.read(descriptor, min(room, 1 << 20))):
            blocks.append(block)
            room -= len(block)
        data = b"".join(blocks)
        self._check_size(len(data))
        return data

    def _check_size(self, size: int) -> None:
        if size > self._policy.max_bytes:
            raise ImageError(Reason.TOO_LARGE, f"more than {self._policy.max_bytes:,} bytes")


def _open_beneath(root: Path, parts: tuple[str, ...]) -> int:
    """Open a file by walking down from its root and following no link, so that no swap on the way helps."""
    nofollow = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open(root, nofollow | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = os.open(part, nofollow | os.O_DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(parts[-1] if parts else ".", nofollow | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)


def _no_path() -> ImageError:
    return ImageError(Reason.PATH_DENIED, "this is not a path of a file")


def _path_error(error: OSError, root: Path) -> ImageError:
    if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}:
        if os.path.isdir(root):
            return ImageError(Reason.NOT_FOUND, "there is no such file")
        detail = f"the folder {root} of LOOKALIKE_IMAGE_ROOTS is not there; is it mounted?"
        return ImageError(Reason.FETCH_FAILED, detail, transient=True)
    if error.errno in {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO}:
        return ImageError(Reason.PATH_DENIED, f"the file cannot be opened: {error.strerror}")
    return ImageError(Reason.FETCH_FAILED, f"reading failed: {error.strerror}", transient=True)
