"""`dead list | show`, `requeue` and `discard`: what was given up."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from db.queries import dead_letters
from db.queries.dead_letters import DeadLetter, Which
from db.session import Database
from producer.cli.terminal import table, visible
from producer.errors import InvalidRequest
from producer.reasons import Reason
from worker.cli.progress import meter
from worker.cli.shell import FAILED, AsJson, catalogue, console, fail, print_json, settings
from worker.errors import StartError

if TYPE_CHECKING:
    from worker.letters import Requeued
    from worker.resending import Resender

dead = typer.Typer(
    help="Look at the pictures and removals that were given up.", invoke_without_command=True
)

MOST_IDS = 1000
"""More are chosen by their reason or their product, or are all."""

Ids = Annotated[
    list[int] | None,
    typer.Argument(
        min=1, max=2**63 - 1, help="Numbers of dead letters, as `dead list` shows them."
    ),
]
All = Annotated[bool, typer.Option("--all", help="All of them.")]
OfReason = Annotated[Reason | None, typer.Option("--reason", help="Those of this reason.")]
OfProduct = Annotated[str | None, typer.Option("--product", help="Those of this product.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")]

_STEPS = {"requeue": "sending", "apply": "applying", "discard": "discarding"}


@dead.callback()
def _dead(context: typer.Context, limit: Limit = 50, as_json: AsJson = False) -> None:
    """Look at the pictures and removals that were given up; without a command: list them."""
    if context.invoked_subcommand is None:
        list_(limit=limit, as_json=as_json)


@dead.command("list")
def list_(
    reason: OfReason = None, product: OfProduct = None, limit: Limit = 50, as_json: AsJson = False
) -> None:
    """List what was given up, newest first, with the reason of each."""
    which = Which(reason=reason and reason.value, product_id=product)
    with catalogue(settings()) as database, database.reading() as session:
        letters = dead_letters.list_(session, which, limit=limit)
        total = dead_letters.count(session, which)
    if as_json:
        print_json([vars(letter) for letter in letters])
    elif letters:
        console.print(_table(letters))
        if total > len(letters):
            console.print(f"{total - len(letters):,} more; --limit shows them.")
    else:
        console.print("None.")


def _table(letters: Sequence[DeadLetter]) -> Table:
    columns = ("no.", "product", "picture", "reason", "detail", "attempts", "when")
    rows = [
        (
            letter.pk,
            letter.product_id or "",
            letter.name or "",
            letter.reason,
            letter.detail,
            letter.attempts,
            f"{letter.created_at:%Y-%m-%d %H:%M:%S}",
        )
        for letter in letters
    ]
    made = table(columns, rows, right=("no.", "attempts"))
    made.columns[columns.index("reason")].no_wrap = True  # it is what `--reason` takes
    return made


@dead.command()
def show(
    ids: Annotated[list[int], typer.Argument(min=1, max=2**63 - 1)], as_json: AsJson = False
) -> None:
    """Show everything about some of them, the message included."""
    which = _which(ids, every=False, reason=None, product=None)
    with catalogue(settings()) as database, database.reading() as session:
        letters = dead_letters.list_(session, which, limit=len(ids))
    _need_all(ids, letters)
    if as_json:
        print_json([vars(letter) for letter in letters])
        return
    for letter in letters:
        _show(letter)


def _show(letter: DeadLetter) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows: dict[str, object] = {
        "dead letter": letter.pk,
        "product": letter.product_id,
        "picture": letter.name,
        "reason": _meant(letter.reason),
        "detail": letter.detail,
        "attempts": letter.attempts,
        "given up": f"{letter.created_at:%Y-%m-%d %H:%M:%S} UTC",
        "job": letter.job_id,
        "message": json.dumps(letter.message, ensure_ascii=False, indent=2),
    }
    for name, value in rows.items():
        if value is not None:
            text = "\n".join(visible(line) for line in str(value).splitlines())
            table.add_row(name, Text(text))
    console.print(table)


def _meant(reason: str) -> str:
    """With its meaning, unless a newer version gave it."""
    return f"{reason}: {Reason(reason).meaning}" if reason in {*Reason} else reason


def requeue(
    *,
    ids: Ids = None,
    every: All = False,
    reason: OfReason = None,
    product: OfProduct = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until they are applied, or fail again.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for room on the queue, and for --wait.")
    ] = 300.0,
    as_json: AsJson = False,
) -> None:
    """Send what was given up once more, as it was; what the shop has said of it since holds."""
    from worker.letters import requeue as send_again
    from worker.resending import Resender

    found, which = settings(), _which(ids, every=every, reason=reason, product=product)
    with catalogue(found) as database, ExitStack() as stack:
        _need_all(ids, _chosen(database, which))
        resender = stack.enter_context(Resender(found, timeout))
        on_step = stack.enter_context(meter(_STEPS, quiet=as_json))
        done = send_again(
            database, which, resender, found.chunk_size, lambda share: on_step("requeue", share)
        )
        waiting = resender.wait(lambda share: on_step("apply", share)) if wait else None
    _say_requeued(done, resender, waiting, as_json=as_json)
    if done.unreadable or waiting or (wait and resender.failures):
        sys.exit(FAILED)


def _say_requeued(
    done: Requeued, resender: Resender, waiting: int | None, *, as_json: bool
) -> None:
    ended: dict[str, Any] = {}
    if waiting is not None:
        failures = [failure.model_dump(mode="json") for failure in resender.failures]
        ended = {"applied": resender.applied, "failures": failures, "waiting": waiting}
    if as_json:
        print_json(vars(done) | ended)
        return
    console.print(f"Sent {done.sent:,} again.")
    if ended:
        console.print(
            f"Applied: {resender.applied:,}; failed again: {len(resender.failures):,}; "
            f"not done yet: {waiting:,}."
        )
    if done.expired:
        console.print(
            f"Left {done.expired:,} whose bytes came with the message and are gone: the shop has to add them "
            "again (`discard --reason bytes_expired` forgets them)."
        )
    if done.signed:
        console.print(
            f"Left {done.signed:,} whose address was signed, which is not kept: the shop has to add them again."
        )
    if done.unreadable:
        numbers = ", ".join(map(str, done.unreadable[:20]))
        console.print(f"Kept, for this version does not understand them: {numbers}")


def discard(
    *,
    ids: Ids = None,
    every: All = False,
    reason: OfReason = None,
    product: OfProduct = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Forget what was given up, for good."""
    from worker.letters import as_of_now
    from worker.letters import discard as forget

    which = _which(ids, every=every, reason=reason, product=product)
    with catalogue(settings()) as database:
        _need_all(ids, _chosen(database, which))
        which, total = as_of_now(database, which)
        if total and not yes:
            _ask(total)
        with meter(_STEPS, quiet=as_json) as on_step:
            done = forget(database, which, lambda share: on_step("discard", share))
    if as_json:
        print_json({"discarded": done})
    else:
        console.print(f"Discarded {done:,}.")


