"""Hostile pictures, made in memory: each with the reason that it has to end in, or none where it decodes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from PIL import Image, ImageCms

from producer.reasons import Reason
from tests.unit.worker.images.pictures import UNDO, encoded, png_header, scene

PNG = b"\x89PNG\r\n\x1a\n"
PERCENTS = range(5, 100, 5)
SCANS = 400


@dataclass(frozen=True)
class Picture:
    """A picture, and what has to become of it."""

    name: str
    make: Callable[[], bytes]
    """Makes its bytes: some bombs are worth having for a moment only."""
    reason: Reason | None
    """None: it decodes."""
    by_header: bool = False
    """Judged before a pixel is decoded: it must cost next to no memory, and no child."""

    @property
    def data(self) -> bytes:
        """Its bytes, made anew."""
        return self.make()


def table() -> list[Picture]:
    """Every case but those that decode for the sake of their vectors (`turned`)."""
    return [*strangers(), *cut(), *claims(), *bombs(), *long_ones(), *broken(), *modes()]


def header_judged(name: str, make: Callable[[], bytes], reason: Reason) -> Picture:
    """A case that is refused by what its first bytes say."""
    return Picture(name, make, reason, by_header=True)


# -- not pictures ---------------------------------------------------------------------------------

STRANGERS = {
    "one byte": b"\xff",
    "html named .jpg": b"<!doctype html><html><body>404 not found</body></html>",
    "svg named .jpg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "svg bomb": b'<!DOCTYPE svg [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><svg>&b;</svg>',
    "eps renamed": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n",
    "eps with a DOS header": b"\xc5\xd0\xd3\xc6" + struct.pack("<7I", 30, 99, 0, 0, 0, 0, 0) + b"%!PS",
    "psd renamed": b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 99, 99, 8, 3) + bytes(12),
    "pdf renamed": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n",
    "zip": b"PK\x03\x04" + bytes(60),
    "gzip": b"\x1f\x8b\x08" + bytes(60),
    "elf": b"\x7fELF" + bytes(60),
    "ico": b"\x00\x00\x01\x00\x01\x00" + bytes(60),
    "ppm": b"P6 1 1 255 abc",
    "jpeg 2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(60),
    "avif": b"\x00\x00\x00\x1cftypavif" + bytes(60),
    "fli": struct.pack("<IHHHHHH", 128, 0xAF12, 9, 9, 9, 8, 3) + bytes(110),
    "xpm": b"/* XPM */\nstatic char *x[] = {\n",
    "text": "\u202enotes\n".encode(),
    "zeros": bytes(100_000),
}  # fmt: skip


def strangers() -> Iterator[Picture]:
    """Files that are no picture of a kind that is read, whatever they are called."""
    yield header_judged("empty", lambda: b"", Reason.CORRUPT_IMAGE)
    for name, data in STRANGERS.items():
        yield header_judged(name, partial(bytes, data), Reason.UNSUPPORTED_FORMAT)
    yield header_judged("a riff that is no webp", _wave, Reason.UNSUPPORTED_FORMAT)


def _wave() -> bytes:
    return b"RIFF" + struct.pack("<I", 100) + b"WAVEfmt " + bytes(90)


# -- cut off --------------------------------------------------------------------------------------


def cut() -> Iterator[Picture]:
    """JPEG, PNG and WebP cut at every 5 percent, and JPEG with its scans one after the other too."""
    noisy = np.random.default_rng(7).integers(0, 256, (90, 90, 3), np.uint8)
    whole = {kind: encoded(Image.fromarray(noisy), kind) for kind in ("JPEG", "PNG", "WEBP")} | {
        "progressive JPEG": encoded(Image.fromarray(noisy), "JPEG", progressive=True)
    }
    for kind, data in whole.items():
        for percent in PERCENTS:
            part = data[: len(data) * percent // 100]
            yield Picture(f"{kind} cut at {percent}%", partial(bytes, part), Reason.CORRUPT_IMAGE)


# -- sizes that are only claimed, or cost nothing to write -----------------------------------------


def claims() -> Iterator[Picture]:
    """Small files of huge pictures: the header says so, and that is enough."""
    for width, height in ((9459, 9459), (20_000, 20_000), (60_000, 1000), (1000, 60_000)):
        yield header_judged(
            f"png of {width} x {height}", partial(plain_png, width, height), Reason.TOO_LARGE
        )
    for width, height in ((20_001, 1), (7100, 7100), (2**31 - 1, 2**31 - 1)):
        yield header_judged(
            f"png that claims {width} x {height}",
            partial(png_header, width, height),
            Reason.TOO_LARGE,
        )
    yield header_judged("png of 0 x 9", partial(png_header, 0, 9), Reason.CORRUPT_IMAGE)
    yield header_judged("jpeg that claims 65,500 x 65,500", _wide_jpeg, Reason.TOO_LARGE)
    yield header_judged("gif that claims 65,535 x 65,535", _wide_gif, Reason.TOO_LARGE)
    yield header_judged("bmp that claims 2,000,000,000 x 9", _wide_bmp, Reason.TOO_LARGE)
    yield header_judged("tiff that claims 3,000,000 x 3,000,000", _wide_tiff, Reason.TOO_LARGE)
    for side in (11_000, 16_384):
        yield header_judged(
            f"webp that claims {side:,} x {side:,}", partial(_wide_webp, side), Reason.TOO_LARGE
        )
    yield header_judged("26 MB behind a jpeg's first bytes", _fat_jpeg, Reason.TOO_LARGE)


@cache
def plain_png(width: int, height: int, *more: bytes) -> bytes:
    """A whole and valid PNG of one colour: RGB, or grey of one bit where RGB would take long to write."""
    grey = width * height > 100_000_000
    row = b"\0" + bytes(-(-width // 8) if grey else width * 3)
    packer = zlib.compressobj(6)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    depth, colour = (1, 0) if grey else (8, 2)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return png(chunk(b"IHDR", header), *more, chunk(b"IDAT", body))


def png(*chunks: bytes) -> bytes:
    """A PNG of these chunks and an end."""
    return PNG + b"".join(chunks) + chunk(b"IEND", b"")


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG with its checksum."""
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def _wide_jpeg() -> bytes:
    data = encoded(scene(), "JPEG")
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", 65_500, 65_500) + data[place + 4 :]


