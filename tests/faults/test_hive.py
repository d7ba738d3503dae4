"""Workers of a hive are real ones: they start, work, die and pause as `lookalike-worker run` does, only sooner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from db.session import Database
from migrations import upgrade
from producer import Producer
from producer.settings import ProducerSettings
from tests.faults.hive import GROUP, ROOT, Hive, HiveError
from tests.stack import save_picture, stack_settings
from worker.settings import WorkerSettings


@pytest.fixture
def settings(tmp_path: Path, empty_valkey_url: str) -> WorkerSettings:
    """Settings of a service with a migrated catalogue."""
    found = stack_settings(tmp_path / "data", redis_url=SecretStr(empty_valkey_url))
    found.data_dir.mkdir()
    database = Database(found.database)
    upgrade(database)
    database.close()
    return found


@pytest.fixture(scope="module")
def hive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hive]:
    """A hive of these tests."""
    with Hive(tmp_path_factory.mktemp("hive")) as found:
        yield found


def test_a_service_starts_works_dies_and_starts_again(
    hive: Hive, settings: WorkerSettings, tmp_path: Path
) -> None:
    began = time.monotonic()
    first = hive.start_group(settings)
    assert [worker.role for worker in first] == list(GROUP)
    with Producer(ProducerSettings(redis_url=settings.redis_url)) as shop:
        _add(shop, tmp_path, "a", 1)
        assert [worker.kill() for worker in first] == [-signal.SIGKILL] * len(GROUP)
        assert not any(worker.alive for worker in first)
        second = hive.start_group(settings)
        _add(shop, tmp_path, "b", 2)
        reply = shop.find_similar("b").result(30)
        assert [match.product_id for match in reply.matches] == ["a"]
    assert all(worker.terminate() for worker in second)
    assert [worker.wait() for worker in second] == [0] * len(GROUP)
    assert "Warm shutdown" in second[0].last_words()
    assert time.monotonic() - began < 30  # about six seconds when nothing else runs


def _add(shop: Producer, folder: Path, product_id: str, seed: int) -> None:
    shop.add(product_id, save_picture(folder / f"{product_id}.jpg", seed))
    _until(lambda: shop.backlog() == 0)


def _until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def note(path: str, text: str) -> None:
    """What a test has a worker do before it runs."""
    Path(path).write_text(f"{text} {os.environ['LOOKALIKE_MODEL']}")


@contextmanager
def noting(path: str) -> Iterator[None]:
    """What a test has a worker run within."""
    try:
        yield
    finally:  # a clock that is told to stop before it runs leaves by SystemExit
        Path(path).write_text("left")


def test_what_a_test_installs_is_there_before_the_worker_runs(
    hive: Hive, settings: WorkerSettings, tmp_path: Path
) -> None:
    path = tmp_path / "note"
    before = "tests.faults.test_hive:note"
    worker = hive.start(
        "search", settings, before=before, arguments={"path": str(path), "text": "hello"}
    )
    hive.wait_ready([worker])
    assert path.read_text() == f"hello {settings.model}"


def test_a_worker_runs_within_what_a_test_installs(
    hive: Hive, settings: WorkerSettings, tmp_path: Path
) -> None:
    path = tmp_path / "note"
    before = "tests.faults.test_hive:noting"
    worker = hive.start("beat", settings, before=before, arguments={"path": str(path)})
    hive.wait_ready([worker])
    assert not path.exists()
    worker.terminate()
    assert worker.wait() == 0
    assert path.read_text() == "left"


def test_a_worker_pauses_and_goes_on(hive: Hive, settings: WorkerSettings) -> None:
    worker = hive.start("search", settings)
    hive.wait_ready([worker])
    worker.stop_signal()
    _until(lambda: _state(worker.pid) == "T")
    worker.terminate()
    worker.cont()
    assert worker.wait() == 0


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_worker_that_cannot_start_says_why(hive: Hive, settings: WorkerSettings) -> None:
    worker = hive.start("embed", settings.with_(model="no-such-model"))
    with pytest.raises(HiveError, match="no-such-model"):
        hive.wait_ready([worker])
    assert worker.wait() == 1
    assert not worker.send(signal.SIGTERM)


def add(a: int, b: int) -> dict[str, int]:
    """What a test has a fork do."""
    return {"sum": a + b, "pid": os.getpid()}


def test_a_call_gives_its_result_or_fails(hive: Hive) -> None:
    first, second = (hive.call("tests.faults.test_hive:add", a=2, b=b) for b in (3, 4))
    assert second.result() == {"sum": 6, "pid": second.pid}
    assert first.result() == {"sum": 5, "pid": first.pid}
    with pytest.raises(HiveError, match=r"add .* ended with 1:(.|\n)*TypeError"):
        hive.call("tests.faults.test_hive:add", a=2).result()


def test_none_outlives_its_hive(settings: WorkerSettings, tmp_path: Path) -> None:
    with Hive(tmp_path / "hive") as hive:
        workers = [hive.start(role, settings) for role in ("search", "beat")]
        workers[0].stop_signal()
    assert [worker.code for worker in hive.workers] == [-signal.SIGKILL] * 2
    assert not any(_is_alive(worker.pid) for worker in workers)


def test_none_outlives_the_process_that_had_the_hive(
    settings: WorkerSettings, tmp_path: Path
) -> None:
    test = subprocess.Popen(
        [sys.executable, "-c", _TEST, str(tmp_path / "hive")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | settings.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert test.stdout is not None
    pids = [int(pid) for pid in test.stdout.readline().split()]
    test.stdout.close()
    assert len(pids) == 3
    test.kill()
    test.wait()
    _until(lambda: not any(_is_alive(pid) for pid in pids))


_TEST = """
import sys, time
from pathlib import Path
from producer.settings import load
from tests.faults.hive import Hive
from worker.settings import WorkerSettings
with Hive(Path(sys.argv[1])) as hive:
    workers = hive.start_group(load(WorkerSettings), roles=["index", "beat"])
    print(hive._process.pid, *[worker.pid for worker in workers], flush=True)
    time.sleep(600)
"""


def _is_alive(pid: int) -> bool:
    """Whether it runs; a zombie, which waits for somebody to ask how it ended, does not."""
    try:
        return _state(pid) != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
