"""`make fuzz`: broken pictures by the thousand through the decoding children, none of which may end one of them.

`mutant(seed, number)` makes a picture again, for one that is worth a closer look.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache

from PIL import Image, ImageCms

from producer.cli.terminal import Terminal, table
from producer.reasons import Reason
from tests.hostile.pictures import PNG, gif_frames, turned
from tests.unit.worker.images.pictures import encoded, scene
from worker.images.decode import DecodeSpec
from worker.images.errors import ImageError
from worker.images.pool import DecoderPool

COUNT = 20_000
SPEC = DecodeSpec(64)
BATCH = 64
DECODED = "decoded"
NUMBERS = (
    *(0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000),
    *(0x7FFFFFFF, 0x80000000, 0xFFFFFFFF),
)
"""What lengths, offsets and counts are set to: the edges of the types that readers keep them in."""
WORDS = (
    *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"eXIf"),
    *(b"acTL", b"fcTL", b"fdAT", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"CgBI", PNG),
    *(bytes([0xFF, kind]) for kind in (*range(0xC0, 0xD0), *range(0xD8, 0xF0), 0xFE, 0x01, 0x00)),
    *(b"Exif\0\0", b"ICC_PROFILE\0\1\1", b"Adobe\0\x64\0\0\0\0\2", b"JFIF\0", b"MPF\0", b"Photoshop 3.0\0"),
    *(b"RIFF", b"WEBP", b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF"),
    *(b"GIF87a", b"GIF89a", b"\x21\xf9\x04", b"\x21\xff\x0bNETSCAPE2.0\x03\x01", b"\x2c", b"\x3b"),
    *(b"II*\0", b"MM\0*", b"BM", b"\x03\x01\x03\0", b"\x16\x01\x04\0", b"\x44\x01\x04\0"),
    *(b"%!PS", b"8BPS", b"<svg", b"\x1f\x8b\x08", b"P6\n", b"SIMPLE  =", b"\0\0\0\x0cjP  "),
)  # fmt: skip
"""What readers look for: marks of formats, and names of chunks, markers, extensions and tags."""


# -- pictures -------------------------------------------------------------------------------------


@cache
def bases() -> tuple[bytes, ...]:
    """Small valid pictures of every format in many forms, to be broken."""
    image = scene(40, 60)
    clear = image.convert("RGBA")
    clear.putalpha(128)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile[:24] + bytes(12) + profile[36:]  # else it says when it was made
    frames = [Image.new("RGBA", (20, 20), (shade, 0, 0, shade)) for shade in (0, 80, 160)]
    moving = {"save_all": True, "append_images": frames}
    return (
        encoded(image, "JPEG"),
        encoded(image, "JPEG", progressive=True, icc_profile=profile),
        encoded(image, "JPEG", quality=30, subsampling=0, restart_marker_rows=1),
        encoded(image.convert("L"), "JPEG", optimize=True),
        encoded(image.convert("CMYK"), "JPEG"),
        *(turned(kind, 6) for kind in ("JPEG", "PNG", "WEBP")),
        encoded(image, "PNG", icc_profile=profile),
        encoded(clear, "PNG"),
        encoded(image.quantize(16), "PNG", transparency=3),
        encoded(image.convert("I;16"), "PNG"),
        encoded(image.convert("1"), "PNG"),
        encoded(frames[0], "PNG", **moving),
        encoded(image, "WEBP"),
        encoded(clear, "WEBP", lossless=True),
        encoded(frames[0], "WEBP", **moving),
        encoded(image.quantize(32), "GIF"),
        encoded(frames[0], "GIF", **moving),
        gif_frames(20),
        encoded(image, "BMP"),
        encoded(image.quantize(16), "BMP"),
        encoded(image.convert("1"), "BMP"),
        *(
            encoded(image, "TIFF", compression=each)
            for each in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        ),
        encoded(image.convert("1"), "TIFF", compression="group4"),
        encoded(clear, "TIFF"),
        encoded(image.convert("F"), "TIFF"),
        encoded(image.convert("CMYK"), "TIFF", icc_profile=profile),
    )


def mutant(seed: int, number: int) -> bytes:
    """The picture of this number in the run of this seed."""
    chance = random.Random(f"{seed} {number}")
    data = bytearray(chance.choice(bases()))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5, 9))):
        if data:
            chance.choice(MUTATIONS)(data, chance)
    whole = data.startswith(PNG) and chance.random() < 0.7
    return _with_checksums(data) if whole else bytes(data)


def _place(data: bytearray, chance: random.Random) -> int:
    """Anywhere, but half of the time in the first bytes, where most is decided."""
    return chance.randrange(min(len(data), 80) if chance.random() < 0.5 else len(data))


def _flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 4, 16))):
        data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _noise(data: bytearray, chance: random.Random) -> None:
    place, length = _place(data, chance), chance.choice((1, 2, 4, 64))
    data[place : place + length] = chance.randbytes(length)


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[_place(data, chance) :]


def _drop(data: bytearray, chance: random.Random) -> None:
    place = _place(data, chance)
    del data[place : place + chance.choice((1, 2, 4, 12, 100))]


def _repeat(data: bytearray, chance: random.Random) -> None:
    place, length = _place(data, chance), chance.choice((1, 4, 12, 100, 1000))
    data[place:place] = data[place : place + length] * chance.choice((1, 2, 50))


def _splice(data: bytearray, chance: random.Random) -> None:
    other = chance.choice(bases())
    data[_place(data, chance) :] = other[chance.randrange(len(other)) :]


def _number(data: bytearray, chance: random.Random) -> None:
    place, size = _place(data, chance), chance.choice((1, 2, 2, 4, 4))
    value = chance.choice(NUMBERS) & ((1 << 8 * size) - 1)
    data[place : place + size] = value.to_bytes(size, chance.choice(("big", "little")))


def _word(data: bytearray, chance: random.Random) -> None:
    place, word = _place(data, chance), chance.choice(WORDS)
    data[place : place + (len(word) if chance.random() < 0.5 else 0)] = word


def _rename(data: bytearray, chance: random.Random) -> None:
    """Put one word where another one is."""
    places = [(place, word) for word in WORDS if (place := data.find(word)) >= 0]
    if places:
        place, word = chance.choice(places)
        data[place : place + len(word)] = chance.choice(WORDS)


Mutation = Callable[[bytearray, random.Random], None]
MUTATIONS: tuple[Mutation, ...] = (
    *(_flip, _flip, _noise, _cut, _drop, _repeat, _splice, _number, _number, _word, _rename),
)


def _with_checksums(data: bytearray) -> bytes:
    """Make a PNG's checksums right, or its readers stop at the first chunk that was touched."""
    place = len(PNG)
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(data)


