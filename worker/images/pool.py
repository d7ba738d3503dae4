"""A pool of decoding children that can be killed: whatever a picture does, it does to one of them."""

from __future__ import annotations

import errno
import logging
import mmap
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import LifoQueue
from typing import IO, Self

import numpy as np

from producer.reasons import Reason
from worker.carrying import CarryingExecutor
from worker.images.decode import MAX_BYTES, Decoded, DecodeSpec
from worker.images.decoder import (
    ANSWER,
    INTERPOLATIONS,
    OUTPUT,
    READY,
    REQUEST,
    RESIZES,
    SHARED,
    room,
)
from worker.images.errors import ImageError

_log = logging.getLogger(__name__)
_START_SECONDS = 30.0
_HANDFUL = 8
"""Pictures that a child is handed at once: enough to keep it busy, few enough to spread a chunk evenly."""
_ROOT = Path(__file__).resolve().parents[2]


class _Died(Exception):
    """The child ended while it was being asked."""


class _Late(Exception):
    """The child did not answer in time."""


class DecoderPool:
    """Decodes pictures in child processes, as many at once as there are children. Thread-safe.

    A picture that takes longer than `timeout` seconds costs its child, which is replaced; so does one that
    needs more than `memory_bytes`, when the decoder does not notice in time to say so.
    """

    def __init__(
        self, processes: int = 2, *, timeout: float = 10.0, memory_bytes: int = 1 << 30
    ) -> None:
        self._timeout = timeout
        self._closed = False
        self._children = [_Child(memory_bytes) for _ in range(processes)]
        self._free: LifoQueue[_Child] = LifoQueue()
        self._feeders = CarryingExecutor(processes, "decoders")
        for child in self._children:
            child.start()
            self._free.put(child)

    def decode(self, data: bytes, spec: DecodeSpec) -> Decoded:
        """Decode one picture, waiting for a free child; raise ImageError.

        Reasons: unsupported_format, corrupt_image, too_large, decode_timeout, decoder_died (all permanent)
        and unavailable (transient: no child could be started, or the pool is closed).
        """
        result = self._in_a_child([data], spec)[0]
        if isinstance(result, ImageError):
            raise result
        return result

    def decode_many(
        self, pictures: Sequence[bytes], spec: DecodeSpec
    ) -> list[Decoded | ImageError]:
        """Decode several at once, in order; a bad picture is an ImageError in its place.

        Each child is handed several pictures at a time and never waits for us between them.
        """
        share = max(1, min(_HANDFUL, -(-len(pictures) // len(self._children))))
        handfuls = [pictures[start : start + share] for start in range(0, len(pictures), share)]
        if len(handfuls) == 1:
            return self._in_a_child(handfuls[0], spec)
        try:
            done = self._feeders.map(lambda handful: self._in_a_child(handful, spec), handfuls)
        except RuntimeError:  # what a closed executor raises
            return [_stopping() for _ in pictures]
        return [result for results in done for result in results]

    def _in_a_child(
        self, pictures: Sequence[bytes], spec: DecodeSpec
    ) -> list[Decoded | ImageError]:
        child = self._free.get()
        results: list[Decoded | ImageError] = []
        try:
            while len(results) < len(pictures):
                self._ask(child, pictures, spec, results)
        finally:
            self._free.put(child)
        return results

    def _ask(
        self,
        child: _Child,
        pictures: Sequence[bytes],
        spec: DecodeSpec,
        results: list[Decoded | ImageError],
    ) -> None:
        """Add results, at least one: of as many pictures as the child survives."""
        try:
            self._extend(child, pictures[len(results) :], spec, results)
        except _Died:
            # The child may have died of something else, such as the kernel's need for memory: ask twice.
            _log.warning("a decoder died (exit code %s) and is replaced", child.stop())
            try:
                self._extend(child, [pictures[len(results)]], spec, results)
            except _Died:
                child.stop()
                detail = "the picture ended two decoder processes"
                results.append(ImageError(Reason.DECODER_DIED, detail))

    def _extend(
        self,
        child: _Child,
        pictures: Sequence[bytes],
        spec: DecodeSpec,
        results: list[Decoded | ImageError],
    ) -> None:
        if self._closed:
            results.extend(_stopping() for _ in pictures)
            return
        try:
            for result in child.ask(pictures, spec, self._timeout):
                results.append(result)
        except _Late:
            child.stop()
            detail = f"not decoded within {self._timeout:g} s (LOOKALIKE_DECODE_TIMEOUT)"
            results.append(ImageError(Reason.DECODE_TIMEOUT, detail))

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the children that are running."""
        return tuple(child.pid for child in self._children if child.pid is not None)

    def close(self) -> None:
        """End the children; decodes that are running or come later fail as unavailable."""
        self._closed = True
        for child in self._children:
            child.kill()
        self._feeders.shutdown()
        # Whoever was waiting for an answer has seen its end, and nobody holds a child any more.
        for child in [self._free.get() for _ in self._children]:
            child.stop()
            self._free.put(child)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Child:
    """One decoding process and the memory shared with it. Used by one thread at a time, but for `kill`."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._shared_file = tempfile.TemporaryFile() if not hasattr(os, "memfd_create") else None  # noqa: SIM115
        if self._shared_file is not None:
            self._descriptor = self._shared_file.fileno()
        else:
            self._descriptor = os.memfd_create("decoder", os.MFD_CLOEXEC)
        os.ftruncate(self._descriptor, SHARED)
        self._shared = mmap.mmap(self._descriptor, SHARED)

    @property
    def pid(self) -> int | None:
        """Process id, or None when it is not running."""
        return self._process.pid if self._process is not None else None

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process; it gets nothing of our environment, secrets least of all."""
        command = (sys.executable, "-m", "worker.images.decoder")
        environment = {
            "PYTHONPATH": str(_ROOT),
            "PATH": os.defpath,
            "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", ""),
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": os.environ.get("PYTHONDONTWRITEBYTECODE", ""),
        }
        self._ready = False
        self._process = subprocess.Popen(
            (*command, str(self._descriptor), str(self._memory_bytes)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
            pass_fds=(self._descriptor,),
        )
        return self._process

    def ask(
        self, pictures: Sequence[bytes], spec: DecodeSpec, timeout: float
    ) -> Iterator[Decoded | ImageError]:
        """Give the results of the first pictures, of as many as fit into the shared memory.

        Raises _Died or _Late at the picture that is to blame; then call `stop`.
        """
        if len(pictures[0]) > MAX_BYTES:
            yield ImageError(Reason.TOO_LARGE, f"{len(pictures[0]):,} bytes; at most {MAX_BYTES:,}")
            return
        try:
            process = self._running()
        except OSError as error:
            detail = f"no decoder could be started: {error.strerror}"
            yield ImageError(Reason.UNAVAILABLE, detail, transient=True)
            return
        targets = self._send(process, pictures, spec, int(timeout) + 5)
        for target in targets:
            yield self._result(_read(process, ANSWER.size, timeout), target, spec)

    def _send(
        self,
        process: subprocess.Popen[bytes],
        pictures: Sequence[bytes],
        spec: DecodeSpec,
        limit: int,
    ) -> range:
        """Lay pictures into the shared memory and ask for them in one go; return where the pixels will lie."""
        source = OUTPUT
        requests: list[bytes] = []
        for data, target in zip(
            pictures, range(0, OUTPUT - room(spec) + 1, room(spec)), strict=False
        ):
            if source + len(data) > SHARED or len(requests) == _HANDFUL:
                break
            self._shared[source : source + len(data)] = data
            resize, interpolation = (
                RESIZES.index(spec.resize),
                INTERPOLATIONS.index(spec.interpolation),
            )
            form = (spec.size, resize, interpolation, spec.thumbnail)
            requests.append(REQUEST.pack(source, len(data), target, *form, limit))
            source += len(data)
        if not requests:
            raise ValueError(
                f"a result of {room(spec):,} bytes does not fit the pool's shared memory"
            )
        try:
            os.write(_pipe(process.stdin), b"".join(requests))
        except OSError:
            raise _Died from None
        return range(0, len(requests) * room(spec), room(spec))

    def _running(self) -> subprocess.Popen[bytes]:
        process = self._process or self.start()
        if not self._ready:
            try:
                _read(process, len(READY), _START_SECONDS)
            except (_Died, _Late):
                self.stop()
                raise ChildProcessError(errno.ECHILD, "it did not come up") from None
            self._ready = True
        return process

    def _result(self, answer: bytes, target: int, spec: DecodeSpec) -> Decoded | ImageError:
        """Read an answer as from a stranger: a picture may have taken the child over."""
        worked, length, thumbnail, width, height = ANSWER.unpack(answer)
        end = target + length
        if length + thumbnail > room(spec):
            raise _Died
        if not worked:
            verdict, _, detail = self._shared[target:end].decode(errors="replace").partition("\n")
            return ImageError(_reason(verdict), _printable(detail))
        if length != 3 * spec.size**2:
            raise _Died
        pixels = np.frombuffer(self._shared[target:end], np.uint8)
        pixels = pixels.reshape(spec.size, spec.size, 3)
        return Decoded(pixels, self._shared[end : end + thumbnail], width, height)

    def kill(self) -> None:
        """Have the process end, whoever is using it."""
        if (process := self._process) is not None:
            process.kill()

    def stop(self) -> int | None:
        """Kill the process if it runs, and clear up; return its exit code, negative for a signal."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        return code


def _stopping() -> ImageError:
    return ImageError(Reason.UNAVAILABLE, "the worker is stopping", transient=True)


def _pipe(pipe: IO[bytes] | None) -> int:
    assert pipe is not None
    return pipe.fileno()


def _read(process: subprocess.Popen[bytes], size: int, timeout: float) -> bytes:
    """Read exactly `size` bytes (far fewer than a pipe passes in one piece) or raise."""
    descriptor = _pipe(process.stdout)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if not poll.poll(timeout * 1000):
        raise _Late
    answer = os.read(descriptor, size)
    if len(answer) != size:
        raise _Died
    return answer


def _printable(text: str) -> str:
    """Without what PostgreSQL does not store, and what a terminal would act on."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _reason(verdict: str) -> Reason:
    try:
        return Reason(verdict)
    except ValueError:
        return Reason.CORRUPT_IMAGE
