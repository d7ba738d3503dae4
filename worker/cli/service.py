"""`up`, `run` and `health`: the service's processes."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Annotated, Any

import typer
from rich.table import Table

from db.address import parse, shown
from db.errors import SchemaNewer
from producer import logs, tracing
from producer.transport import connect, public_address
from worker.cli.shell import (
    FAILED,
    AsJson,
    ProcessName,
    catalogue,
    console,
    fail,
    print_json,
    settings,
)
from worker.errors import StartError
from worker.front import Front
from worker.lookout import Lookout
from worker.up import Service

log = logging.getLogger(__name__)


def up() -> None:
    """Start the whole service on this machine, and stop all of it on Ctrl-C.

    With nothing set it brings its own Valkey server and a SQLite catalogue; LOOKALIKE_REDIS_URL and
    LOOKALIKE_DATABASE_URL name others. The HTTP gateway is started on loopback, where its packages are installed.
    """
    found = settings()
    logs.configure("up", found.log_format, found.log_level)
    front = Front.of(found.data_dir / "logs")
    lookout = Lookout.of(found)
    service = Service(found, gateway=front.child, ports=lookout.ports)
    with _stop_on_signal(service.stop_soon):
        try:
            with nullcontext() if logs.is_json() else console.status("Starting …"):
                service.start(lambda name: _say(f"  [green]✓[/] {name}", f"{name} is ready"))
            if not service.stopping:
                _show(service, front, lookout)
            service.watch()
        finally:
            _say("Stopping …  (Ctrl-C again: at once)", "stopping")
            service.stop()
    _say("Stopped; nothing that was accepted is lost.", "stopped")


def _say(text: str, line: str) -> None:
    """Tell it people or, where all that is written is to be JSON, the log."""
    if logs.is_json():
        log.info("%s", line)
    else:
        console.print(text)


@contextmanager
def _stop_on_signal(stop: Any) -> Iterator[None]:
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show(service: Service, front: Front, lookout: Lookout) -> None:
    facts = _facts(service, front, lookout)
    if logs.is_json():
        log.info("ready; %s", "; ".join(f"{name}: {value}" for name, value in facts))
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for fact in facts:
        table.add_row(*fact)
    console.print(table)
    console.print("Ready. Try `lookalike status` in another terminal; Ctrl-C stops.")


def _facts(service: Service, front: Front, lookout: Lookout) -> list[tuple[str, str]]:
    found = service.settings
    server = "Valkey, its own" if service.server else "Redis"
    address = public_address(found.redis_url.get_secret_value())
    return [
        ("queues", f"{server}, {address}"),
        ("catalogue", shown(parse(found.database))),
        ("index, logs", str(found.data_dir.resolve())),
        ("model", found.model),
        ("pictures from", ", ".join(str(root) for root in found.roots)),
        ("and from hosts", ", ".join(found.image_hosts) or "none"),
        ("HTTP", front.shown),
        ("figures", lookout.shown),
    ]


def run(
    process: Annotated[ProcessName, typer.Argument(help="Which process of the service.")],
) -> None:
    """Run one process of the service in the foreground, for a process supervisor or a container."""
    from worker.tether import tether

    tether()
    found = settings()
    logs.configure(process.value, found.log_format, found.log_level)
    tracing.configure(process.value)
    if process is ProcessName.BEAT:
        from worker.beat import beat

        beat(found)
        return
    from worker.process import run as run_worker
    from worker.roles import Role

    sys.exit(run_worker(Role(process.value), found))


def check(as_json: AsJson = False) -> None:
    """Look at settings, disk, catalogue, index, model and Redis; exit with 1 if the service cannot run so."""
    from worker.startup import Severity, examine

    found = settings()
    with catalogue(found) as database, connect(found) as client:
        findings = examine(found, database, client)
    if as_json:
        print_json([vars(finding) for finding in findings])
    else:
        marks = {
            Severity.FINE: "[green]✓[/]",
            Severity.WARNING: "[yellow]![/]",
            Severity.FATAL: "[red]✗[/]",
        }
        for finding in findings:
            console.print(f"{marks[finding.severity]} {finding.subject}", end="")
            said = f": {finding.message}" if finding.message else ""
            console.print(said, markup=False, highlight=False, soft_wrap=True)
    if any(finding.severity is Severity.FATAL for finding in findings):
        sys.exit(FAILED)


def health(
    process: Annotated[
        ProcessName | None, typer.Argument(help="The process that must be alive on this host.")
    ] = None,
) -> None:
    """Exit 0 if Redis and the catalogue can be used, and the named process beats on this host."""
    from migrations import check_schema
    from worker.heartbeat import beating

    found = settings()
    with catalogue(found) as database, suppress(SchemaNewer):  # what runs already goes on with it
        check_schema(database)
    with connect(found) as client:
        alive = {(beat.role, beat.host) for beat in beating(client)}
        if process is not None and (process.value, socket.gethostname()) not in alive:
            fail(StartError(f"no {process.value} process of this host sent a heartbeat"), FAILED)