# -- a run ----------------------------------------------------------------------------------------


@dataclass
class Found:
    """What became of the pictures of a run."""

    seed: int
    pictures: int = 0
    seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)
    """How many ended in each reason, or decoded."""
    signals: int = 0
    """Children that a signal ended."""
    hangs: int = 0
    """Pictures that were not done in time."""
    exceptions: int = 0
    """Children that an exception ended, and pictures that ended in no permanent reason."""
    numbers: list[int] = field(default_factory=list)
    """Of pictures that ended a child or hung."""

    @property
    def per_second(self) -> float:
        """Pictures a second."""
        return self.pictures / self.seconds if self.seconds else 0.0

    @property
    def clean(self) -> bool:
        """Whether every picture ended as pictures should."""
        return not (self.signals or self.hangs or self.exceptions or self.numbers)

    def take(self, number: int, reason: Reason | None, *, transient: bool) -> None:
        """Count one."""
        self.pictures += 1
        ended = reason.value if reason else DECODED
        self.reasons[ended] = self.reasons.get(ended, 0) + 1
        self.hangs += reason is Reason.DECODE_TIMEOUT
        self.exceptions += transient
        if transient or reason in {Reason.DECODE_TIMEOUT, Reason.DECODER_DIED}:
            self.numbers.append(number)


class _Deaths(logging.Handler):
    """Hears from the pool of children that ended, and how."""

    def __init__(self, found: Found) -> None:
        super().__init__(logging.WARNING)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        """Count it: by a signal, whose exit code is negative, or by an exception."""
        code = record.args[0] if isinstance(record.args, tuple) and record.args else None
        if isinstance(code, int) and code < 0:
            self._found.signals += 1
        else:
            self._found.exceptions += 1


@contextmanager
def _heard(found: Found) -> Iterator[None]:
    log, ear = logging.getLogger("worker.images.pool"), _Deaths(found)
    log.addHandler(ear)
    try:
        yield
    finally:
        log.removeHandler(ear)


def run(
    count: int, seed: int, progress: Callable[[int], object] = lambda _: None, first: int = 0
) -> Found:
    """Try so many pictures of a seed, from number `first` on; `progress` is called with how many are done."""
    found = Found(seed)
    began = time.monotonic()
    with DecoderPool(os.cpu_count() or 1) as pool, _heard(found):
        for start in range(first, first + count, BATCH):
            numbers = range(start, min(start + BATCH, first + count))
            results = pool.decode_many([mutant(seed, number) for number in numbers], SPEC)
            for number, result in zip(numbers, results, strict=True):
                error = result if isinstance(result, ImageError) else None
                reason = error.reason if error else None
                found.take(number, reason, transient=bool(error and error.transient))
            progress(found.pictures)
    found.seconds = time.monotonic() - began
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 1 when a picture did more than to be refused."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help=f"pictures ({COUNT:,})")
    parser.add_argument(
        "--seed", type=int, default=1, help="the same pictures for the same seed (1)"
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first picture (0)")
    parser.add_argument("--json", action="store_true", help="write one JSON value and nothing else")
    options = parser.parse_args(argv)
    terminal = Terminal(json=options.json)
    with terminal.meter(options.count, waiting=False, done="tried") as meter:
        found = run(options.count, options.seed, lambda done: meter(done, None), options.first)
    _show(terminal, found)
    return 0 if found.clean else 1


def _show(terminal: Terminal, found: Found) -> None:
    if terminal.json:
        terminal.data(asdict(found) | {"per_second": round(found.per_second, 1)})
        return
    rows = [(reason, f"{count:,}") for reason, count in sorted(found.reasons.items())]
    terminal.show(table(("ended as", "pictures"), rows, right=("pictures",)))
    terminal.line(
        f"{found.pictures:,} pictures in {found.seconds:.0f} s, {found.per_second:,.0f} a second, seed "
        f"{found.seed}: {found.signals} signals, {found.hangs} hangs, {found.exceptions} uncaught exceptions"
    )
    if found.numbers:
        terminal.line(f"numbers: {', '.join(map(str, found.numbers[:50]))}")


if __name__ == "__main__":
    sys.exit(main())
