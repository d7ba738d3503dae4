"""Product pictures of a shop's size, as many as are asked for, none with the same bytes as another."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from worker.demo import sample
from worker.demo.make_sample import SOURCE
from worker.training.idx import read_array

STAMPS = Path("/usr/share/tuxpaint/stamps")
"""Where Debian's tuxpaint-stamps-default puts photographs on transparent ground."""
WIDTH, HEIGHT = 500, 600
QUALITY = 85
SMALLEST_STAMP = 20_000
"""Bytes: below are drawings."""
PHOTOGRAPHS = 4
"""One picture of so many is a photograph, as long as there are any that were not shown yet."""


def jpegs(count: int, folder: Path) -> tuple[list[bytes], str]:
    """At most `count` pictures as JPEG of 500 x 600 pixels, and what they are.

    Of Fashion-MNIST's 70,000 where Debian's dataset-fashion-mnist is installed, of the sample's 1,000 elsewhere.
    """
    stamps = [
        path for path in sorted(STAMPS.rglob("*.png")) if path.stat().st_size > SMALLEST_STAMP
    ]
    made = [jpeg(picture) for picture in islice(_mixed(_garments(folder), stamps), count)]
    kinds = "Fashion-MNIST enlarged" + (" and photographs over white" if stamps else "")
    size = sum(map(len, made)) // len(made) // 1024
    return made, f"{len(made):,} pictures, {kinds}, {WIDTH} x {HEIGHT} JPEG of {size} KB on average"


def jpeg(picture: Image.Image) -> bytes:
    """The picture over white, as large as fits, in the middle."""
    seen = picture.convert("RGBA")
    scale = min(WIDTH / seen.width, HEIGHT / seen.height)
    size = (max(1, round(seen.width * scale)), max(1, round(seen.height * scale)))
    seen = seen.resize(size, Image.Resampling.LANCZOS)
    page = Image.new("RGBA", (WIDTH, HEIGHT), "white")
    page.alpha_composite(seen, ((WIDTH - size[0]) // 2, (HEIGHT - size[1]) // 2))
    data = io.BytesIO()
    page.convert("RGB").save(data, "JPEG", quality=QUALITY)
    return data.getvalue()


def _mixed(garments: Iterator[Image.Image], stamps: Sequence[Path]) -> Iterator[Image.Image]:
    photographs = iter(stamps)
    for number, garment in enumerate(garments, start=1):
        yield garment
        if number % (PHOTOGRAPHS - 1) == 0 and (path := next(photographs, None)) is not None:
            yield Image.open(path)


def _garments(folder: Path) -> Iterator[Image.Image]:
    if SOURCE.is_dir():
        pixels = read_array(SOURCE / "train-images-idx3-ubyte.gz")
        return (Image.fromarray(255 - np.asarray(each)) for each in pixels)
    paths = sorted(sample.unpack(folder).catalogue.rglob("*.png"))
    # By turns across the classes.
    return map(Image.open, sorted(paths, key=lambda path: path.name[::-1]))


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
