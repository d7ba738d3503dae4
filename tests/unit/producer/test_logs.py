"""What a line of the log says, in both formats."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from producer import logs
from producer.gateway.journal import Logged
from worker.carrying import CarryingExecutor
from worker.courtesy import aside

SECRET = "redis://:hunter2@shop:6379/0?token=hunter2"
ID = "01990000-0000-7000-8000-000000000000"


@pytest.fixture(params=["text", "json"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def written(form: str) -> Iterator[io.StringIO]:
    """What the root logger writes while the test runs."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logs.JsonLines("search") if form == "json" else logs.TextLines())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield out
    root.removeHandler(handler)
    root.setLevel(level)


log = logging.getLogger("worker.jobs")


def test_a_line_says_when_who_and_about_what(written: io.StringIO, form: str) -> None:
    with logs.about(ID):
        log.warning("it is %s", "late")
    log.warning("nobody's")
    first, second = written.getvalue().splitlines()
    if form == "text":
        assert first.endswith(f" WARNING worker.jobs [{ID}]: it is late")
        assert second.endswith(" WARNING worker.jobs: nobody's")
        return
    line = json.loads(first)
    assert line.pop("time").endswith("+00:00")
    assert line.pop("pid") > 0
    assert line == {
        "level": "warning",
        "logger": "worker.jobs",
        "message": "it is late",
        "role": "search",
        "thread": "MainThread",
        "id": ID,
    }
    assert "id" not in json.loads(second)


def test_no_secret_is_in_it_neither_in_a_trace(written: io.StringIO, form: str) -> None:
    try:
        int(SECRET)
    except ValueError:
        log.exception("cannot use %s", SECRET, stack_info=True)
    assert "hunter2" not in written.getvalue()
    assert "ValueError" in written.getvalue()
    if form == "json":
        (line,) = written.getvalue().splitlines()
        assert "Traceback" in json.loads(line)["exception"]


def test_a_line_of_json_is_one_line_whatever_is_in_it() -> None:
    # Not logged: what pytest captures of a lone surrogate cannot be told by one process to another.
    message = "a\nb\u2028c\ud800\x1b[0m %s"
    record = logging.LogRecord("x", logging.INFO, "", 1, message, ({"no": "matter"},), None)
    line = logs.JsonLines("embed").format(record)
    assert len(line.splitlines()) == 1
    assert json.loads(line)["message"].startswith("a\nb\u2028c")


@pytest.mark.parametrize("form", ["text"], indirect=True)
def test_nobody_writes_a_line_of_text_by_what_is_in_another(written: io.StringIO) -> None:
    forged = "2026-01-01 00:00:00,000 ERROR worker.jobs: forged"
    error = ValueError(f"a\n{forged}")
    log.error("because\n%s\r%s\x1b[2J\x9b0m\u2028\tend", forged, forged, exc_info=error)
    first, *others = written.getvalue().removesuffix("\n").split("\n")
    assert first.endswith("ERROR worker.jobs: because")
    assert others[0] == f"  {forged}\\r{forged}\\x1b[2J\\x9b0m\\u2028\tend"
    assert all(each.startswith("  ") for each in others)
    assert f"  {forged}" in others[1:]


def test_a_mistake_in_what_is_logged_does_not_cost_the_line() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 1, "%d of %d", ("one",), None)
    assert json.loads(logs.JsonLines("embed").format(record))["message"] == "%d of %d"


def test_what_celery_says_of_a_task_is_about_it(written: io.StringIO) -> None:
    log.error("Task %(name)s[%(id)s] failed", {"name": "x", "id": ID})
    log.error("Task %(name)s[%(id)s] failed", {"name": "x", "id": "forged\nline"})
    lines = [line for line in written.getvalue().splitlines() if "failed" in line]
    assert ID in lines[0].replace(f"x[{ID}]", "")


def test_threads_that_help_are_about_the_same() -> None:
    with CarryingExecutor(1) as carrying, ThreadPoolExecutor(1) as plain:
        with logs.about(ID):
            assert list(carrying.map(lambda _: logs.current(), range(2))) == [ID, ID]
            assert plain.submit(logs.current).result() == ""
            assert aside(logs.current) == ID
        assert carrying.submit(logs.current).result() == ""
    assert logs.current() == ""


def test_a_batch_is_about_all_that_it_is_for() -> None:
    assert logs.ids(["a", "", "b", "a"]) == "a,b"


ENDS = """
import threading, warnings
from producer import logs
logs.configure("embed", "json")
threading.Thread(target=lambda: 1 / 0, name="helper").start()
warnings.warn("careful")
raise OSError("redis://:hunter2@shop")
"""


def test_what_ends_a_process_is_json_too() -> None:
    ran = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert {line["role"] for line in lines} == {"embed"}
    assert sorted(line["level"] for line in lines) == ["critical", "error", "warning"]
    assert "hunter2" not in ran.stderr


# -- the gateway's requests -----------------------------------------------------------------------


def requested(method: str, path: str, status: int, **headers: str) -> None:
    """Let a request pass through."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        logging.getLogger("producer.gateway").debug("at it")
        named = [(name.encode(), value.encode()) for name, value in headers.items()]
        if status:
            await send({"type": "http.response.start", "status": status, "headers": named})

    async def send(_message: Any) -> None:
        """To nobody."""

    scope: Any = {"type": "http", "method": method, "path": path, "query_string": b"key=hunter2"}
    asyncio.run(Logged(app)(scope, None, send))  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["json"], indirect=True)
@pytest.mark.parametrize(
    ("request_", "level", "id_"),
    [
        (("POST", "/lookups", 202, f"/lookups/{ID}"), "info", ID),
        (("POST", "/products", 202, f"/jobs/{ID}"), "info", ID),
        (("GET", f"/lookups/{ID}", 200, ""), "debug", ID),
        (("GET", f"/lookups/{ID}/events", 200, ""), "debug", ID),
        (("GET", f"/lookups/{ID}", 404, ""), "info", ID),
        (("GET", "/health", 503, ""), "warning", None),
        (("DELETE", "/products/x\n\x1b[0m", 0, ""), "warning", None),
        (("A." * 15_000, "/" * 1000, 405, ""), "info", None),
    ],
    ids=["asks", "adds", "polls", "listens", "is refused", "fails", "is given up", "is long"],
)
def test_a_request_is_a_line_with_what_it_is_about(
    written: io.StringIO, request_: tuple[str, str, int, str], level: str, id_: str | None
) -> None:
    method, path, status, location = request_
    requested(method, path, status, **({"location": location} if location else {}))
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    (line,) = (each for each in lines if each["logger"] == "producer.gateway.journal")
    assert (line["level"], line.get("id")) == (level, id_)
    assert line["message"].startswith(f"{method} {path[:12]}"[:16])
    assert len(line["message"]) < 300
    assert "\n" not in line["message"]
    assert "hunter2" not in written.getvalue()
