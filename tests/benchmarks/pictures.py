"""Product pictures of a shop's size, as many as are asked for, none with the same bytes as another."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path

from PIL import Image

from worker.demo import sample

STAMPS = Path("/usr/share/tuxpaint/stamps")
"""Where Debian's tuxpaint-stamps-default puts photographs on transparent ground."""
SIDE = 500
QUALITY = 85
SMALLEST_STAMP = 20_000
"""Bytes: below are drawings."""


def jpegs(count: int, folder: Path) -> tuple[list[bytes], str]:
    """At most `count` pictures as JPEG, about 500 pixels a side, and what they are."""
    garments = sorted(sample.unpack(folder).catalogue.rglob("*.png"))
    stamps = [
        path for path in sorted(STAMPS.rglob("*.png")) if path.stat().st_size > SMALLEST_STAMP
    ]
    # By turns across the classes, and a photograph after each while there are any.
    garments = sorted(garments, key=lambda path: path.name[::-1])
    mixed = chain.from_iterable(zip_longest(garments, stamps))
    made = [jpeg(path) for path in islice(filter(None, mixed), count)]
    kinds = "Fashion-MNIST enlarged" + (" and photographs over white" if stamps else "")
    size = sum(map(len, made)) // len(made) // 1024
    return made, f"{len(made)} pictures, {kinds}, {SIDE} px JPEG of {size} KB on average"


def jpeg(path: Path) -> bytes:
    """The picture over white, its longer side 500 pixels."""
    with Image.open(path) as opened:
        picture = opened.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    enlarged = (
        Image.alpha_composite(white, picture).convert("RGB").resize(size, Image.Resampling.LANCZOS)
    )
    data = io.BytesIO()
    enlarged.save(data, "JPEG", quality=QUALITY)
    return data.getvalue()


def write(pictures: Sequence[bytes], folder: Path) -> list[Path]:
    """Write the pictures with a comment that names the folder: the same pixels, but bytes never seen before."""
    folder.mkdir(parents=True)
    paths = []
    for number, data in enumerate(pictures):
        comment = f"{folder.name} {number}".encode()
        path = folder / f"{number:05}.jpg"
        length = (len(comment) + 2).to_bytes(2, "big")
        path.write_bytes(data[:2] + b"\xff\xfe" + length + comment + data[2:])
        paths.append(path)
    return paths
