"""Crash points: where a process may die between two things that should happen together.

There is one before and one after every commit, publication, acknowledgement, write to the ledger, fsync and
rename. Nothing in the product marks them, so they cost it nothing: they are the calls themselves. `points` reads
their names out of the source, and `armed` puts itself around what all those calls end in (a transaction's commit,
Celery's `send_task`, kombu's `ack`, `os.fsync` …) and knows by the stack which of them it is.
"""

from __future__ import annotations

import ast
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("producer", "db", "worker", "migrations")
NOT_OF_THE_SERVICE = ("worker/demo/", "worker/evaluation/", "worker/training/")
"""Shows the service, judges a copy of its vectors, and trains aside; no worker waits for what these write."""
CHOKES = frozenset({"db.session", "producer.broker", "worker.index.durable"})
"""Modules through which others commit, publish and sync: the point is named after whoever calls them."""
_FRAMES = ("<lambda>", "<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>")

_CALLS = {
    "writing": "commit",
    "migrating": "commit",
    "send_task": "publish",
    "send": "publish",
    "commit": "commit",
    "apply_async": "publish",
    "delay": "publish",
    "fsync": "fsync",
    "rename": "rename",
    "replace": "rename",
    "_begin": "ledger",
    "_renew": "ledger",
    "_give_back": "ledger",
    "_clear": "ledger",
}
_DURABLE = frozenset({"write", "sync_file", "sync_folder"})
_NOT_POINTS = frozenset(
    {
        # Calls of the same names that do something else: their own points are inside.
        "publish in producer.cli.commands.add",
        "publish in worker.audit.repair.Repairer._mend_block",
        "publish in worker.audit.requeue.Requeue.send",
        "publish in worker.letters.requeue",
        "publish in producer.transport.RedisTransport.accept",
    }
)
ACKNOWLEDGE = "acknowledge in celery"


@dataclass(frozen=True, order=True)
class Point:
    """One place to die at."""

    name: str
    """What happens, and in which function."""
    after: bool

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'} {self.name}"


# -- by the source --------------------------------------------------------------------------------


def points() -> frozenset[Point]:
    """Every crash point of the product."""
    names = {ACKNOWLEDGE}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            where = path.relative_to(ROOT).as_posix()
            if not where.startswith(NOT_OF_THE_SERVICE):
                names |= set(_named(path, where.removesuffix(".py").replace("/", ".")))
    names -= _NOT_POINTS
    return frozenset(Point(name, after) for name in names for after in (False, True))


def _named(path: Path, module: str) -> Iterator[str]:
    module = module.removesuffix(".__init__")
    if module not in CHOKES:
        visitor = Visitor(module)
        visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
        yield from visitor.names


class Visitor(ast.NodeVisitor):
    """Collects the calls of a module that are crash points, named as a frame would name them."""

    def __init__(self, module: str) -> None:
        self.names: set[str] = set()
        self._module = module
        self._scope: list[str] = []

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._within(node, node.name)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._within(node, node.name)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """What a lambda does is done by whoever calls it."""

    def visit_Await(self, node: ast.Await) -> None:
        """What is awaited is an answer over HTTP: whoever publishes, commits or syncs waits for it in a thread."""
        for child in ast.iter_child_nodes(node.value):
            self.visit(child)

    def _within(self, node: ast.AST, name: str) -> None:
        self._scope.append(name)
        self.generic_visit(node)
        self._scope.pop()

    def visit_Call(self, node: ast.Call) -> None:
        what = self._what(node)
        if what is not None:
            self.names.add(f"{what} in {'.'.join([self._module, *self._scope])}")
        self.generic_visit(node)

    def _what(self, node: ast.Call) -> str | None:
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if name == "replace" and not _is_path(called):
            return None
        if name in _DURABLE and isinstance(called, ast.Attribute):
            return "fsync" if getattr(called.value, "id", "") == "durable" else None
        if name == "execute" and self._scope[-2:] == ["Ledger", "accept"]:
            return "ledger"
        what = _CALLS.get(name)
        if what == "ledger" and self._module != "producer.ledger":
            return None
        return what


def _is_path(called: ast.expr) -> bool:
    """Whether `x.replace` is about a file: of `os`, or of what we call a part of one."""
    return isinstance(called, ast.Attribute) and getattr(called.value, "id", "") in {"os", "part"}


# -- by the stack ---------------------------------------------------------------------------------


def here(what: str) -> str | None:
    """The name of the crash point of the function that is about to do `what`; None outside the product."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = _module_of(frame.f_code.co_filename)
        if module is not None and not frame.f_code.co_name.startswith(_FRAMES):
            place = frame.f_code.co_qualname.replace(".<locals>", "")
            return f"{what} in {module}.{place}"
        frame = frame.f_back
    return None


@cache
def _module_of(filename: str) -> str | None:
    """The module of a file of the product; None for all others, and for those that others go through."""
    if not filename.startswith(f"{ROOT}{os.sep}"):
        return None
    module = Path(filename).relative_to(ROOT).as_posix().removesuffix(".py").replace("/", ".")
    module = module.removesuffix(".__init__")
    return None if module in CHOKES or module.partition(".")[0] not in PACKAGES else module


@dataclass(frozen=True)
class Crash:
    """Where to die: at the `visit`th time that the point is come to."""

    point: Point
    visit: int = 1


class Visits:
    """Counts the points that this process comes to, and ends it at one of them, as a power cut would."""

    def __init__(self, crash: Crash | None, log: Path | None = None) -> None:
        self.seen: Counter[Point] = Counter()
        self._crash = crash
        self._log = log

    def come_to(self, name: str, *, after: bool) -> None:
        """Die here, if it is here."""
        point = Point(name, after)
        self.seen[point] += 1
        if self._log is not None:
            with self._log.open("a") as log:
                log.write(f"{int(after)} {name}\n")
        if self._crash == Crash(point, self.seen[point]):
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, what: str, function: Callable[..., Any], only: str = "") -> Callable[..., Any]:
        """The function, between its two points."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            name = here(what) if what != ACKNOWLEDGE else what
            if name is None or only not in name:
                return function(*args, **kwargs)
            self.come_to(name, after=False)
            result = function(*args, **kwargs)
            self.come_to(name, after=True)
            return result

        return wrapped


@contextmanager
def armed(crash: Crash | None = None, log: Path | None = None) -> Iterator[Visits]:
    """Count visits, and die at `crash`, while the block runs. `log` outlives a crash: a line for each visit."""
    from celery import Celery
    from kombu.transport.redis import QoS
    from redis.client import Pipeline
    from redis.commands.core import Script
    from sqlalchemy.engine.base import Transaction

    visits = Visits(crash, log)
    places: list[tuple[Any, str, str, str]] = [
        (Transaction, "commit", "commit", ""),
        (Celery, "send_task", "publish", ""),
        (QoS, "ack", ACKNOWLEDGE, ""),
        (Script, "__call__", "ledger", "producer.ledger."),
        (Pipeline, "execute", "ledger", "producer.ledger.Ledger.accept"),
        (os, "fsync", "fsync", ""),
        (os, "rename", "rename", ""),
        (os, "replace", "rename", ""),
    ]
    with ExitStack() as patches:
        for owner, name, what, only in places:
            wrapped = visits.around(what, getattr(owner, name), only)
            patches.enter_context(patch.object(owner, name, wrapped))
        yield visits
