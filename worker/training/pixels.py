"""Decodes a data set once, with the decoders of the service, into a file that every epoch reads.

So a network learns from the very pixels that it will be asked about, and what cannot be decoded is known before
the first epoch.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.images.decode import MAX_BYTES, DecodeSpec
from worker.images.errors import ImageError
from worker.images.pool import DecoderPool
from worker.training.errors import TrainingDataError
from worker.training.labelled import DataSet, Labelled, Part, Problem

ARRAY, INDEX = "pixels.npy", "pixels.json"
AT_ONCE = 256
"""Pictures that are read and handed to the decoders together."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """Decoded pictures: `array` uint8 [n, S, S, 3], of which `rows` int [m] are those of `pictures`."""

    array: NDArray[np.uint8]
    rows: NDArray[np.int64]
    pictures: Sequence[Labelled]

    def part(self, part: Part) -> Pixels:
        """Those of one part."""
        kept = [at for at, each in enumerate(self.pictures) if each.part is part]
        return Pixels(self.array, self.rows[kept], [self.pictures[at] for at in kept])


def prepare(
    data: DataSet, spec: DecodeSpec, folder: Path, progress: Callable[[float], None]
) -> Pixels:
    """Decode all pictures into a file of `folder`, unless they are there from an earlier run.

    Those that cannot be decoded are left out and counted in `data.problems`. `progress` gets the share done.
    Raises TrainingDataError where the disk has no room.
    """
    key = _key(data.pictures, spec)
    refused = _known(folder, key)
    if refused is None:
        refused = _decode_all(data.pictures, spec, folder, progress)
        part = folder / f"{INDEX}.partial"
        part.write_text(json.dumps({"key": key, "refused": refused}), encoding="utf-8")
        part.rename(folder / INDEX)
    for row, detail in refused.items():
        picture = data.pictures[row].picture
        where = picture if isinstance(picture, Path) else folder / ARRAY
        data.problems.add(Problem.UNDECODABLE, where, None, detail)
    kept = [row for row in range(len(data.pictures)) if row not in refused]
    array = np.load(folder / ARRAY, mmap_mode="r")
    return Pixels(array, np.array(kept, np.int64), [data.pictures[row] for row in kept])


def _key(pictures: Sequence[Labelled], spec: DecodeSpec) -> str:
    """Digest of all that the pixels depend on; a file is known by its size and time."""
    digest = hashlib.sha256(json.dumps(asdict(spec)).encode())
    for each in pictures:
        if isinstance(each.picture, Path):
            status = each.picture.stat()
            known = f"{each.picture}\0{status.st_size}\0{status.st_mtime_ns}"
            digest.update(known.encode("utf-8", "surrogateescape"))
        else:
            digest.update(each.picture.tobytes())
        digest.update(repr(each.box).encode())
    return digest.hexdigest()


def _known(folder: Path, key: str) -> dict[int, str] | None:
    """What was refused when the same pictures were decoded into the folder; None if they were not."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if index["key"] != key:
        return None
    return {int(row): detail for row, detail in index["refused"].items()}


def _decode_all(
    pictures: Sequence[Labelled],
    spec: DecodeSpec,
    folder: Path,
    progress: Callable[[float], None],
) -> dict[int, str]:
    for name in (INDEX, ARRAY):  # what an interrupted run left takes room
        (folder / name).unlink(missing_ok=True)
    shape = (len(pictures), spec.size, spec.size, 3)
    _need_space(folder, int(np.prod(shape)))
    array = np.lib.format.open_memmap(folder / ARRAY, "w+", np.uint8, shape)
    with (folder / ARRAY).open(
        "r+b"
    ) as file:  # now, or a disk that fills meanwhile ends the process
        os.posix_fallocate(file.fileno(), 0, (folder / ARRAY).stat().st_size)
    refused: dict[int, str] = {}
    with DecoderPool(os.cpu_count() or 1, timeout=30.0) as pool:
        for start in range(0, len(pictures), AT_ONCE):
            for row, result in _decoded(pictures, start, spec, pool):
                if isinstance(result, str):
                    refused[row] = result
                else:
                    array[row] = result
            progress(min(1.0, (start + AT_ONCE) / len(pictures)))
    array.flush()
    return refused


def _need_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise TrainingDataError(
            f"{folder}: the decoded pictures take {needed >> 20:,} MB, {free >> 20:,} MB are free; "
            "choose a smaller --size, or --out on another disk"
        )


def _decoded(
    pictures: Sequence[Labelled], start: int, spec: DecodeSpec, pool: DecoderPool
) -> Iterator[tuple[int, NDArray[np.uint8] | str]]:
    """Rows with their pixels, or why there are none."""
    data: dict[int, bytes] = {}
    for row in range(start, min(start + AT_ONCE, len(pictures))):
        try:
            data[row] = _bytes(pictures[row])
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            if isinstance(error, OSError) and error.errno not in {None, errno.ENOENT, errno.EACCES}:
                raise  # the disk's trouble, not the picture's: it must not be left out for good
            yield row, str(error)
    for row, result in zip(data, pool.decode_many(list(data.values()), spec), strict=True):
        if isinstance(result, ImageError) and result.transient:
            raise TrainingDataError(f"{pictures[row].picture}: {result.detail}; try again")
        yield row, (result.detail if isinstance(result, ImageError) else result.pixels)


def _bytes(picture: Labelled) -> bytes:
    """A file's bytes; grey pixels, and what is inside a box, as a PNG of them."""
    if not isinstance(picture.picture, Path):
        return _png(Image.fromarray(picture.picture))
    if picture.box is None:
        with picture.picture.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    box = picture.box
    with Image.open(picture.picture) as image:
        return _png(image.crop((box.left, box.top, box.right, box.bottom)))


def _png(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, "PNG", compress_level=1)
    return written.getvalue()
