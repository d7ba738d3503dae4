"""The `lookalike` command on a real server: output, exit codes and errors."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from producer import ItemFailure, Outcome, Producer, Reason
from producer.cli.commands import run
from producer.messages import Failure, GenerationStatus, IngestChunk, Queue, WorkerStatus
from tests.fake_worker import TINY_JPEG, FakeWorker, match, reply, take, take_all


@pytest.fixture
def redis(
    empty_valkey_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Redis]:
    monkeypatch.setenv("LOOKALIKE_REDIS_URL", empty_valkey_url)
    monkeypatch.chdir(tmp_path)
    with Redis.from_url(empty_valkey_url) as client:
        yield client


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    folder = tmp_path / "shelf"
    for name in ("dress/1.jpg", "dress/2.jpg", "shoe/3.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(TINY_JPEG)
    return folder


def added(redis: Redis) -> list[Any]:
    return [item for job in take_all(redis, Queue.INGEST) for item in job.items]  # type: ignore[attr-defined]


def worker(redis: Redis) -> FakeWorker:
    matches = [match("b", 0.5, category="dress"), match("\x1b[31mc", 1.0)]
    return FakeWorker(redis, {"a": matches, "b": [match("a")]})


def test_a_product_with_several_pictures(
    redis: Redis, shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["add", "sku", "shelf/dress/1.jpg", "https://cdn.example/2.jpg"]
    assert run([*arguments, "-c", "dress", "-a", "price=49.0", "-a", "in_stock=true"]) == 0
    first, second = added(redis)
    assert (first.name, second.name) == ("main", "2")
    assert first.image.path == str(shelf / "dress/1.jpg")
    assert second.image.url == "https://cdn.example/2.jpg"
    assert first.category == second.category == "dress"
    assert first.attributes == {"price": 49.0, "in_stock": True}
    assert "2 pictures accepted" in capsys.readouterr().err


def test_a_folder_and_a_csv_and_json_lines(redis: Redis, shelf: Path, tmp_path: Path) -> None:
    assert run(["add", "--from", "shelf"]) == 0
    assert {(item.product_id, item.category) for item in added(redis)} == {
        ("1", "dress"),
        ("2", "dress"),
        ("3", "shoe"),
    }
    (shelf / "shop.csv").write_text("product_id,image,price\n1,dress/1.jpg,5\n")
    assert run(["add", "--from", "shelf/shop.csv", "-c", "new", "-a", "price=1", "-a", "x=2"]) == 0
    (item,) = added(redis)
    assert item.image.path == str(shelf / "dress/1.jpg")
    assert (item.category, item.attributes) == ("new", {"price": 5, "x": 2})
    (tmp_path / "shop.jsonl").write_text('{"product_id": "1", "image": "shelf/dress/1.jpg"}\n')
    assert run(["add", "--from", "shop.jsonl", "--upload"]) == 0
    (item,) = added(redis)
    assert item.image.kind == "bytes"


def test_adding_can_wait_and_lists_what_failed(
    redis: Redis, shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crew = worker(redis)
    with crew.working():
        assert run(["add", "--from", "shelf", "--wait", "--timeout", "20"]) == 0
        assert "3 pictures applied" in capsys.readouterr().err
        failure = ItemFailure(
            product_id="2", name="main", reason=Reason.CORRUPT_IMAGE, detail="cut short"
        )
        crew.outcome = lambda _: Outcome(applied=2, failures=(failure,))
        assert run(["add", "--from", "shelf", "--wait", "--timeout", "20"]) == 1
        out, err = capsys.readouterr()
        assert "corrupt_image" in out
        assert "cut short" in out
        assert "2 pictures applied, 1 failed" in err
        assert run(["add", "--from", "shelf", "--wait", "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert (shown["accepted"], shown["applied"]) == (3, 2)
    assert shown["failures"][0]["reason"] == "corrupt_image"


def test_waiting_for_nobody_ends_in_time(
    redis: Redis, shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["add", "--from", "shelf", "--wait", "--timeout", "0.05"]) == 1
    assert "3 of 3 items are accepted and not applied" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["add"], "give a SKU and its pictures, or --from"),
        (["add", "sku"], "give a SKU and its pictures"),
        (["add", "sku", "a.jpg", "--from", "shelf"], "not both"),
        (["add", "sku", "nowhere.jpg"], "no such picture: nowhere.jpg; nothing was sent"),
        (["add", "sku", "ftp://bucket/a.jpg"], "ftp: addresses are not fetched"),
        (["add", "--from", "nowhere.csv"], "nowhere.csv: No such file"),
        (["add", "--from", "bad.csv"], "bad.csv:1: no column 'product_id'"),
        (["add", "--from", "gone.csv"], "gone.csv:2: no such picture: "),
        (["add", "--from", "gone.csv"], "(and 1 more; --skip-missing leaves them out)"),
        (["add", "--from", "long.csv"], "long.csv:3: a product id must have 1 to 255 characters"),
        (["add", "sku", "shelf/dress/1.jpg", "-a", "price"], "KEY=VALUE"),
        (["similar"], "give a product id or --image"),
        (["similar", "--dislike", "a"], "give a product id or --image"),
        (["similar", "a", "--dislike", "a"], "product 'a' is both liked and disliked"),
        (["similar", "a", "--min-similarity", "80"], "a cosine (0.8 is 80%) from -1 to 1, not 80"),
        (["similar", "a", "--at-most", "brand"], "write KEY=NUMBER, such as brand=2"),
        (["gallery", "a", "--out", "page.html", "--collapse", "3"], "from 0 to 2, not 3.0"),
        (["similar", "a", "--where", "name~=x"], "KEY<=NUMBER"),
        (["similar", "a", "--limit", "0"], "from 1 to 1000, not 0"),
        (["similar", "a", "--limit", "-1"], "not -1"),
        (["similar", "a", "--limit", "1000000000"], "not 1000000000"),
        (["similar", "a", "--limit", "many"], "see `lookalike similar --help`"),
        (["similar", "a", "--where", "price"], "'price' is no condition"),
        (["similar", "a", "-c", "x", "-w", "category=y"], "not by both"),
        (["similar", "--image", "nowhere.jpg"], "cannot read picture 'nowhere.jpg'"),
        (["gallery", "a", "--out", "no/such/folder.html"], "does not exist"),
        (["gallery", "a"], "--out"),
        (["remove"], "Missing argument"),
        (["remove", ""], "1 to 255 characters, not 0"),
        (["bogus"], "No such command 'bogus'"),
        (["similar", "a", "--bogus"], "--bogus"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    *,
    redis: Redis,
    shelf: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    (tmp_path / "bad.csv").write_text("sku,image\n1,a.jpg\n")
    (tmp_path / "gone.csv").write_text("product_id,image\n1,a.jpg\n2,shelf/dress/2.jpg\n3,c.jpg\n")
    (tmp_path / "long.csv").write_text(f"product_id,image\n1,shelf/dress/1.jpg\n{'x' * 256},a\n")
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err
    assert not redis.keys()
    assert run([*arguments, "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["exit_code"] == 2


def test_rows_without_a_picture_can_be_left_out(
    redis: Redis, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone.csv").write_text("product_id,image\n1,a.jpg\n2,shelf/dress/2.jpg\n")
    assert run(["add", "--from", "gone.csv", "--skip-missing"]) == 0
    assert [item.product_id for item in added(redis)] == ["2"]
    assert "1 row left out (no such picture): gone.csv:2\n" in capsys.readouterr().err
    rows = "".join(f"{number},{number}.jpg\n" for number in range(5))
    (tmp_path / "gone.csv").write_text(f"product_id,image\n{rows}")
    assert run(["add", "--from", "gone.csv", "--skip-missing"]) == 0
    says = "5 rows left out (no such picture): gone.csv:2, gone.csv:3, gone.csv:4 and 2 more"
    assert says in capsys.readouterr().err
    assert run(["add", "a", "nowhere.jpg", "--skip-missing", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"accepted": 0, "jobs": [], "skipped": ["nowhere.jpg"]}
    assert err == ""


def test_similar_shows_a_table_or_json(
    redis: Redis, shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with worker(redis).working():
        assert run(["similar", "a", "-c", "dress", "-w", "price<50"]) == 0
        out, err = capsys.readouterr()
        assert "87.5%" in out
        assert "\x1b" not in out
        assert "index generation 3, as of revision 12, 1 change pending" in err
        assert run(["similar", "--image", "shelf/dress/1.jpg", "--json", "-q"]) == 0
        out, err = capsys.readouterr()
        assert (
            json.loads(out)["matches"][0] | {"similarity": 0.875} == json.loads(out)["matches"][0]
        )
        assert err == ""


def test_several_products_and_pictures_make_one_table(
    redis: Redis, shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with worker(redis).working():
        assert run(["similar", "a", "b", "--limit", "5", "--at-most", "brand=1"]) == 0
        out, err = capsys.readouterr()
        assert "50.0%" in out
        assert "dress" not in out  # b is one of those that are liked
        assert err.startswith("1 of 5: --at-most brand=1 leaves no more\n")
        picture = ["--dislike-image", "shelf/dress/1.jpg"]
        assert run(["similar", "a", "--dislike", "b", *picture, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["matches"][0]["product_id"] == "by-picture"
        for arguments in (["a", "--dislike", "nowhere"], ["nowhere", "-i", "shelf/dress/1.jpg"]):
            assert run(["similar", *arguments]) == 1
            assert "product 'nowhere' is not in the catalogue" in capsys.readouterr().err


def test_a_taste_can_be_read_later(redis: Redis, capsys: pytest.CaptureFixture[str]) -> None:
    lookups = []
    for arguments in (["a", "b"], ["a", "x", "y"]):
        assert run(["similar", *arguments, "--no-wait"]) == 0
        lookups.append(capsys.readouterr().out.strip())
    with worker(redis).working():
        assert run(["result", lookups[0], "--timeout", "10"]) == 0
        assert "50.0%" in capsys.readouterr().out
        assert run(["result", lookups[1], "--timeout", "10"]) == 1
        assert "product 'x' is not in the catalogue" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["similar", "lonely"], ": there is no other product in the catalogue"),
        (
            ["similar", "lonely", "-c", "dress", "-w", "price<5"],
            ": no other product satisfies price<5, category=dress",
        ),
        (["similar", "--image", "shelf/dress/1.jpg"], ": the catalogue is empty"),
        (["similar", "-i", "shelf/dress/1.jpg", "-w", "a=1"], ": no product satisfies a=1"),
    ],
)
def test_no_matches_are_explained(
    *,
    redis: Redis,
    shelf: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    empty = reply(None).model_copy(update={"path": "none"})
    monkeypatch.setattr(
        "tests.fake_worker.reply", lambda about, _: empty.model_copy(update={"product_id": about})
    )
    with FakeWorker(redis, {"lonely": []}).working():
        assert run(arguments) == 0
    assert capsys.readouterr().out == f"no product looks like this{says}\n"


def test_what_has_no_reply_fails_with_its_reason(
    redis: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with worker(redis).working():
        assert run(["similar", "nowhere"]) == 1
        assert "product 'nowhere' is not in the catalogue" in capsys.readouterr().err
        assert run(["similar", "--image", "notes.txt", "--json"]) == 1
        error = json.loads(capsys.readouterr().err)["error"]
        assert (error["type"], error["reason"]) == ("PictureRejected", "unsupported_format")
    assert run(["similar", "a", "--timeout", "0.02"]) == 1
    assert "still queued after 0.02 s" in capsys.readouterr().err


def test_a_lookup_can_be_read_later(redis: Redis, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["similar", "a", "--no-wait"]) == 0
    lookup = capsys.readouterr().out.strip()
    assert run(["result", lookup]) == 1
    assert "still queued" in capsys.readouterr().err
    with worker(redis).working():
        assert run(["result", lookup, "--timeout", "10"]) == 0
    assert "dress" in capsys.readouterr().out
    assert run(["result", "nonsense"]) == 1
    assert "no lookup 'nonsense' was asked here" in capsys.readouterr().err


def test_a_batch_can_be_read_too(redis: Redis, capsys: pytest.CaptureFixture[str]) -> None:
    with Producer.from_env() as shop, worker(redis).working():
        lookup = shop.find_similar_many(["a", "b", "nowhere"])
        lookup.result(10)
    assert run(["result", lookup.id]) == 0
    out, err = capsys.readouterr()
    assert "87.5%" in out
    assert "not in the catalogue: nowhere" in err
    assert run(["result", lookup.id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["not_found"] == ["nowhere"]


def test_removing(redis: Redis, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["remove", "a", "b"]) == 0
    assert "2 removals accepted" in capsys.readouterr().err
    assert run(["remove", "a"]) == 0
    assert "1 removal accepted" in capsys.readouterr().err
    with worker(redis).working():
        assert run(["remove", "c", "--wait", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["applied"] == 1
        assert run(["remove", "c", "--wait"]) == 0
        assert "1 product is not in the catalogue any more" in capsys.readouterr().err
        assert run(["remove", "c", "d", "--wait"]) == 0
        assert "2 products are not in the catalogue any more" in capsys.readouterr().err


def test_status_shows_queues_also_when_no_worker_answers(
    redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    with Producer.from_env() as shop:
        shop.add("a", "/a.jpg")
    assert run(["status", "--timeout", "0.02"]) == 1
    out = capsys.readouterr().out
    assert "ingest" in out
    assert "lookalike-worker up" in out
    with worker(redis).working():
        assert run(["status", "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert set(shown["queues"]) == {"ingest", "query", "lookup", "index", "control"}
        assert shown["service"]["products"] == 2
        assert run(["status"]) == 0
    assert "2 not_found; see `lookalike-worker dead`" in capsys.readouterr().out


def test_status_says_who_is_missing_and_what_failed(
    redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    crew = worker(redis)
    crew.workers = tuple(
        WorkerStatus(role=role, host=host, pid=1, started_at=0.0)
        for role, host in (("embed", "h1"), ("embed", "h2"), ("search", "h1"), ("index", "h1"))
    )
    crew.rebuild_failure = "no space left"
    with crew.working():
        assert run(["status"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"embed +2 +h1, h2 +1970-01-01 00:00 UTC", out)
    assert "no worker of: query, beat" in out
    assert "the last rebuild failed: no space left" in out


def test_status_says_that_a_rollback_pinned_the_index(
    redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    crew = worker(redis)
    built = GenerationStatus(
        number=3, revision=12, images=40, built_at=datetime.now(UTC), recall=0.99, pinned=True
    )
    says = "generation 3 is pinned by a rollback; `lookalike-worker reindex` goes on from here"
    with crew.working():
        for pinned in (True, False):
            crew.generation = built.model_copy(update={"pinned": pinned})
            assert run(["status"]) == 0
            out = capsys.readouterr().out
            assert "generation 3, 40 pictures, recall 0.990" in out
            assert (says in " ".join(out.split())) is pinned
            assert run(["status", "--json"]) == 0
            shown = json.loads(capsys.readouterr().out)
            assert shown["service"]["generation"]["pinned"] is pinned


def test_status_shows_the_queues_also_when_the_service_fails(
    redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    crew = worker(redis)
    crew.failure = Failure(reason=Reason.UNAVAILABLE, detail="no database")
    with crew.working():
        assert run(["status", "--timeout", "10"]) == 1
    out = capsys.readouterr().out
    assert "ingest" in out
    assert "no database (unavailable)" in out


def test_a_watch_shows_errors_and_goes_on(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = [2]

    def sleep(_: float) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr("producer.cli.overview.time.sleep", sleep)
    monkeypatch.setenv("LOOKALIKE_REDIS_URL", "redis://127.0.0.1:1/0")
    assert run(["status", "--watch"]) == 130
    assert capsys.readouterr().out.count("cannot be used") == 2


def test_waiting_for_nobody_is_noted_once(
    redis: Redis,
    shelf: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("producer.cli.stall.AFTER", 0.1)
    note = "nothing was applied for 0.1 s; see `lookalike status`"
    assert run(["add", "--from", "shelf", "--wait", "--timeout", "0.8"]) == 1
    assert capsys.readouterr().err.count(note) == 1
    assert run(["remove", "a", "--wait", "--timeout", "0.8"]) == 1
    assert capsys.readouterr().err.count(note) == 1


def test_removing_can_fail_when_full(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOOKALIKE_MAX_BACKLOG", "1")
    assert run(["remove", "a"]) == run(["remove", "b"]) == 0
    assert run(["remove", "c", "--fail-when-full"]) == 1
    assert "LOOKALIKE_MAX_BACKLOG" in capsys.readouterr().err


@pytest.mark.parametrize("length", [300, 5000])
def test_a_path_that_is_too_long_is_named_by_its_line(
    redis: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str], length: int
) -> None:
    (tmp_path / "long.csv").write_text(f"product_id,image\n1,{'x' * length}.jpg\n")
    for arguments in ([], ["--upload"]):
        assert run(["add", "--from", "long.csv", *arguments]) == 2
        assert "long.csv:2: " in capsys.readouterr().err
    assert run(["add", "--from", "x" * length]) == 2


def test_uploads_are_read_as_they_are_sent(
    redis: Redis, shelf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOOKALIKE_MAX_BACKLOG", "1")
    monkeypatch.setenv("LOOKALIKE_CHUNK_SIZE", "1")
    for number in range(40):
        (shelf / f"more-{number:02}.jpg").write_bytes(TINY_JPEG)
    read: list[Path] = []

    def reading(path: Path) -> bytes:
        read.append(path)
        return path.read_bytes()

    monkeypatch.setattr("producer.cli.adding.read_bytes", reading)
    assert run(["add", "--from", "shelf", "--upload", "--fail-when-full"]) == 1
    assert len(read) <= 16
    assert "1 picture accepted before this" in capsys.readouterr().err


def test_a_gallery_is_one_page(
    redis: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with worker(redis).working():
        assert run(["gallery", "a", "b", "nowhere", "--out", "page.html", "--title", "T<1>"]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "T&lt;1&gt;" in page
    assert page.count("<section>") == 2
    assert page.count("data:image/jpeg") == 5
    assert "not in the catalogue: nowhere" in capsys.readouterr().err


def test_a_gallery_of_one_product_and_of_none(
    redis: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with worker(redis).working():
        assert run(["gallery", "a", "--out", "one.html"]) == 0
        assert "one.html: 1 product\n" in capsys.readouterr().err
        assert run(["gallery", "x", "y", "--out", "none.html"]) == 1
        says = "error: none of these products is in the catalogue: x, y\n"
        assert capsys.readouterr().err == says
        assert run(["gallery", "x", "--out", "none.html"]) == 1
        assert "error: product 'x' is not in the catalogue" in capsys.readouterr().err
    assert not (tmp_path / "none.html").exists()


def test_a_server_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOOKALIKE_REDIS_URL", "redis://:s3cret@127.0.0.1:1/0")
    for arguments in (["status"], ["similar", "a"], ["remove", "a"]):
        assert run(arguments) == 1
        err = capsys.readouterr().err
        assert "LOOKALIKE_REDIS_URL" in err
        assert "s3cret" not in err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["add", "--help"], ["--version"]):
        assert run(arguments) == 0
        assert "lookalike" in capsys.readouterr().out


def test_ctrl_c_ends_cleanly_and_loses_nothing(redis: Redis) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "producer.cli", "add", "a", "https://cdn.example/a.jpg", "--wait"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    job = None
    while job is None:
        assert process.poll() is None
        job = take(redis, Queue.INGEST)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.endswith("interrupted\n")
    assert isinstance(job, IngestChunk)


def test_a_reader_that_has_seen_enough_is_no_error(redis: Redis) -> None:
    ran = subprocess.run(
        f"{sys.executable} -m producer.cli status --timeout 0 --json | true",
        shell=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert "Traceback" not in ran.stderr
