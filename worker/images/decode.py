"""Turn the bytes of a picture into the network's input and a thumbnail: pure, with Pillow and numpy only.

What a picture claims is judged from its header before any pixel is decoded. Nothing here defends against a
decoder that crashes or never ends: that is the work of `worker.images.pool`, whose children run this.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

Resize = Literal["pad", "crop", "stretch"]
Interpolation = Literal["bilinear", "bicubic", "lanczos"]
Verdict = Literal["unsupported_format", "corrupt_image", "too_large"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_BYTES = 25 * 1024 * 1024
MAX_SIDE = 20_000
MAX_PIXELS = 50_000_000
MAX_SCANS = 100
"""Of a JPEG: ordinary ones have about ten, and each is another walk over all of its pixels."""
WHITE = (255, 255, 255)
GAP = 2.0
"""Pictures are first reduced by whole factors to no less than this many times the wanted size: the
vectors keep a cosine ≥ 0.999 to those of the full-size path, and a photograph decodes twice as fast."""

_THUMBNAIL_ENOUGH = 96
"""Longest side, in pixels, of a thumbnail that is still good to look at."""
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
"""What ends a scan or begins a segment of a JPEG: among a scan's bits, FF comes before zero or a restart only."""
_SCAN, _END = b"\xda", b"\xd9"
_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_REDUCIBLE = {"L", "RGB", "RGBA", "CMYK", "YCbCr", "LA"}
_BROKEN = (
    # What Pillow's readers raise on broken files, by experience; MemoryError is not among them.
    *(OSError, ValueError, SyntaxError, NotImplementedError, EOFError, LookupError),
    *(TypeError, AttributeError, ArithmeticError, RuntimeError, struct.error, zlib.error),
)

# Texts are of no use here, and Pillow would keep 64 MB of them.
PngImagePlugin.MAX_TEXT_MEMORY = 16 << 20


class Undecodable(Exception):
    """A picture that will never decode; `verdict` is one of the reason codes of the wire contract."""

    def __init__(self, verdict: Verdict, detail: str) -> None:
        super().__init__(detail)
        self.verdict: Verdict = verdict
        self.detail = detail


