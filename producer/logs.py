"""What processes log, and how: as text or as JSON, a line each, with the id of the job or lookup that it is about.

Secrets of addresses are taken out of every line, whoever wrote it: traces and other libraries included.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal

from producer.redaction import without_secrets

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]

QUIET = (
    "alembic",
    "celery.app.trace",
    "celery.worker.strategy",
    "httpx",
    "opentelemetry",
    "uvicorn",
)
"""Libraries of which only warnings are shown."""

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
"""What begins a line or is an order to a terminal; a tab does no harm."""

_about: ContextVar[str] = ContextVar("lookalike_about", default="")


@contextmanager
def about(id_: str | None) -> Iterator[None]:
    """Whatever is logged in the block, and in what carries its context, is about this job or lookup."""
    token = _about.set(id_ or "")
    try:
        yield
    finally:
        _about.reset(token)


def current() -> str:
    """What is logged now is about this job or lookup; empty for none."""
    return _about.get()


def configure(role: str, form: Format = "text", level: Level = "info") -> None:
    """Have this process log to stderr from now on. Whatever ends it is a line, too, where lines are JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(role) if form == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    if form == "json":
        logging.captureWarnings(capture=True)
        sys.excepthook = _uncaught
        threading.excepthook = _uncaught_in_thread


def say(message: str, *_: object) -> None:
    """Write a line at once, past every lock: fit for a handler of signals."""
    record = logging.LogRecord("lookalike", logging.INFO, "", 0, "%s", (message.strip(),), None)
    for each in logging.getLogger().handlers:
        os.write(2, f"{each.format(record)}\n".encode())


def is_json() -> bool:
    """Whether all that this process writes to stderr is to be JSON."""
    return any(isinstance(each.formatter, JsonLines) for each in logging.getLogger().handlers)


class TextLines(logging.Formatter):
    """For people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s%(about)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the trace below it: nothing in them looks like another line, or moves a terminal."""
        id_ = _id(record)
        record.about = f" [{id_}]" if id_ else ""
        return _CONTROL.sub(_visible, without_secrets(super().format(record)))


class JsonLines(logging.Formatter):
    """For machines: one object a line."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """The object."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": without_secrets(_message(record)),
            "role": self._role,
            "pid": record.process,
            "thread": record.threadName,
        }
        if id_ := _id(record):
            line["id"] = id_
        if record.exc_info:
            line["exception"] = without_secrets(self.formatException(record.exc_info))
        if record.stack_info:
            line["stack"] = without_secrets(record.stack_info)
        return json.dumps(line)


def _visible(control: re.Match[str]) -> str:
    return "\n  " if control[0] == "\n" else ascii(control[0])[1:-1]


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # a library's mistake must not cost the line
        return str(record.msg)


def _id(record: logging.LogRecord) -> str:
    """What the line is about. Celery's own lines on a task are written outside of it, and name it."""
    named = record.args.get("id") if isinstance(record.args, Mapping) else None
    id_ = _about.get() or (named if isinstance(named, str) else "")
    return id_ if id_.isprintable() else ""


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, Exception):
        logging.getLogger("lookalike").critical("it ends", exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        what = (args.exc_type, args.exc_value, args.exc_traceback)
        logging.getLogger("lookalike").error("a thread ends", exc_info=what)


def ids(all_: Collection[str]) -> str:
    """What is done for several at once is about all of them."""
    return ",".join(dict.fromkeys(each for each in all_ if each))