def _wide_gif() -> bytes:
    data = encoded(scene().quantize(4), "GIF")
    return data[:6] + b"\xff\xff\xff\xff" + data[10:]


def _wide_bmp() -> bytes:
    data = encoded(scene(9, 9), "BMP")
    return data[:18] + struct.pack("<i", 2_000_000_000) + data[22:]


def tiff(*tags: tuple[int, int, int, int]) -> bytes:
    """A TIFF of one directory: tag, type, count and value of each, the tags in order."""
    entries = b"".join(struct.pack("<HHII", *each) for each in tags)
    return b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", len(tags)) + entries + bytes(4)


def _grey_tiff(width: int, height: int) -> list[tuple[int, int, int, int]]:
    return [
        *((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)),
        *((273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 100)),
    ]


def _wide_tiff() -> bytes:
    return tiff(*_grey_tiff(3_000_000, 3_000_000)) + bytes(200)


def _wide_webp(side: int) -> bytes:
    canvas = struct.pack("<I", side - 1)[:3] * 2
    frame = encoded(Image.new("RGB", (16, 16)), "WEBP", lossless=True)[12:]
    placed = bytes(6) + struct.pack("<I", 15)[:3] * 2 + bytes(4) + frame
    chunks = (
        _riff(b"VP8X", b"\x02\0\0\0" + canvas) + _riff(b"ANIM", bytes(6)) + _riff(b"ANMF", placed)
    )
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def _riff(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def _fat_jpeg() -> bytes:
    return b"\xff\xd8\xff" + bytes(26 * 1024 * 1024)


# -- bombs ----------------------------------------------------------------------------------------


def bombs() -> Iterator[Picture]:
    """What unpacks to far more than it is, beside the pixels or as them."""
    for place in ("before", "after"):
        for kind in (b"zTXt", b"iTXt"):
            name = f"{kind.decode()} {place} the pixels"
            one = partial(_text_png, kind, 1, 300 << 20, place == "before")
            many = partial(_text_png, kind, 400, 1_000_000, place == "before")
            yield header_judged(f"{name}: 300 MB", one, Reason.CORRUPT_IMAGE)
            yield header_judged(f"{name}: 400 times 1 MB", many, Reason.CORRUPT_IMAGE)
    yield header_judged("profile of 300 MB", _profile_png, Reason.CORRUPT_IMAGE)
    for side in (200, 7000):
        yield header_judged(
            f"jpeg of {SCANS} scans, {side} x {side}",
            partial(scans_jpeg, side, SCANS),
            Reason.TOO_LARGE,
        )
    yield Picture("jpeg of 60 scans", partial(scans_jpeg, 1000, 50), None)
    yield Picture("jpeg with scans behind its end", _tail_jpeg, None)
    yield Picture(
        "png of 7000 x 7000: the most that is allowed", partial(plain_png, 7000, 7000), None
    )
    yield Picture("png of 7000 x 7000 with a transparent colour", _clear_png, None)
    yield Picture("float tiff of 7000 x 7000", _float_tiff, None)
    yield Picture("tiff of 200,000 tiles", partial(_tiled_tiff, 200_000), None)
    yield Picture("png whose pixels go on for 300 MB", _endless_png, None)
    yield Picture("tiff whose tag claims 4 billion values", _tag_tiff, Reason.CORRUPT_IMAGE)
    yield Picture("exif that claims 4 billion values", _exif_bomb, None)


def _text_png(kind: bytes, count: int, size: int, before: bool) -> bytes:
    packed = _zeros(size)
    fields = b"\0\0" if kind == b"zTXt" else b"\0\1\0\0\0"
    texts = [chunk(kind, b"k%d" % number + fields + packed) for number in range(count)]
    header, body, *_ = _plain_chunks()
    return png(header, *texts, body) if before else png(header, body, *texts)


@cache
def _zeros(size: int) -> bytes:
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    packed = [packer.compress(block[: min(size - at, 1 << 20)]) for at in range(0, size, 1 << 20)]
    return b"".join(packed) + packer.flush()


def _plain_chunks(side: int = 64) -> tuple[bytes, bytes]:
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(side * (side + 1))))