@dataclass(frozen=True, slots=True)
class DecodeSpec:
    """What a decoded picture has to be like: the network's input, and a thumbnail.

    `size` is the side of the square input and `thumbnail` the longest side of the thumbnail, in pixels
    (0: none wanted). `pad` keeps the whole picture, centred on white; `crop` keeps the centre square;
    `stretch` ignores the proportions.
    """

    size: int
    resize: Resize = "pad"
    interpolation: Interpolation = "bilinear"
    thumbnail: int = 160


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture ready for the network.

    `pixels` is uint8 [size, size, 3], RGB; `thumbnail` is a JPEG, empty when none was wanted;
    `width` and `height` are those of the upright picture, in pixels.
    """

    pixels: NDArray[np.uint8]
    thumbnail: bytes
    width: int
    height: int


def decode(data: bytes | memoryview, spec: DecodeSpec) -> Decoded:
    """Decode one picture; raise Undecodable. For a process with one thread (it silences warnings)."""
    with _verdicts(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _opened(data) as image:
            width, height = image.size
            _reduce_while_decoding(image, spec)
            orientation = _orientation(image)
            picture = _opaque(_reduced(image, spec))
        if orientation in _TRANSPOSE:
            picture = picture.transpose(_TRANSPOSE[orientation])
        if orientation >= 5:
            width, height = height, width
        fitted = _fitted(picture, spec)
        small = _seen_small(picture, fitted, spec)
        thumbnail = _thumbnail(small, spec.thumbnail) if spec.thumbnail else b""
        pixels = np.asarray(_padded(fitted, spec.size).convert("RGB"))
        return Decoded(pixels, thumbnail, width, height)


@contextmanager
def _verdicts() -> Iterator[None]:
    """Turn everything that a reader raises into a verdict on the picture."""
    try:
        yield
    except MemoryError:
        raise Undecodable("too_large", "decoding needs more memory than is allowed") from None
    except Image.DecompressionBombError as error:
        raise Undecodable("too_large", str(error)) from None
    except _BROKEN as error:
        detail = f"the picture is damaged: {type(error).__name__}: {error}"
        raise Undecodable("corrupt_image", detail[:300]) from None


def _opened(data: bytes | memoryview) -> Image.Image:
    """Read the header, and refuse by what it says."""
    if len(data) > MAX_BYTES:
        raise Undecodable("too_large", f"{len(data):,} bytes; at most {MAX_BYTES:,} are allowed")
    if not data:
        raise Undecodable("corrupt_image", "the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise _unidentified(bytes(data[:16])) from None
    width, height = image.size
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise Undecodable(
            "too_large",
            f"{width} x {height} pixels; at most {MAX_SIDE:,} a side and {MAX_PIXELS:,} in all",
        )
    if min(width, height) < 1:
        raise Undecodable("corrupt_image", f"{width} x {height} pixels")
    if image.format in {"JPEG", "MPO"} and _too_many_scans(data):
        raise Undecodable("too_large", f"a JPEG of more than {MAX_SCANS} scans")
    return image


def _too_many_scans(data: bytes | memoryview) -> bool:
    """Count the scans of a JPEG up to its end; what lies behind it, such as a film, is not read."""
    place, scans = 2, 0
    while scans <= MAX_SCANS and (marker := _MARKER.search(data, place)):
        if marker[1] == _END:
            break
        scans += marker[1] == _SCAN
        place = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return scans > MAX_SCANS


def _unidentified(start: bytes) -> Undecodable:
    if start.startswith(_MAGIC) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP"):
        return Undecodable("corrupt_image", "the picture's header is damaged or cut off")
    return Undecodable(
        "unsupported_format", "not a picture of a kind that is read here: " + ", ".join(FORMATS)
    )


def _least_scale(width: int, height: int, spec: DecodeSpec) -> float:
    """How small, as a factor on lengths, the picture may become and still serve input and thumbnail."""
    reference = max(width, height) if spec.resize == "pad" else min(width, height)
    return max(GAP * spec.size / reference, spec.thumbnail / max(width, height))


def _reduce_while_decoding(image: Image.Image, spec: DecodeSpec) -> None:
    """Let the JPEG decoder skip detail that the resize would average away (DCT scaling); then decode."""
    width, height = image.size
    scale = _least_scale(width, height, spec)
    if scale < 1:
        image.draft(image.mode, (int(width * scale + 0.5), int(height * scale + 0.5)))
    image.load()


def _reduced(image: Image.Image, spec: DecodeSpec) -> Image.Image:
    """Average whole blocks of pixels, which costs a fraction of a filtered resize from full size."""
    factor = int(1 / _least_scale(*image.size, spec))
    if factor < 2 or image.mode not in _REDUCIBLE or "transparency" in image.info:
        return image
    return image.reduce(factor)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8 of a loaded picture (TIFF is already turned); broken EXIF counts as none."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except (*_BROKEN, MemoryError):
        return 1


def _opaque(image: Image.Image) -> Image.Image:
    """Grey or RGB of any mode: alpha over white, 16-bit scaled, CMYK by its profile when that works.

    Grey stays grey until it has its final size: a third of the work.
    """
    if image.mode in {"L", "RGB"} and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _from_numbers(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (*WHITE, 255)), rgba).convert(
            "RGB"
        )
    if image.mode == "LAB":
        return _by_profile(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if image.mode == "CMYK" and image.info.get("icc_profile"):
        return _cmyk(image)
    return image.convert("RGB")


def _from_numbers(image: Image.Image) -> Image.Image:
    """Grey of 16 bits by its full range; of 32 bits or floats, whose range nobody states, by their own."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((values // 257).astype(np.uint8))
    values = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    spread = (values - low) * (255.0 / (high - low) if high > low else 0.0)
    return Image.fromarray(spread.astype(np.uint8))


def _cmyk(image: Image.Image) -> Image.Image:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        return _by_profile(image, profile)
    except (*_BROKEN, ImageCms.PyCMSError):
        return image.convert("RGB")


def _by_profile(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    srgb = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
    if converted is None:
        raise ValueError("the colour profile does not apply")
    return converted


def _fitted(picture: Image.Image, spec: DecodeSpec) -> Image.Image:
    """The picture as the network's square input, small ones enlarged; for `pad` without its borders yet."""
    square = (spec.size, spec.size)
    resampling = _RESAMPLING[spec.interpolation]
    if spec.resize == "crop":
        return ImageOps.fit(picture, square, resampling)
    if spec.resize == "stretch":
        return picture.resize(square, resampling)
    scale = spec.size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), resampling)


def _padded(fitted: Image.Image, side: int) -> Image.Image:
    if fitted.size == (side, side):
        return fitted
    padded = Image.new(fitted.mode, (side, side), "white")
    padded.paste(fitted, ((side - fitted.width) // 2, (side - fitted.height) // 2))
    return padded


def _seen_small(picture: Image.Image, fitted: Image.Image, spec: DecodeSpec) -> Image.Image:
    """What to make the thumbnail of: the network's input where it is whole and large enough, since making
    a second small picture costs as much as the rest of the decode."""
    enough = _THUMBNAIL_ENOUGH <= spec.size <= spec.thumbnail and spec.size < max(picture.size)
    return fitted if spec.resize == "pad" and enough else picture


def _thumbnail(picture: Image.Image, longest: int) -> bytes:
    """JPEG of at most `longest` pixels a side; small pictures stay as they are, with their fine detail."""
    scale = min(1.0, longest / max(picture.size))
    width, height = (max(1, round(side * scale)) for side in picture.size)
    small = picture if scale == 1.0 else picture.resize((width, height), Image.Resampling.BILINEAR)
    written = io.BytesIO()
    tiny = max(width, height) <= 64
    small.save(written, "JPEG", quality=95 if tiny else 85, subsampling=0 if tiny else 2)
    return written.getvalue()
