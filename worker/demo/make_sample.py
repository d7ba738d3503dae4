"""Make `sample.zip` again from Fashion-MNIST as Debian packages it: `python -m worker.demo.make_sample`.

The first pictures of each class are taken, none is picked by hand. Fashion-MNIST keeps Zalando's photographs
negated (arXiv:1708.07747, section 2); they are negated back, so that products stand on white as in the shop.
"""

from __future__ import annotations

import argparse
import gzip
import io
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.demo.sample import ARCHIVE, ATTRIBUTION, CATALOGUE, QUERIES

SOURCE = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package dataset-fashion-mnist puts its files."""
CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
"""In the order of the labels 0…9."""
CATALOGUE_OF_EACH, QUERIES_OF_EACH = 100, 20
EPOCH = (2017, 8, 25, 0, 0, 0)
"""Date of every entry, so that the same pictures give the same bytes: Fashion-MNIST's first release."""

Pixels = NDArray[np.uint8]


def read_idx(path: Path) -> Pixels:
    """Read a gzipped IDX file of bytes, of any number of dimensions."""
    data = gzip.decompress(path.read_bytes())
    kind, dimensions = struct.unpack_from(">HBB", data)[1:]
    if kind != 8:
        raise ValueError(f"{path}: an IDX file of bytes was expected, its type code is {kind}")
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def first_of_each(labels: Pixels, count: int) -> Iterator[tuple[str, int]]:
    """Give class name and position of the first `count` of every class."""
    for label, name in enumerate(CLASSES):
        for position in np.flatnonzero(labels == label)[:count]:
            yield name, int(position)


def as_png(pixels: Pixels) -> bytes:
    """Encode a negated picture as the PNG of its positive."""
    buffer = io.BytesIO()
    Image.fromarray(255 - pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def entries(source: Path) -> Iterator[tuple[str, bytes]]:
    """Give the name and the content of every file of the sample."""
    yield ATTRIBUTION.name, ATTRIBUTION.read_bytes()
    for folder, prefix, part, count in (
        (CATALOGUE, "fm", "train", CATALOGUE_OF_EACH),
        (QUERIES, "fm-test", "t10k", QUERIES_OF_EACH),
    ):
        pictures = read_idx(source / f"{part}-images-idx3-ubyte.gz")
        labels = read_idx(source / f"{part}-labels-idx1-ubyte.gz")
        for category, position in first_of_each(labels, count):
            yield f"{folder}/{category}/{prefix}-{position:05}.png", as_png(pictures[position])


def write(source: Path, target: Path) -> None:
    """Write the sample's archive: PNGs are stored, they do not shrink further."""
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in entries(source):
            archive.writestr(zipfile.ZipInfo(name, EPOCH), content)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make the demo's sample from Fashion-MNIST.")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the four IDX files")
    source = parser.parse_args().source
    if not source.is_dir():
        sys.stderr.write(f"error: no folder {source}: sudo apt install dataset-fashion-mnist\n")
        return 1
    write(source, ARCHIVE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
