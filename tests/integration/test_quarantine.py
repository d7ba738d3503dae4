"""Pictures that workers died with are tried in a process of its own; a real one, which dies as told."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from db.queries import catalogue, models
from db.queries.catalogue import NewEmbedding
from db.session import Database
from producer.messages import ImageItem, PathImage
from producer.reasons import Reason
from worker.errors import DeviceFailed
from worker.quarantine import Quarantine
from worker.settings import WorkerSettings

CHILD = """
import base64, hashlib, json, os, signal, sys, time
from multiprocessing.connection import Connection

connection = Connection(int(sys.argv[1]))
open("started", "a").write("x")
connection.send_bytes(b"ready")
while True:
    path = json.loads(connection.recv_bytes())["path"]
    if "kill" in path:
        os.kill(os.getpid(), signal.SIGKILL)
    if "exit" in path:
        sys.exit(7)
    if "hang" in path:
        time.sleep(60)
    if "gone" in path:
        answer = {"reason": "not_found", "detail": "no such file", "transient": False}
    else:
        vector = base64.b64encode(bytes.fromhex("0000803f")).decode()
        sha256 = hashlib.sha256(path.encode()).hexdigest()
        answer = {"sha256": sha256, "source": path, "vector": vector, "thumbnail": ""}
    connection.send_bytes(json.dumps(answer).encode())
"""


def items(*names: str) -> list[ImageItem]:
    """A picture of each product, at a path of its name."""
    return [
        ImageItem(product_id=each, image=PathImage(path=f"/{each}"), version=1) for each in names
    ]


@pytest.fixture
def quarantine(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Quarantine]:
    """One whose process is the script above."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "child.py").write_text(textwrap.dedent(CHILD))
    with sqlite_database.writing() as session:
        model = models.register(session, "d" * 64, "test", 1, {})
    settings = WorkerSettings(
        redis_url=SecretStr("redis://127.0.0.1:1/0"),
        fetch_timeout=0.3,
        decode_timeout=0.3,
        embed_timeout=0.4,
    )
    command = (sys.executable, str(tmp_path / "child.py"))
    with Quarantine(settings, sqlite_database, model.pk, command) as made:
        yield made


def starts(tmp_path: Path) -> int:
    """How many processes there were."""
    return len((tmp_path / "started").read_text())


def test_the_one_that_kills_is_refused_for_good_and_the_others_come_back(
    quarantine: Quarantine, tmp_path: Path
) -> None:
    prepared = quarantine.prepare(items("a", "kill", "b", "gone", "exit", "c"))
    assert [each.item.product_id for each in prepared.pictured] == ["a", "b", "c"]
    assert len(prepared.vectors) == len(prepared.thumbnails) == 3
    refused = {each.item.product_id: each.error for each in prepared.refused}
    assert refused["kill"].reason == refused["exit"].reason == Reason.WORKER_FAILED
    assert "signal 9" in refused["kill"].detail
    assert "exit code 7" in refused["exit"].detail
    assert refused["gone"].reason == Reason.NOT_FOUND
    assert not any(error.transient for error in refused.values())
    assert starts(tmp_path) == 3


def test_one_that_hangs_is_refused_in_time(quarantine: Quarantine) -> None:
    prepared = quarantine.prepare(items("hang", "a"))
    assert [each.item.product_id for each in prepared.pictured] == ["a"]
    assert "not done in 1 s" in prepared.refused[0].error.detail


def test_one_process_serves_several_chunks_until_it_is_let_go(
    quarantine: Quarantine, tmp_path: Path
) -> None:
    quarantine.prepare(items("a"))
    quarantine.prepare(items("b"))
    assert starts(tmp_path) == 1
    quarantine.close()
    quarantine.prepare(items("c"))
    assert starts(tmp_path) == 2


def test_what_has_a_vector_already_is_not_new(
    quarantine: Quarantine, sqlite_database: Database
) -> None:
    first = quarantine.prepare(items("a"))
    ((digest, _),) = first.vectors.items()
    with sqlite_database.writing() as session:
        catalogue.add_embeddings(session, 1, [NewEmbedding(digest, 1, b"\0\0\x80?")])
    again = quarantine.prepare(items("a"))
    assert (len(again.pictured), again.vectors, again.thumbnails) == (1, {}, {})


def test_a_process_that_does_not_come_up_is_nobodys_fault(
    quarantine: Quarantine, tmp_path: Path
) -> None:
    (tmp_path / "child.py").write_text("raise SystemExit(3)")
    with pytest.raises(DeviceFailed, match="exit code 3"):
        quarantine.prepare(items("a"))