def _profile_png() -> bytes:
    header, body = _plain_chunks()
    return png(header, chunk(b"iCCP", b"p\0\0" + _zeros(300 << 20)), body)


def _endless_png() -> bytes:
    header, _ = _plain_chunks()
    return png(header, chunk(b"IDAT", _zeros(300 << 20)))


@cache
def scans_jpeg(side: int, scans: int) -> bytes:
    """A JPEG with its last, and nearly empty, scan so many times more: each walks over all pixels again."""
    data = encoded(Image.new("RGB", (side, side), (200, 30, 60)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + data[-2:]


def _clear_png() -> bytes:
    """Composed over white at its full size: the most that a picture may need of a child's memory."""
    return plain_png(7000, 7000, chunk(b"tRNS", bytes(6)))


def _float_tiff() -> bytes:
    side = 7000
    body = zlib.compress(bytes(4 * side * side))
    head = tiff(
        *((256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 32), (259, 3, 1, 8), (262, 3, 1, 1)),
        *((273, 4, 1, 200), (277, 3, 1, 1), (278, 4, 1, side), (279, 4, 1, len(body))),
        (339, 3, 1, 3),
    )
    return head.ljust(200, b"\0") + body


def _tiled_tiff(count: int) -> bytes:
    """Of tiles of 4 x 4 pixels, all at the same place in the file."""
    columns, tags = 5000, 9
    rows = count // columns
    place = 8 + 2 + 12 * tags + 4
    head = tiff(
        *((256, 4, 1, 4 * columns), (257, 4, 1, 4 * rows), (258, 3, 1, 8), (259, 3, 1, 1)),
        *((262, 3, 1, 1), (277, 3, 1, 1), (322, 4, 1, 4), (323, 4, 1, 4)),
        (324, 4, columns * rows, place),
    )
    return head + struct.pack("<I", place) * (columns * rows)


def _tail_jpeg() -> bytes:
    """As phones append a film to a photograph, in which anything may stand."""
    return encoded(scene(), "JPEG") + b"\xff\xda\x00\x02" * 1000


def _tag_tiff() -> bytes:
    tags = _grey_tiff(64, 64)
    tags[5] = (273, 4, 0xFFFFFFFF, 8)  # where its strips are
    return tiff(*tags) + bytes(64 * 64)


def _exif_bomb() -> bytes:
    entry = struct.pack(">HHII", 0x0112, 4, 0xFFFFFFFF, 8)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + entry + bytes(4)
    return encoded(scene(), "JPEG", exif=exif)


# -- long ones ------------------------------------------------------------------------------------


def long_ones() -> Iterator[Picture]:
    """Animations, of which the first frame counts, and directories that never end."""
    yield Picture("gif of 10,000 frames", gif_frames, None)
    yield Picture("apng of 10,000 frames", _apng_frames, None)
    yield Picture("webp of 500 frames", _webp_frames, None)
    yield Picture("tiff whose directory comes after itself", _looping_tiff, None)
    yield Picture("png of 100,000 empty chunks", _chunks_png, None)


def gif_frames(count: int = 10_000) -> bytes:
    """A GIF of so many frames of four pixels."""
    palette = b"\xff\xff\xff\x00\x00\x00"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 2, 2, 0) + b"\x02\x03\x44\x02\x05\x00"
    return b"GIF89a" + struct.pack("<HHBBB", 2, 2, 0x80, 0, 0) + palette + frame * count + b";"


def _apng_frames(count: int = 10_000) -> bytes:
    header, body = _plain_chunks(2)
    pixels = zlib.compress(bytes(6))
    frames = [chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 2, 2, 0, 0, 1, 10, 0, 0)), body]
    for number in range(1, count):
        control = struct.pack(">IIIIIHHBB", 2 * number - 1, 2, 2, 0, 0, 1, 10, 0, 0)
        frames += [chunk(b"fcTL", control), chunk(b"fdAT", struct.pack(">I", 2 * number) + pixels)]
    return png(header, chunk(b"acTL", struct.pack(">II", count, 0)), *frames)


