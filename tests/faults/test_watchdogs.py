"""A process that cannot do its work any more ends by itself, and says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.client import Producer
from tests.faults.group import add, group
from tests.stack import save_picture
from worker.departure import DEAF, STUCK


def test_a_network_that_does_not_end_a_batch(tmp_path: Path) -> None:
    hurry = {"claim": 3.0, "grace": 3.0, "slow": 60.0}
    with group(tmp_path, hurry=hurry, embed_timeout=0.5, image_roots=(tmp_path,)) as service:
        service.start("embed")
        service.ready()
        worker = service.workers.pop("embed")
        with Producer(service.producer) as shop:
            add(shop, {"a": save_picture(tmp_path / "a.jpg", 1)})
            assert worker.wait(30.0) == STUCK
        assert "LOOKALIKE_EMBED_TIMEOUT" in worker.log.read_text()
        assert list(service.deaths().values()) == [1]


def test_work_that_does_not_end(tmp_path: Path) -> None:
    hurry = {"claim": 3.0, "grace": 3.0, "slow": 60.0}
    with group(tmp_path, hurry=hurry, stuck_after=0.5, image_roots=(tmp_path,)) as service:
        service.start("embed")
        service.ready()
        worker = service.workers.pop("embed")
        with Producer(service.producer) as shop:
            add(shop, {"a": save_picture(tmp_path / "a.jpg", 1)})
            assert worker.wait(30.0) == STUCK
        assert "LOOKALIKE_STUCK_AFTER" in worker.log.read_text()


@pytest.mark.parametrize("how", ["full", "cancelled"])
def test_a_worker_that_takes_no_messages(tmp_path: Path, how: str) -> None:
    hurry = {"claim": 3.0, "grace": 3.0, "deaf": how}
    with group(tmp_path, hurry=hurry, grace=2.0) as service:
        service.start("index")
        service.ready()
        worker = service.workers.pop("index")
        with Producer(service.producer) as shop:
            shop.remove("nobody")
            assert worker.wait(30.0) == DEAF
        assert "nothing to do" in worker.log.read_text()