def _ask(total: int) -> None:
    if not sys.stdin.isatty():
        raise InvalidRequest(f"{total:,} would be forgotten for good: say so with --yes")
    typer.confirm(f"Forget {total:,} for good?", abort=True, err=True)


def _which(
    ids: list[int] | None, *, every: bool, reason: Reason | None, product: str | None
) -> Which:
    chosen = [bool(ids), every, reason is not None or product is not None]
    if sum(chosen) != 1:
        raise InvalidRequest(
            "say which: numbers as `lookalike-worker dead list` shows them, --reason and --product, or --all"
        )
    if len(ids or ()) > MOST_IDS:
        raise InvalidRequest(f"at most {MOST_IDS:,} numbers at once: choose by --reason, or --all")
    return Which(tuple(ids or ()), reason and reason.value, product)


def _chosen(database: Database, which: Which) -> list[DeadLetter]:
    """Those whose numbers are given."""
    with database.reading() as session:
        return dead_letters.list_(session, which, limit=max(len(which.pks), 1))


def _need_all(ids: Sequence[int] | None, letters: Sequence[DeadLetter]) -> None:
    missing = sorted(set(ids or ()) - {letter.pk for letter in letters})
    if missing:
        few = ", ".join(map(str, missing[:10])) + (" …" if len(missing) > 10 else "")
        fail(StartError(f"there is no dead letter {few}"), FAILED)
