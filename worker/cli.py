"""`lookalike-worker`: starts, prepares and looks after the service. Exit codes: 0 fine, 1 failed, 2 bad usage."""

from __future__ import annotations

import json
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from db.address import parse, shown
from db.errors import DatabaseError_, InvalidDatabaseUrl
from db.queries import dead_letters
from db.session import Database
from producer.cli.terminal import visible
from producer.errors import LookalikeError
from producer.settings import load
from producer.transport import connect, public_address, unavailable
from worker.embedding.errors import ModelError
from worker.errors import StartError
from worker.index.errors import IndexError_
from worker.settings import WorkerSettings
from worker.up import Service

FAILED, BAD_USAGE, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="lookalike-worker",
    help="Run the Lookalike service: it embeds pictures, keeps the index, and answers lookups.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
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


def main() -> None:
    """Run the command line; every expected error is one line and an exit code."""
    try:
        app()
    except LookalikeError as error:
        _fail(error, error.exit_code)
    except InvalidDatabaseUrl as error:
        _fail(error, BAD_USAGE)
    except (StartError, DatabaseError_, ModelError, IndexError_) as error:
        _fail(error, FAILED)
    except RedisError as error:
        _fail(unavailable(error, _settings().redis_url.get_secret_value()), FAILED)
    except OSError as error:
        _fail(StartError(f"{error}: check LOOKALIKE_DATA_DIR and the folders named"), FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _fail(error: Exception, code: int) -> None:
    stderr.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


def _settings() -> WorkerSettings:
    return load(WorkerSettings)


@app.command()
def up() -> None:
    """Start the whole service on this machine, and stop all of it on Ctrl-C.

    With nothing set it brings its own Valkey server and a SQLite catalogue; LOOKALIKE_REDIS_URL and
    LOOKALIKE_DATABASE_URL name others.
    """
    settings = _settings()
    _log_to_stderr()
    service = Service(settings)
    with _stop_on_signal(service.stop_soon):
        try:
            with console.status("Starting …"):
                service.start(lambda name: console.print(f"  [green]✓[/] {name}"))
            if not service.stopping:
                _show(service)
            service.watch()
        finally:
            console.print("Stopping …")
            service.stop()
    console.print("Stopped; nothing that was accepted is lost.")


@contextmanager
def _stop_on_signal(stop: Any) -> Iterator[None]:
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show(service: Service) -> None:
    settings = service.settings
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    server = "Valkey, its own" if service.server else "Redis"
    address = public_address(settings.redis_url.get_secret_value())
    table.add_row("queues", f"{server}, {address}")
    table.add_row("catalogue", shown(parse(settings.database)))
    table.add_row("index, logs", str(settings.data_dir.resolve()))
    table.add_row("model", settings.model)
    table.add_row("pictures from", ", ".join(str(root) for root in settings.roots))
    table.add_row("and from hosts", ", ".join(settings.image_hosts) or "none")
    console.print(table)
    console.print("Ready. Try `lookalike status` in another terminal; Ctrl-C stops.")


@app.command()
def run(
    process: Annotated[ProcessName, typer.Argument(help="Which process of the service.")],
) -> None:
    """Run one process of the service in the foreground, for a process supervisor or a container."""
    from worker.tether import tether

    tether()
    settings = _settings()
    _log_to_stderr()
    if process is ProcessName.BEAT:
        from worker.beat import beat

        beat(settings)
        return
    from worker.process import run as run_worker
    from worker.roles import Role

    sys.exit(run_worker(Role(process.value), settings))


def _log_to_stderr() -> None:
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    for noisy in ("httpx", "alembic", "celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the summary and the gallery.")] = Path(
        "demo-out"
    ),
    catalogue: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Your own pictures: one sub-folder a category; else a real sample."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the whole service on a sample catalogue, measure it, and show what it finds."""
    from worker.demo.run import run_demo

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    summary = run_demo(out, catalogue, _settings(), as_json=as_json)
    if summary.errors:
        sys.exit(FAILED)


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(help="Folder to unpack into; made when absent.")],
) -> None:
    """Unpack about 1,000 real product pictures, and some that are no part of the catalogue."""
    from worker.demo.sample import unpack

    unpacked = unpack(folder)
    console.print(f"Pictures to add: {unpacked.catalogue}", soft_wrap=True)
    console.print(f"Pictures to ask with: {unpacked.queries}", soft_wrap=True)


@app.command()
def migrate() -> None:
    """Bring the catalogue's tables to this version, from any earlier one or from none."""
    from migrations import upgrade

    database = Database(_settings().database)
    try:
        upgrade(database)
    finally:
        database.close()
    console.print("The catalogue's tables are up to date.")


@app.command()
def reindex(as_json: AsJson = False) -> None:
    """Build a new index generation here and now, and swap it in."""
    from worker.index.rebuild import rebuild
    from worker.roles import build_settings

    settings = _settings()
    database = Database(settings.database)
    try:
        with console.status("Building …"):
            built = rebuild(database, settings.data_dir, build_settings(settings))
    finally:
        database.close()
    if built is None:
        _fail(
            StartError("not rebuilt: another rebuild is running, or nothing was ever added"), FAILED
        )
        return
    if as_json:
        console.print_json(json.dumps(vars(built), default=str))
    else:
        console.print(
            f"Generation {built.number}: {built.images} pictures up to revision {built.revision}, "
            f"recall@10 {built.recall:.3f}, {built.seconds:.1f} s"
        )


@app.command()
def dead(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the pictures that were given up, with the reason of each."""
    database = Database(_settings().database)
    try:
        with database.reading() as session:
            letters = dead_letters.list_(session, limit=limit)
    finally:
        database.close()
    if as_json:
        console.print_json(json.dumps([vars(letter) for letter in letters], default=str))
        return
    table = Table("product", "picture", "reason", "detail", "attempts", "when")
    for letter in letters:
        shown_as = (letter.product_id, letter.name, letter.reason, letter.detail, letter.attempts)
        cells = [Text(visible("" if cell is None else str(cell))) for cell in shown_as]
        table.add_row(*cells, Text(f"{letter.created_at:%Y-%m-%d %H:%M:%S}"))
    console.print(table if letters else "None.")


@app.command()
def health(
    process: Annotated[
        ProcessName | None, typer.Argument(help="The process that must be alive on this host.")
    ] = None,
) -> None:
    """Exit 0 if Redis and the catalogue can be used, and the named process beats on this host."""
    from migrations import check_schema
    from worker.heartbeat import beating

    settings = _settings()
    database = Database(settings.database)
    try:
        check_schema(database)
    finally:
        database.close()
    with connect(settings) as client:
        alive = {(beat.role, beat.host) for beat in beating(client)}
        if process is not None and (process.value, socket.gethostname()) not in alive:
            _fail(StartError(f"no {process.value} process of this host sent a heartbeat"), FAILED)
