"""The child process that decodes: one picture at a time, through memory shared with the pool.

Standard input carries requests and standard output answers, each a fixed few bytes; the picture and its
pixels lie in the shared memory. End of input ends the child. It imports Pillow and numpy, nothing of the service.
"""

from __future__ import annotations

import mmap
import os
import resource
import signal
import struct
import sys
from typing import Final, get_args

from worker.images.decode import (
    MAX_BYTES,
    Decoded,
    DecodeSpec,
    Interpolation,
    Resize,
    Undecodable,
    decode,
)

REQUEST: Final = struct.Struct("<QQQHBBHI")
"""Where the picture lies and its length, where its pixels go, and then size, resize, interpolation, thumbnail and
the seconds that it may take."""
ANSWER: Final = struct.Struct("<BIIII")
"""Whether it worked, bytes of pixels, bytes of thumbnail, width, height; or failed, bytes of text."""
OUTPUT: Final = 4 * 1024 * 1024
"""Room at the start of the shared memory for what comes out; what goes in lies after it."""
SHARED: Final = OUTPUT + MAX_BYTES
MAX_TEXT: Final = 1000
RESIZES: Final[tuple[Resize, ...]] = get_args(Resize)
INTERPOLATIONS: Final[tuple[Interpolation, ...]] = get_args(Interpolation)
READY: Final = b"!"


def main() -> None:
    """Serve until end of input. Arguments: descriptor of the shared memory, bytes to decode with."""
    descriptor, memory_bytes = int(sys.argv[1]), int(sys.argv[2])
    shared = mmap.mmap(descriptor, SHARED)
    os.close(descriptor)
    _confine(memory_bytes)
    os.write(1, READY)
    while len(request := os.read(0, REQUEST.size)) == REQUEST.size:
        os.write(1, _serve(shared, request))


def _confine(memory_bytes: int) -> None:
    """Bound the child's memory beyond what the interpreter uses, leave no core, mind no Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = _address_space() + memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _address_space() -> int:
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 1 << 30


def room(spec: DecodeSpec) -> int:
    """Bytes that pixels and thumbnail may take: a JPEG is hardly ever larger than its pixels."""
    return 3 * spec.size**2 + 3 * spec.thumbnail**2 + MAX_TEXT


def _serve(shared: mmap.mmap, request: bytes) -> bytes:
    source, length, target, size, resize, interpolation, thumbnail, seconds = REQUEST.unpack(
        request
    )
    spec = DecodeSpec(size, RESIZES[resize], INTERPOLATIONS[interpolation], thumbnail)
    # Should the parent be gone, nobody else would end a decode that hangs.
    signal.alarm(seconds)
    try:
        return _answer(shared, target, decode(shared[source : source + length], spec), room(spec))
    except Undecodable as error:
        text = f"{error.verdict}\n{error.detail}".encode(errors="replace")[:MAX_TEXT]
        shared[target : target + len(text)] = text
        return ANSWER.pack(0, len(text), 0, 0, 0)
    finally:
        signal.alarm(0)


def _answer(shared: mmap.mmap, target: int, decoded: Decoded, limit: int) -> bytes:
    pixels = decoded.pixels.tobytes()
    thumbnail = decoded.thumbnail if len(pixels) + len(decoded.thumbnail) <= limit else b""
    shared[target : target + len(pixels)] = pixels
    shared[target + len(pixels) : target + len(pixels) + len(thumbnail)] = thumbnail
    return ANSWER.pack(1, len(pixels), len(thumbnail), decoded.width, decoded.height)


if __name__ == "__main__":
    main()
