"""Why an item or a lookup could not be served: stable codes, and what each means to people."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Reason(StrEnum):
    """A code that reaches callers, dead letters and metrics, and never changes."""

    UNSUPPORTED_FORMAT = "unsupported_format"
    CORRUPT_IMAGE = "corrupt_image"
    TOO_LARGE = "too_large"
    DECODE_TIMEOUT = "decode_timeout"
    DECODER_DIED = "decoder_died"
    NOT_FOUND = "not_found"
    PATH_DENIED = "path_denied"
    BUCKET_DENIED = "bucket_denied"
    BLOCKED_ADDRESS = "blocked_address"
    FETCH_FAILED = "fetch_failed"
    FETCH_TIMEOUT = "fetch_timeout"
    BYTES_EXPIRED = "bytes_expired"
    BAD_VECTOR = "bad_vector"
    WORKER_FAILED = "worker_failed"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"
    INVALID_MESSAGE = "invalid_message"
    UNKNOWN_GENERATION = "unknown_generation"
    NOT_IN_GENERATION = "not_in_generation"

    @property
    def meaning(self) -> str:
        """What it says to people; may be worded anew."""
        return _MEANINGS[self]


_MEANINGS: Mapping[Reason, str] = {
    Reason.UNSUPPORTED_FORMAT: "not JPEG, PNG, WebP, GIF, BMP or TIFF, judged by its bytes",
    Reason.CORRUPT_IMAGE: "broken or cut off",
    Reason.TOO_LARGE: "over 25 MB, 50 megapixels, 20,000 pixels on a side, or 100 scans of a JPEG",
    Reason.DECODE_TIMEOUT: "decoding took too long",
    Reason.DECODER_DIED: "decoding ended the child process that did it",
    Reason.NOT_FOUND: "no such file, or the address says 404 or 410",
    Reason.PATH_DENIED: "not under `LOOKALIKE_IMAGE_ROOTS`, or not a regular file",
    Reason.BUCKET_DENIED: "not in a bucket of `LOOKALIKE_IMAGE_BUCKETS`",
    Reason.BLOCKED_ADDRESS: "not a host of `LOOKALIKE_IMAGE_HOSTS`, or a private address",
    Reason.FETCH_FAILED: "the server or the disk refused or failed",
    Reason.FETCH_TIMEOUT: "the server was too slow",
    Reason.BYTES_EXPIRED: "the bytes sent beside the message are gone",
    Reason.BAD_VECTOR: "the network gave no direction",
    Reason.WORKER_FAILED: "three processes died of it",
    Reason.UNAVAILABLE: "the catalogue was away; of lookups only",
    Reason.INTERNAL: "a bug: it failed unexpectedly, each time",
    Reason.INVALID_MESSAGE: "the workers do not understand the message: an older version on one side",
    Reason.UNKNOWN_GENERATION: "no index generation of this number is kept; of lookups only",
    Reason.NOT_IN_GENERATION: "the product came after that index generation; of lookups only",
}
