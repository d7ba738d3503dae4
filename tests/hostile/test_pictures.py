"""Hostile pictures through the real decoding children: each ends as the table says, and everything lives on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from producer.reasons import Reason
from tests.hostile.pictures import Picture, table, turned
from tests.hostile.processes import Growth, held
from tests.unit.worker.images.pictures import encoded, scene
from worker.embedding import library
from worker.embedding.network import Network
from worker.images.decode import MAX_BYTES, DecodeSpec
from worker.images.decoder import ANSWER
from worker.images.errors import ImageError
from worker.images.pool import DecoderPool

SPEC = DecodeSpec(128)
SECONDS = 10.0
LITTLE, LIMIT = 50, 1024
"""MiB that a picture may cost any process: judged by its header, and decoded (DecoderPool's `memory_bytes`)."""
GOOD = encoded(scene(), "JPEG")
CASES = table()

linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    """Two children with the limits that a service has, and their shared memory touched."""
    with DecoderPool() as opened:
        opened.decode_many([bytes(MAX_BYTES)] * 16, SPEC)
        yield opened


def result(pool: DecoderPool, data: bytes) -> Reason | None:
    """The reason that a picture ends in; None where it decodes."""
    (decoded,) = pool.decode_many([data], SPEC)
    if isinstance(decoded, ImageError):
        assert not decoded.transient
        assert len(decoded.detail) < 400
        return decoded.reason
    assert decoded.pixels.shape == (SPEC.size, SPEC.size, 3)
    return None


def test_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES) > 180


@linux
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_picture_ends_as_it_should(pool: DecoderPool, case: Picture) -> None:
    data = case.data
    before = pool.pids
    growths = [Growth.of(pid) for pid in (os.getpid(), *before)]

    began = time.monotonic()
    assert result(pool, data) == case.reason
    assert time.monotonic() - began < SECONDS

    assert pool.pids == before  # nothing in the table needs to end a child
    most = LITTLE if case.by_header else LIMIT
    assert growths[0].most < LITTLE  # ours
    assert all(growth.most < most for growth in growths[1:])
    assert result(pool, GOOD) is None


@linux
def test_what_children_hold_does_not_grow_from_picture_to_picture(pool: DecoderPool) -> None:
    small = [case.data for case in CASES if case.by_header and not case.name.startswith("26 MB")]
    pool.decode_many(small, SPEC)
    before = {pid: held(pid) for pid in (os.getpid(), *pool.pids)}
    for _ in range(3):
        pool.decode_many(small, SPEC)
    for pid, bytes_ in before.items():
        assert held(pid) - bytes_ < 10 << 20


def test_bad_pictures_cost_their_neighbours_nothing(pool: DecoderPool) -> None:
    cases = [case for case in CASES if case.reason is not None and "26 MB" not in case.name]
    mixed = [data for case in cases for data in (case.data, GOOD)]
    results = pool.decode_many(mixed, SPEC)
    found = [each.reason if isinstance(each, ImageError) else None for each in results]
    assert found[::2] == [case.reason for case in cases]
    assert set(found[1::2]) == {None}


def test_what_a_child_says_can_be_stored_and_shown(pool: DecoderPool) -> None:
    """A picture may have taken the child over, and a NUL in a dead letter would keep its chunk from PostgreSQL."""
    child = pool._children[0]
    said = b"nonsense\n\x00\x1b[2J\xff\xed\xa0\x80 and more"
    child._shared[: len(said)] = said
    found = child._result(ANSWER.pack(0, len(said), 0, 0, 0), 0, SPEC)
    assert isinstance(found, ImageError)
    assert found.reason is Reason.CORRUPT_IMAGE
    assert found.detail.isprintable()
    assert found.detail.endswith(" and more")


# -- turned pictures ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """The network of a small service."""
    found = Network.load(library.resolve("efficientnet-lite0:64"), device="cpu", threads=2)
    yield found
    found.close()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_vectors_of_all_eight_orientations_agree(
    pool: DecoderPool, network: Network, kind: str
) -> None:
    upright = _vectors(pool, network, [encoded(scene())])[0]
    lying = _vectors(pool, network, [turned(kind, orientation) for orientation in range(1, 9)])
    assert (lying @ upright).min() >= 0.99


def test_a_turned_picture_has_another_vector(pool: DecoderPool, network: Network) -> None:
    """Else the test above would say nothing."""
    upright, turned_ = _vectors(pool, network, [encoded(scene()), encoded(scene().rotate(90))])
    assert upright @ turned_ < 0.97


def _vectors(pool: DecoderPool, network: Network, pictures: list[bytes]) -> NDArray[np.float32]:
    spec = network.config.decode_spec(thumbnail=0)
    return network.embed(np.stack([pool.decode(data, spec).pixels for data in pictures]))
