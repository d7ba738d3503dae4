"""Make `sample.zip` again from Fashion-MNIST as Debian packages it: `python -m worker.demo.make_sample`.

The first pictures of each class are taken, none is picked by hand. Fashion-MNIST keeps Zalando's photographs
negated (arXiv:1708.07747, section 2); they are negated back, so that products stand on white as in the shop.
"""

from __future__ import annotations

import argparse
import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from worker.demo.sample import ARCHIVE, ATTRIBUTION, CATALOGUE, QUERIES
from worker.training.idx import FASHION, Pixels, read_array

SOURCE = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package dataset-fashion-mnist puts its files."""
CATALOGUE_OF_EACH, QUERIES_OF_EACH = 100, 20
EPOCH = (2017, 8, 25, 0, 0, 0)
"""Date of every entry, so that the same pictures give the same bytes: Fashion-MNIST's first release."""


def first_of_each(labels: Pixels, count: int) -> Iterator[tuple[str, int]]:
    """Give class name and position of the first `count` of every class."""
    for label, name in enumerate(FASHION):
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
        pictures = read_array(source / f"{part}-images-idx3-ubyte.gz")
        labels = read_array(source / f"{part}-labels-idx1-ubyte.gz")
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
