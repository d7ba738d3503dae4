"""What real processes log: JSON lines, and on each that is about a job or a lookup its id."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import text

from db.session import Database
from migrations import upgrade
from producer import Producer
from producer.errors import LookalikeError
from producer.settings import ProducerSettings
from worker.heartbeat import beating

PASSWORD = "very-secret"
WAIT = 60.0


def until(done: Callable[[], bool]) -> None:
    ends = time.monotonic() + WAIT
    while not done():
        assert time.monotonic() < ends
        time.sleep(0.05)


class Running:
    """An index worker of its own, and what it logged."""

    def __init__(self, url: str, folder: Path, form: str) -> None:
        self.url, self.log = url, folder / "log"
        self.database = folder / "catalogue.db"
        upgrade(Database(f"sqlite:///{self.database}"))
        environment = os.environ | {
            "LOOKALIKE_REDIS_URL": url.replace("://", f"://default:{PASSWORD}@"),
            "LOOKALIKE_DATABASE_URL": f"sqlite:///{self.database}",
            "LOOKALIKE_DATA_DIR": str(folder),
            "LOOKALIKE_LOG_FORMAT": form,
        }
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "worker", "run", "index"],
                env=environment,
                stdout=out,
                stderr=out,
            )

    def break_catalogue(self) -> None:
        """So that whatever reads products fails as nobody expects."""
        database = Database(f"sqlite:///{self.database}")
        with database.writing() as session:
            for table in ("product", "dead_letter"):
                session.execute(text(f"ALTER TABLE {table} RENAME TO lost_{table}"))
        database.close()

    @property
    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(WAIT)


@contextmanager
def running(url: str, folder: Path, form: str) -> Iterator[tuple[Running, Producer]]:
    with Redis.from_url(url) as redis:
        redis.config_set("requirepass", "")
        redis.execute_command("ACL", "SETUSER", "default", "nopass")
        worker = Running(url, folder, form)
        until(lambda: bool(beating(redis)) or worker.process.poll() is not None)
    settings = ProducerSettings.model_validate({"redis_url": url})
    try:
        with Producer(settings) as shop:
            yield worker, shop
    finally:
        worker.stop()


def failed(worker: Running, shop: Producer) -> tuple[str, str]:
    """A job and a question that fail, by their ids."""
    worker.break_catalogue()
    (receipt,) = shop.remove("sku")
    with pytest.raises(LookalikeError):
        shop.status(WAIT)
    until(lambda: any(receipt.id in line and "failed" in line for line in worker.lines))
    asked = next(line for line in worker.lines if "question" in line)
    return receipt.id, asked.partition("question ")[2][:36]


def test_lines_of_a_failing_job_carry_its_id(empty_valkey_url: str, tmp_path: Path) -> None:
    with running(empty_valkey_url, tmp_path, "json") as (worker, shop):
        job, question = failed(worker, shop)
    lines: list[dict[str, Any]] = [json.loads(line) for line in worker.lines]
    assert {(line["role"], line["pid"]) for line in lines} == {("index", worker.process.pid)}
    assert {"time", "level", "logger", "message", "role", "pid"} <= set.intersection(
        *map(set, lines)
    )
    (of_job,) = (each for each in lines if each["message"] == f"job {job} failed")
    assert of_job["id"] == job
    assert "no such table" in of_job["exception"]
    assert all(each["id"] == question for each in lines if question in each["message"])
    about_nobody = [each for each in lines if "id" not in each]
    assert not any("failed" in each["message"] for each in about_nobody)
    assert PASSWORD not in worker.log.read_text()


def test_text_shows_the_id_too(empty_valkey_url: str, tmp_path: Path) -> None:
    with running(empty_valkey_url, tmp_path, "text") as (worker, shop):
        job, question = failed(worker, shop)
    assert any(f"ERROR worker.jobs [{job}]: job {job} failed" in line for line in worker.lines)
    assert any(f" worker.desk [{question}]: question" in line for line in worker.lines)
