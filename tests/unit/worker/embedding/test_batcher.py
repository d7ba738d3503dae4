"""Requests that arrive together share batches, and faults stay with whom they belong to."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from worker.embedding.batcher import BatcherClosed, MicroBatcher

BAD = 255


def pictures(*values: int) -> NDArray[np.uint8]:
    """One-pixel pictures."""
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)


class Net:
    """Answers with the picture's value; fails on whole batches that hold a BAD one."""

    def __init__(self, *, blocked: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.started = threading.Semaphore(0)
        self.go = threading.Event()
        if not blocked:
            self.go.set()

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(pixels[:, 0, 0, 0].tolist())
        self.started.release()
        assert self.go.wait(10)
        if (pixels == BAD).any():
            raise ValueError("bad picture")
        return pixels[:, 0, 0, :2].astype(np.float32)


def test_rows_come_back_in_order() -> None:
    net = Net()
    with MicroBatcher(net.embed) as batcher:
        vectors = batcher.embed(pictures(3, 1, 2))

    np.testing.assert_array_equal(vectors, [[3, 3], [1, 1], [2, 2]])


def test_requests_that_wait_are_joined_and_large_ones_split() -> None:
    net = Net(blocked=True)
    with MicroBatcher(net.embed, max_batch=4, max_wait=0) as batcher:
        first = batcher.submit(pictures(0))
        assert net.started.acquire(timeout=10)
        large = batcher.submit(pictures(1, 2, 3, 4, 5, 6))
        small = [batcher.submit(pictures(value)) for value in (7, 8, 9)]
        net.go.set()
        assert large.result(10)[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
        assert [each.result(10)[0, 0] for each in small] == [7, 8, 9]
        first.result(10)

    assert net.batches == [[0], [7, 8, 9, 1], [2, 3, 4, 5], [6]]


def test_a_bad_picture_fails_alone() -> None:
    net = Net(blocked=True)
    with MicroBatcher(net.embed, max_batch=8, max_wait=0) as batcher:
        batcher.submit(pictures(0))
        assert net.started.acquire(timeout=10)
        mixed, other = batcher.submit(pictures(1, BAD, 2)), batcher.submit(pictures(3))
        net.go.set()
        vectors = mixed.result(10)

        assert np.isnan(vectors[1]).all()
        assert vectors[[0, 2], 0].tolist() == [1, 2]
        assert other.result(10)[0, 0] == 3


def test_a_network_that_fails_on_everything_is_not_the_pictures_fault() -> None:
    def broken(_pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise RuntimeError("the card is gone")

    with MicroBatcher(broken) as batcher:
        with pytest.raises(RuntimeError, match="card"):
            batcher.embed(pictures(1, 2))
        with pytest.raises(RuntimeError, match="card"):
            batcher.embed(pictures(1))


def test_the_rest_of_a_failed_request_is_not_embedded() -> None:
    calls = []

    def broken(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        calls.append(len(pixels))
        raise RuntimeError("the card is gone")

    with MicroBatcher(broken, max_batch=1) as batcher, pytest.raises(RuntimeError, match="card"):
        batcher.embed(pictures(*range(50)))

    assert calls == [1, 1]  # the picture, and a blank one


def test_the_queue_is_bounded() -> None:
    net = Net(blocked=True)
    with MicroBatcher(net.embed, max_batch=2, max_wait=0, capacity=4) as batcher:
        batcher.submit(pictures(0))
        assert net.started.acquire(timeout=10)
        batcher.submit(pictures(1, 2, 3, 4))
        with ThreadPoolExecutor(1) as threads:
            late: Future[Future[NDArray[np.float32]]] = threads.submit(batcher.submit, pictures(5))
            with pytest.raises(TimeoutError):
                late.result(0.1)
            net.go.set()
            assert late.result(10).result(10)[0, 0] == 5


def test_a_request_beyond_the_capacity_is_served() -> None:
    with MicroBatcher(Net().embed, max_batch=2, capacity=2) as batcher:
        assert len(batcher.embed(pictures(*range(9)))) == 9


def test_nothing_gives_nothing() -> None:
    with MicroBatcher(Net().embed) as batcher:
        assert len(batcher.embed(pictures())) == 0


def test_close_drains_and_then_refuses() -> None:
    net = Net(blocked=True)
    batcher = MicroBatcher(net.embed, max_batch=2, max_wait=0)
    waiting = [batcher.submit(pictures(value)) for value in range(7)]
    with ThreadPoolExecutor(1) as threads:
        closing = threads.submit(batcher.close)
        net.go.set()
        closing.result(10)

    assert [each.result(0)[0, 0] for each in waiting] == list(range(7))
    with pytest.raises(BatcherClosed):
        batcher.submit(pictures(1))


@settings(max_examples=60, deadline=None)
@given(
    requests=st.lists(st.lists(st.integers(0, 255), max_size=9), max_size=12),
    max_batch=st.integers(1, 8),
    capacity=st.integers(1, 20),
)
def test_whatever_is_asked_everybody_gets_their_own(
    requests: list[list[int]], max_batch: int, capacity: int
) -> None:
    net = Net()
    with (
        MicroBatcher(net.embed, max_batch=max_batch, max_wait=0.0001, capacity=capacity) as batcher,
        ThreadPoolExecutor(4) as threads,
    ):
        answers = [threads.submit(batcher.submit, pictures(*values)) for values in requests]
        for values, answer in zip(requests, answers, strict=True):
            got = answer.result(10).result(10)
            wanted = [np.nan if value == BAD else value for value in values]
            np.testing.assert_array_equal(got[:, :1].ravel(), wanted)

    assert all(len(batch) <= max_batch for batch in net.batches)
