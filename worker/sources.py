"""Where the bytes of a picture that is in the catalogue can be had again."""

from __future__ import annotations

from producer.messages import BytesImage, ImageRef, PathImage, StoreImage, UrlImage


def reference(source: str) -> ImageRef | None:
    """By the source that is kept with the picture; None for bytes that came beside their message.

    Raises ValidationError for a source that no message could have named.
    """
    if source.startswith("/"):
        return PathImage(path=source)
    if source.startswith(("http://", "https://")):
        return UrlImage(url=source)
    if source.startswith(("s3://", "gs://")):
        return StoreImage(url=source)
    return None


def kept_bytes(content_sha256: bytes) -> ImageRef:
    """The bytes that came beside a message, as long as they are kept."""
    return BytesImage(key=content_sha256.hex())
