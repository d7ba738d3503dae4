"""`lookalike sync`: a whole catalogue against the service's."""

from __future__ import annotations

from producer.cli.adding import Batch, show_failures
from producer.cli.stall import watched
from producer.cli.terminal import Terminal
from producer.client import Producer
from producer.messages import Outcome
from producer.room import WhenFull
from producer.sync import Synced


def synchronise(
    shop: Producer,
    batch: Batch,
    terminal: Terminal,
    *,
    delete: bool,
    dry_run: bool,
    checksum: bool,
    wait: bool,
    timeout: float | None,
    when_full: WhenFull,
) -> int:
    """Compare, send what differs, wait for it if asked to, and show it; returns the exit code."""
    if batch.skipped:
        terminal.note(f"{len(batch.skipped):,} rows are left out: there is no such picture")
    with (
        terminal.meter(batch.pictures, waiting=False, done="compared") as meter,
        watched(shop, terminal),
    ):
        synced = shop.sync(
            batch.rows(),
            delete=delete,
            dry_run=dry_run,
            checksum=checksum,
            when_full=when_full,
            progress=lambda compared: meter(compared, None),
        )
    outcome = shop.wait_for(synced.receipts, timeout) if wait else None
    if terminal.json:
        ended = outcome.model_dump(mode="json") if outcome is not None else {}
        terminal.data(_as_json(synced) | {"skipped": list(batch.skipped)} | ended)
    else:
        _show(terminal, synced, outcome, delete=delete, dry_run=dry_run)
    return 1 if outcome is not None and outcome.failures else 0


def _as_json(synced: Synced) -> dict[str, object]:
    counts = ("compared", "same", "missing", "changed", "superseded", "others", "removed")
    values: dict[str, object] = {name: getattr(synced, name) for name in counts}
    return values | {"jobs": [receipt.id for receipt in synced.receipts]}


def _show(
    terminal: Terminal, synced: Synced, outcome: Outcome | None, *, delete: bool, dry_run: bool
) -> None:
    sent = "would be sent" if dry_run else "sent"
    terminal.line(
        f"{synced.compared:,} compared: {synced.same:,} as they are, {synced.missing:,} missing and "
        f"{synced.changed:,} changed {sent}"
    )
    if synced.superseded:
        terminal.line(f"{synced.superseded:,} differ, but the catalogue has newer versions of them")
    if synced.removed:
        terminal.line(f"{synced.removed:,} products that are not in the file removed")
    elif synced.others:
        hint = "would be removed" if delete else "--delete removes them"
        terminal.line(f"{synced.others:,} products are not in the file ({hint})")
    if outcome is None:
        return
    if outcome.failures:
        show_failures(terminal, outcome)
    failed = f", {len(outcome.failures):,} failed" if outcome.failures else ""
    terminal.line(f"{outcome.applied:,} applied{failed}")
