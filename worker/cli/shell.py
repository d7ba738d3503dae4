"""What the commands share: where they write, what they open, and how they end."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from db.session import Database
from producer import logs
from producer.settings import load
from worker.settings import WorkerSettings

FAILED, BAD_USAGE, INTERRUPTED = 1, 2, 130

console = Console()
stderr = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a machine to read.")]


class ProcessName(StrEnum):
    """What `run` runs."""

    EMBED = "embed"
    QUERY = "query"
    SEARCH = "search"
    INDEX = "index"
    BEAT = "beat"


def settings() -> WorkerSettings:
    """The settings of the environment; raises SettingsError."""
    return load(WorkerSettings)


@contextmanager
def catalogue(of: WorkerSettings) -> Iterator[Database]:
    """The catalogue of these settings, while the block runs."""
    database = Database(of.database)
    try:
        yield database
    finally:
        database.close()


def fail(error: Exception, code: int) -> NoReturn:
    """Say what went wrong in one line, and end."""
    if logs.is_json():
        logging.getLogger(__name__).critical("%s", error)
        sys.exit(code)
    stderr.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


def print_json(value: object) -> None:
    """Write one JSON value; what JSON does not know, as text."""
    console.print_json(json.dumps(value, default=str))
