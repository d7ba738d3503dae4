"""`up`, `run` and `health`: the service's processes."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.table import Table

from db.address import parse, shown
from producer.transport import connect, public_address
from worker.cli.shell import (
    FAILED,
    AsJson,
    ProcessName,
    catalogue,
    console,
    fail,
    log_to_stderr,
    print_json,
    settings,
)
from worker.errors import StartError
from worker.front import Front
from worker.lookout import Lookout
from worker.up import Service


def up() -> None:
    """Start the whole service on this machine, and stop all of it on Ctrl-C.

    With nothing set it brings its own Valkey server and a SQLite catalogue; LOOKALIKE_REDIS_URL and
    LOOKALIKE_DATABASE_URL name others. The HTTP gateway is started on loopback, where its packages are installed.
    """
    found = settings()
    log_to_stderr()
    front = Front.of(found.data_dir / "logs")
    lookout = Lookout.of(found)
    service = Service(found, gateway=front.child, ports=lookout.ports)
    with _stop_on_signal(service.stop_soon):
        try:
            with console.status("Starting …"):
                service.start(lambda name: console.print(f"  [green]✓[/] {name}"))
            if not service.stopping:
                _show(service, front, lookout)
            service.watch()
        finally:
            console.print("Stopping …  (Ctrl-C again: at once)")
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


def _show(service: Service, front: Front, lookout: Lookout) -> None:
    found = service.settings
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    server = "Valkey, its own" if service.server else "Redis"
    address = public_address(found.redis_url.get_secret_value())
    table.add_row("queues", f"{server}, {address}")
    table.add_row("catalogue", shown(parse(found.database)))
    table.add_row("index, logs", str(found.data_dir.resolve()))
    table.add_row("model", found.model)
    table.add_row("pictures from", ", ".join(str(root) for root in found.roots))
    table.add_row("and from hosts", ", ".join(found.image_hosts) or "none")
    table.add_row("HTTP", front.shown)
    table.add_row("figures", lookout.shown)
    console.print(table)
    console.print("Ready. Try `lookalike status` in another terminal; Ctrl-C stops.")


def run(
    process: Annotated[ProcessName, typer.Argument(help="Which process of the service.")],
) -> None:
    """Run one process of the service in the foreground, for a process supervisor or a container."""
    from worker.tether import tether

    tether()
    found = settings()
    log_to_stderr()
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
    with catalogue(found) as database:
        check_schema(database)
    with connect(found) as client:
        alive = {(beat.role, beat.host) for beat in beating(client)}
        if process is not None and (process.value, socket.gethostname()) not in alive:
            fail(StartError(f"no {process.value} process of this host sent a heartbeat"), FAILED)
