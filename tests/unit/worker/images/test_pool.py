"""Whatever a picture does, it does to a child that is replaced."""

from __future__ import annotations

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from producer.reasons import Reason
from tests.unit.worker.images.pictures import encoded, png_header, scene
from worker.images.decode import DecodeSpec, decode
from worker.images.decoder import ANSWER
from worker.images.errors import ImageError
from worker.images.pool import DecoderPool, _read

SPEC = DecodeSpec(64)


def slow_picture() -> bytes:
    """A valid picture of 47 megapixels, which takes far longer than the time limits of these tests."""
    return encoded(Image.new("RGB", (7900, 6000), "navy"), "PNG", compress_level=1)


def reason(pool: DecoderPool, data: bytes) -> Reason:
    with pytest.raises(ImageError) as caught:
        pool.decode(data, SPEC)
    assert not caught.value.transient
    return caught.value.reason


def test_a_child_decodes_as_the_function_does() -> None:
    data = encoded(scene(), "JPEG")
    here = decode(data, SPEC)

    with DecoderPool(1) as pool:
        there = pool.decode(data, SPEC)

    np.testing.assert_array_equal(there.pixels, here.pixels)
    assert there.thumbnail == here.thumbnail
    assert (there.width, there.height) == (120, 180)


def test_verdicts_come_back_as_reasons_and_the_child_lives() -> None:
    with DecoderPool(1) as pool:
        before = pool.pids
        assert reason(pool, b"hello") is Reason.UNSUPPORTED_FORMAT
        assert reason(pool, encoded(scene())[:300]) is Reason.CORRUPT_IMAGE
        assert reason(pool, png_header(30_000, 30_000)) is Reason.TOO_LARGE
        assert reason(pool, bytes(26 * 1024 * 1024)) is Reason.TOO_LARGE
        assert pool.decode(encoded(scene()), SPEC).width == 120
        assert pool.pids == before


def test_many_threads_get_their_own_pictures() -> None:
    colours = [(index, 255 - index, index // 2) for index in range(0, 200, 2)]
    pictures = [encoded(Image.new("RGB", (50, 50), colour)) for colour in colours]

    with DecoderPool(2) as pool, ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda data: pool.decode(data, SPEC), pictures))

    assert [tuple(result.pixels[30, 30].tolist()) for result in results] == colours


def test_decode_many_keeps_order_and_errors_in_their_places() -> None:
    good = [encoded(Image.new("RGB", (9 + index, 9))) for index in range(40)]
    pictures = [data for picture in good for data in (picture, b"hello")]

    with DecoderPool(2) as pool:
        results = pool.decode_many(pictures, SPEC)
        assert pool.decode_many([], SPEC) == []

    assert [each.width for each in results[::2] if not isinstance(each, ImageError)] == list(
        range(9, 49)
    )
    assert all(isinstance(each, ImageError) for each in results[1::2])


def test_large_pictures_take_turns_in_the_shared_memory() -> None:
    data = encoded(scene(9, 9), "BMP") + bytes(10 * 1024 * 1024)

    with DecoderPool(1) as pool:
        results = pool.decode_many([data] * 5, DecodeSpec(1024))

    assert [each.width for each in results if not isinstance(each, ImageError)] == [9] * 5


def test_a_slow_picture_costs_its_neighbours_nothing() -> None:
    small = encoded(Image.new("RGB", (9, 9)))

    with DecoderPool(1, timeout=0.1) as pool:
        results = pool.decode_many([small, small, slow_picture(), small, small], SPEC)

    assert [isinstance(each, ImageError) for each in results] == [False, False, True, False, False]


def test_a_picture_that_takes_too_long_costs_its_child_only() -> None:
    with DecoderPool(1, timeout=0.05) as pool:
        before = pool.pids
        assert reason(pool, slow_picture()) is Reason.DECODE_TIMEOUT
        assert not psutil.pid_exists(before[0])
        assert pool.decode(encoded(Image.new("RGB", (9, 9))), SPEC).width == 9
        assert pool.pids != before


def test_memory_is_limited() -> None:
    with DecoderPool(1, memory_bytes=48 << 20) as pool:
        assert reason(pool, slow_picture()) in {Reason.TOO_LARGE, Reason.DECODER_DIED}
        assert pool.decode(encoded(scene()), SPEC).width == 120


def test_a_child_that_was_killed_while_idle_costs_no_picture() -> None:
    with DecoderPool(1) as pool:
        pool.decode(encoded(scene()), SPEC)
        os.kill(pool.pids[0], signal.SIGKILL)

        assert pool.decode(encoded(scene()), SPEC).width == 120


def test_a_picture_that_kills_its_child_twice_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []

    def read(process: subprocess.Popen[bytes], size: int, timeout: float) -> bytes:
        if size == ANSWER.size and len(killed) < 2:
            killed.append(process.pid)
            process.kill()
        return _read(process, size, timeout)

    monkeypatch.setattr("worker.images.pool._read", read)
    with DecoderPool(1) as pool:
        assert reason(pool, slow_picture()) is Reason.DECODER_DIED
        assert len(set(killed)) == 2
        assert pool.decode(encoded(scene()), SPEC).width == 120


def test_a_child_that_does_not_come_up_is_not_the_pictures_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.images.pool._ROOT", Path("nowhere"))
    monkeypatch.setattr("sys.executable", "/bin/false")

    with DecoderPool(1) as pool, pytest.raises(ImageError) as caught:
        pool.decode(encoded(scene()), SPEC)

    assert caught.value.reason is Reason.UNAVAILABLE
    assert caught.value.transient


def test_children_see_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKALIKE_REDIS_URL", "redis://:secret@example/0")

    with DecoderPool(1) as pool:
        pool.decode(encoded(scene()), SPEC)
        environment = psutil.Process(pool.pids[0]).environ()

    assert not [name for name in environment if name.startswith("LOOKALIKE")]


def test_close_ends_the_children() -> None:
    pool = DecoderPool(2)
    pool.decode(encoded(scene()), SPEC)
    pids = pool.pids

    pool.close()

    assert pids
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    with pytest.raises(ImageError) as caught:
        pool.decode(encoded(scene()), SPEC)
    assert caught.value.transient


def test_close_ends_a_decode_that_runs() -> None:
    pool = DecoderPool(1)
    pool.decode(encoded(scene()), SPEC)

    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(pool.decode_many, [slow_picture()] * 30, SPEC)
        while not pool._free.empty():
            pass
        pool.close()
        results = running.result(timeout=20)

    last = results[-1]
    assert isinstance(last, ImageError)
    assert last.transient


def test_children_import_no_more_than_they_need() -> None:
    with DecoderPool(1) as pool:
        pool.decode(encoded(scene()), SPEC)
        maps = {mapping.path for mapping in psutil.Process(pool.pids[0]).memory_maps()}

    assert not [path for path in maps if "torch" in path or "pydantic" in path]