def _webp_frames() -> bytes:
    frames = [Image.new("RGB", (8, 8), (number % 256, number // 2, 0)) for number in range(500)]
    return encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])


def _looping_tiff() -> bytes:
    data = bytearray(tiff(*_grey_tiff(10, 10)) + bytes(100))
    end = 10 + 12 * 9
    data[end : end + 4] = struct.pack("<I", 8)
    return bytes(data)


def _chunks_png() -> bytes:
    header, body = _plain_chunks()
    return png(header, chunk(b"prIv", b"") * 100_000, body)


# -- broken inside --------------------------------------------------------------------------------


def broken() -> Iterator[Picture]:
    """Pictures whose header is fine, and whose inside is not."""
    yield Picture("png of noise for pixels", _noise_png, Reason.CORRUPT_IMAGE)
    yield Picture("png without pixels", lambda: png(_plain_chunks()[0]), Reason.CORRUPT_IMAGE)
    yield Picture("png with a wrong checksum", _checksum_png, Reason.CORRUPT_IMAGE)
    yield Picture("png whose chunk is 2 GB long", _long_chunk_png, Reason.CORRUPT_IMAGE)
    yield Picture("bmp with fewer rows than it says", _short_bmp, Reason.CORRUPT_IMAGE)
    yield Picture("tiff whose strip lies beyond its end", _beyond_tiff, Reason.CORRUPT_IMAGE)
    yield Picture("jpeg without tables", _bare_jpeg, Reason.CORRUPT_IMAGE)


def _noise_png() -> bytes:
    return png(_plain_chunks()[0], chunk(b"IDAT", bytes(range(256))))


def _checksum_png() -> bytes:
    data = bytearray(png(*_plain_chunks()))
    data[30] ^= 1  # of the header's checksum
    return bytes(data)


def _long_chunk_png() -> bytes:
    return PNG + _plain_chunks()[0] + struct.pack(">I", 2**31 - 1) + b"IDAT" + bytes(100)


def _short_bmp() -> bytes:
    return encoded(scene(), "BMP")[:-9000]


def _beyond_tiff() -> bytes:
    tags = _grey_tiff(64, 64)
    tags[5] = (273, 4, 1, 0xFFFFFF00)
    return tiff(*tags) + bytes(64 * 64)


def _bare_jpeg() -> bytes:
    data = encoded(scene(), "JPEG")
    tables = data.index(b"\xff\xdb")
    return data[:tables] + data[data.index(b"\xff\xc0") :]


# -- every mode -----------------------------------------------------------------------------------

MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("1", "L", "RGB", "RGBX", "CMYK", "YCbCr"),
    "WEBP": ("RGB", "RGBA", "RGBX"),
    "GIF": ("1", "L", "P", "RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": (
        *("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB"),
        *("I", "F", "I;16", "I;16B"),
    ),
}
"""Every mode that a file of a format can have, as Pillow writes it; RGBa and La it makes only while it works."""


def modes() -> Iterator[Picture]:
    """A picture of every mode in every format that has it: they all decode."""
    for kind, names in MODES.items():
        for mode in names:
            yield Picture(f"{kind} of mode {mode}", partial(_in_mode, kind, mode), None)


def _in_mode(kind: str, mode: str) -> bytes:
    return encoded(_converted(scene(), mode), kind)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        made = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
        assert made is not None
        return made
    if mode.startswith("I;16"):
        values = np.asarray(image.convert("L")).astype("<u2" if mode == "I;16" else ">u2")
        return Image.frombytes(mode, image.size, (values * 257).tobytes())
    if mode == "PA":
        return image.convert("P").convert("PA")
    return image.convert(mode)


# -- turned ---------------------------------------------------------------------------------------


def turned(kind: str, orientation: int) -> bytes:
    """The same scene in a format, lying as the EXIF orientation says."""
    image = scene()
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = image.transpose(UNDO[orientation]) if orientation in UNDO else image
    quality = {"quality": 95} if kind == "JPEG" else {}
    return encoded(lying, kind, exif=exif.tobytes(), **quality)
