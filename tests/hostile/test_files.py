"""Hostile paths, through the real fetcher: nothing is read but pictures under a root, and nothing hangs."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path
from typing import cast

import pytest
from pydantic import ValidationError
from redis import Redis

from producer.messages import PathImage
from tests.hostile.files import File, Place, table
from tests.hostile.processes import Growth
from worker.images.errors import ImageError
from worker.images.fetch import Fetcher, FetchPolicy

SECONDS = 10.0
LITTLE = 50
CASES = table()


def test_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES) > 75


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.name))
def test_a_hostile_path_ends_as_it_should(tmp_path: Path, case: File) -> None:
    place = Place.made(tmp_path)
    path = case.path(place)
    growth = Growth.of(os.getpid())
    gc.collect()  # what tests before left open must not be closed in between
    descriptors = len(os.listdir("/proc/self/fd"))
    began = time.monotonic()
    with Fetcher(FetchPolicy(roots=(case.root or place.root,)), cast(Redis, None)) as fetcher:
        if case.reason is None:
            assert fetcher.fetch(PathImage(path=path)).data == b"picture"
        else:
            with pytest.raises(ImageError) as caught:
                # As if a producer had sent it that checks nothing.
                fetcher.fetch(PathImage.model_construct(path=path))
            assert (caught.value.reason, caught.value.transient) == (case.reason, False)
            assert "secret" not in caught.value.detail
    assert time.monotonic() - began < SECONDS
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert growth.most < LITTLE


@pytest.mark.parametrize("path", ["", "x" * 4097])
def test_a_message_takes_no_path_without_end(path: str) -> None:
    with pytest.raises(ValidationError):
        PathImage(path=path)
