"""A process that answers lookups, told what to do line by line, so that what becomes of it is seen from outside.

`LookupProcess` is the other end. It raises `Died` when the process was ended by a signal, and `Hung` when it does
not answer.
"""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from db.session import Database
from producer.messages import ProductLookup
from tests.unit.worker.index.factories import prefer_the_index
from worker.index.annoy_engine import AnnoyEngine
from worker.index.errors import GenerationRefused
from worker.index.faiss_engine import FaissEngine
from worker.index.follower import Follower
from worker.index.generation import Expected, Generation
from worker.lookup import Answerer

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0
"""Seconds that an answer may take."""


class Died(Exception):
    """The process is not there any more."""


class Hung(Exception):
    """The process does not answer."""


class LookupProcess:
    """A process that serves one catalogue."""

    def __init__(self, url: str, data_dir: Path) -> None:
        """Start it; it answers from what is current now."""
        command = [sys.executable, "-m", "tests.integration.lookup_process", url, str(data_dir)]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def close(self) -> None:
        """End it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.kill()
        self._process.wait()

    def ask(self, do: str, **details: Any) -> Any:
        """What it says to that; raises Died, Hung."""
        self.tell(do, **details)
        return self.told()

    def tell(self, do: str, **details: Any) -> None:
        """Let it do something; raises Died."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **details}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._end()

    def told(self) -> Any:
        """The answer to what it was told; raises Died, Hung."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        if not ready:
            raise Hung(f"no answer in {PATIENCE:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            self._end()
        return json.loads(line)

    def _end(self) -> None:
        code = self._process.wait(timeout=PATIENCE)
        raise Died(signal.Signals(-code).name if code < 0 else f"exit code {code}")


class _Served:
    """The process's side."""

    def __init__(self, url: str, data_dir: Path) -> None:
        self._database = Database(url)
        self._data_dir = data_dir
        self._opened: list[str] = []
        """Directories that an engine was given."""
        for engine in (AnnoyEngine, FaissEngine):
            self._watch(engine)
        self._follower = Follower(self._database, data_dir)
        self._answers = Answerer(self._database, self._follower)
        self._follower.start()

    def _watch(self, engine: Any) -> None:
        real = engine.open

        def watched(of: Any, directory: Path, described: Any) -> Any:
            self._opened.append(str(directory))
            return real(of, directory, described)

        engine.open = watched

    def prefer_the_index(self) -> None:
        """Search in the index wherever that can be done."""
        prefer_the_index(pytest.MonkeyPatch())

    def answer(self, question: Any) -> Any:
        """What the worker that has been there all the time says."""
        return _batch(self._answers, question)

    def answer_anew(self, question: Any, data_dir: str) -> Any:
        """What a worker that has just started says, and what engines were given."""
        self._opened.clear()
        answers = Answerer(self._database, Follower(self._database, Path(data_dir)))
        return {"batch": _batch(answers, question), "opened": self._opened}

    def open(self, directory: str, expected: dict[str, Any]) -> Any:
        """How a generation is refused, if it is, and what engines were given."""
        self._opened.clear()
        refused = None
        try:
            Generation.open(Path(directory), Expected(**expected))
        except GenerationRefused as error:
            refused = type(error).__name__
        return {"refused": refused, "opened": self._opened}

    def follow(self, revision: int) -> Any:
        """Refresh as fast as can be until that revision is seen: at each other one, the products in the view."""
        seen: list[tuple[int, list[int]]] = []
        follower = Follower(self._database, self._data_dir)
        while not seen or seen[-1][0] < revision:
            view = follower.refresh()
            if not seen or view.revision != seen[-1][0]:
                rows = view.overlay.rows(None)
                seen.append(
                    (view.revision, view.overlay.product_pks[: view.overlay.count][rows].tolist())
                )
        return seen

    def wait_for(self, revision: int) -> Any:
        """When the thread alone, without a lookup, had brought the view to this revision."""
        while self._follower.view.revision < revision:
            time.sleep(0.002)
        return time.monotonic()


def _batch(answers: Answerer, question: Any) -> Any:
    batch = answers.by_products(ProductLookup.model_validate_json(json.dumps(question)))
    return batch.model_dump(mode="json")


def main() -> None:
    """Do what each line says until there are no more."""
    served = _Served(sys.argv[1], Path(sys.argv[2]))
    for line in sys.stdin:
        details = json.loads(line)
        do: Callable[..., Any] = getattr(served, details.pop("do"))
        sys.stdout.write(json.dumps(do(**details)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
