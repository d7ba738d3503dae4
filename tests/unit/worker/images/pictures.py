"""Pictures for tests: made, not stored, so that each says what is special about it."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

FASHION = Path("/usr/share/datasets/fashion-mnist")
UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""What was done to an upright picture so that an EXIF orientation undoes it."""


def scene(width: int = 120, height: int = 180) -> Image.Image:
    """An RGB picture with no symmetry: gradients, and a red block at the top left."""
    rows = np.linspace(0, 255, height)[:, None]
    columns = np.linspace(0, 255, width)[None, :]
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[..., 0] = (rows + columns) / 2
    pixels[..., 1] = 255 - columns
    pixels[..., 2] = rows
    pixels[: height // 4, : width // 3] = (220, 20, 20)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of a picture in a format."""
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has hardly any pixels behind it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(b"\0")), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def fashion(count: int) -> NDArray[np.uint8]:
    """Real product pictures, uint8 [count, 28, 28] grey; skips the test where Debian's package is missing."""
    file = FASHION / "t10k-images-idx3-ubyte.gz"
    if not file.exists():
        pytest.skip("dataset-fashion-mnist is not installed")
    with gzip.open(file) as images:
        data = images.read(16 + count * 784)
    return np.frombuffer(data, np.uint8, offset=16).reshape(count, 28, 28)
