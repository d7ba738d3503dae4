"""Pictures as a shop has them: a path, an address, bytes or an open file."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from producer import checks, keys
from producer.errors import InvalidRequest
from producer.messages import BytesImage, ImageRef, PathImage, StoreImage, UrlImage
from producer.redaction import without_secrets

if TYPE_CHECKING:
    from redis import Redis

MAX_BYTES = 25 * 1024 * 1024
"""The largest picture that is sent; the worker takes no larger one from anywhere."""
_PLAIN_HOST = re.compile(r"^//[A-Za-z0-9.-]+(:\d+)?/")
_STORES = ("s3", "gs")
_BUCKET_AND_KEY = re.compile(r"^//[^/?#\\]+/[^/?#]")
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")

PictureSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""Path, http(s) address, address in an object store, bytes, or a file opened for reading bytes."""


def to_ref(source: PictureSource) -> tuple[ImageRef, bytes | None]:
    """How a message names a picture, and the bytes that must travel beside it, if any.

    A path is made absolute and is read by the worker; use `read_bytes` for a worker on another machine.
    Raises InvalidRequest for what cannot be a picture.
    """
    if isinstance(source, str):
        return _from_text(source), None
    if isinstance(source, os.PathLike):
        return _from_path(os.fspath(source)), None
    data = _read(source)
    return BytesImage(key=hashlib.sha256(data).hexdigest()), data


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a picture on this machine. Raises InvalidRequest that names the file."""
    try:
        with Path(path).open("rb") as file:
            return _read(file)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InvalidRequest(f"cannot read picture {os.fspath(path)!r}: {reason}") from None


def is_address(source: str) -> bool:
    """Whether a string is an address rather than a path."""
    return _SCHEME.match(source) is not None or source.startswith("data:")


def _from_text(source: str) -> ImageRef:
    if not is_address(source):
        return _from_path(source)
    scheme, _, rest = source.partition(":")
    if scheme.lower() in _STORES:
        return _in_a_store(scheme.lower(), rest)
    if scheme.lower() not in ("http", "https"):
        raise InvalidRequest(
            f"{scheme}: addresses are not fetched: give an http(s) address, one in an object store "
            f"({', '.join(_STORES)}), a path, or the bytes"
        )
    if not _PLAIN_HOST.match(rest) and not _host(source):
        raise InvalidRequest(
            f"{without_secrets(source)[:200]!r} is not a complete address: its host is missing or wrong"
        )
    return checks.build(UrlImage, url=f"{scheme.lower()}:{rest}")


def _in_a_store(scheme: str, rest: str) -> ImageRef:
    if not _BUCKET_AND_KEY.match(rest):
        raise InvalidRequest(
            f"{without_secrets(f'{scheme}:{rest}')[:200]!r} is not a complete address: it must be {scheme}://BUCKET/KEY"
        )
    return checks.build(StoreImage, url=f"{scheme}:{rest}")


def _host(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _from_path(path: str | bytes) -> ImageRef:
    if not path or isinstance(path, bytes) or "\x00" in path:
        raise InvalidRequest("a picture's path must be text, not empty and without NUL characters")
    return checks.build(PathImage, path=str(Path(path).absolute()))


def _read(source: bytes | bytearray | memoryview | BinaryIO) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        data: object = bytes(source)
    elif hasattr(source, "read"):
        data = source.read(MAX_BYTES + 1)
    else:
        raise InvalidRequest(
            f"a picture must be a path, an address, bytes or a file, not {type(source).__name__}"
        )
    if not isinstance(data, bytes):
        raise InvalidRequest("a picture's file must be opened for bytes: open(path, 'rb')")
    if not data:
        raise InvalidRequest("the picture is empty: 0 bytes (was the file read to its end before?)")
    if len(data) > MAX_BYTES:
        raise InvalidRequest(
            f"the picture is larger than {MAX_BYTES // 1024**2} MB: scale it down first"
        )
    return data


# PEXPIRE … GT, which Redis 6.2 does not know; says whether the bytes are there.
_PROLONG = """
local left = redis.call('PTTL', KEYS[1])
if left >= 0 and left < tonumber(ARGV[1]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return left ~= -2
"""


class PictureStore:
    """Bytes that travel beside their messages, by their SHA-256."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def put(self, pictures: Mapping[str, bytes], ttl: float) -> None:
        """Keep pictures for at least `ttl` seconds from now.

        Those that are there already are not sent again, and their life is never shortened: the same bytes
        may be a question of a minute and a product that waits its turn for a day.
        """
        if not pictures:
            return
        kept = max(1, round(ttl * 1000))
        with self._redis.pipeline(transaction=False) as pipe:
            for key in pictures:
                pipe.eval(_PROLONG, 1, keys.picture(key), kept)
            there = pipe.execute()
            for (key, data), known in zip(pictures.items(), there, strict=True):
                if not known:
                    # Somebody else may send them at this moment, to be kept for longer or for shorter.
                    pipe.set(keys.picture(key), data, px=kept, nx=True)
                    pipe.eval(_PROLONG, 1, keys.picture(key), kept)
            pipe.execute()
