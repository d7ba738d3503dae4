"""`models list | add | activate | cancel | retire`: which networks make the vectors, and going over to another."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from db.session import Database
from worker.audit.findings import counted
from worker.cli.progress import LINE_EVERY, meter
from worker.cli.shell import (
    FAILED,
    AsJson,
    catalogue,
    console,
    fail,
    print_json,
    settings,
    stderr,
)
from worker.errors import StartError

if TYPE_CHECKING:
    from db.queries.models import ModelVersion
    from worker.rollout import Known

models = typer.Typer(
    help="See which models there are, and go over to another one while lookups run.",
    invoke_without_command=True,
)

POLL, CALM = 0.5, 5.0
"""Seconds between two looks at a rollout, and how many times as long as a look takes the pause is at least."""

Which = Annotated[str, typer.Argument(metavar="MODEL", help="Its name, or how its digest begins.")]


@models.callback()
def _models(context: typer.Context, as_json: AsJson = False) -> None:
    """See which models there are, and go over to another one while lookups run; without a command: list them."""
    if context.invoked_subcommand is None:
        list_(as_json=as_json)


@models.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the models that are known, and how much of the catalogue is embedded under each."""
    from worker.rollout import known

    with catalogue(settings()) as database:
        found = known(database)
    if as_json:
        print_json([_described(each) for each in found])
    elif found:
        console.print(_table(found))
    else:
        console.print("None: the first worker that embeds adds LOOKALIKE_MODEL.")


@models.command()
def add(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="As in LOOKALIKE_MODEL: a name, or a directory with a model's files.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Make a model known and its files present on this host; run it on every host that embeds."""
    from worker import rollout

    found = settings()
    with catalogue(found) as database, console.status("Reading …"):
        model = rollout.add(database, found.data_dir, spec)
    if as_json:
        print_json(vars(model))
    else:
        console.print(
            f"{model.name} is known as {model.digest[:12]}: `lookalike-worker models activate "
            f"{model.digest[:12]}` rolls it out.",
            soft_wrap=True,
        )


@models.command()
def activate(
    which: Which,
    without_missing: Annotated[
        bool,
        typer.Option(
            "--without-missing",
            help="Switch though some pictures could not be embedded anew; lookups find those no more.",
        ),
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return at once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Roll a model out: every picture is embedded anew, then an index is built, compared, and swapped in."""
    from worker import rollout

    with catalogue(settings()) as database:
        begun = rollout.activate(database, which, without_missing=without_missing)
        if not begun.at_once and not no_wait:
            _wait(database, begun.model, quiet=as_json)
        (now,) = (
            each for each in rollout.known(database) if each.registered.model.pk == begun.model.pk
        )
    if as_json:
        print_json(_described(now))
    elif now.state == "active":
        console.print(f"{begun.model.name} ({begun.model.digest[:12]}) is active.{_compared(now)}")
    else:
        console.print(
            f"{begun.model.name} is being rolled out: `lookalike-worker models list` shows how far it is, "
            "`models cancel` stops it.",
            soft_wrap=True,
        )


@models.command()
def cancel(as_json: AsJson = False) -> None:
    """Stop the rollout that is under way; what was embedded is kept for the next time."""
    from worker import rollout

    with catalogue(settings()) as database:
        model = rollout.cancel(database)
    if as_json:
        print_json(vars(model) if model else None)
    elif model is not None:
        console.print(f"{model.name} is not rolled out any more.")
    else:
        console.print("No model is being rolled out.")


@models.command()
def retire(which: Which, as_json: AsJson = False) -> None:
    """Give up a model that is not in service: its vectors and its generations of the index are deleted."""
    from worker import rollout

    found = settings()
    with catalogue(found) as database, meter({"delete": "deleting"}, quiet=as_json) as on_progress:
        done = rollout.retire(
            database, found.data_dir, which, lambda share: on_progress("delete", share)
        )
    if as_json:
        print_json(vars(done) | {"model": vars(done.model)})
        return
    console.print(
        f"{done.model.name} is retired. Deleted: {counted(done.vectors, 'vector')} and "
        f"{counted(len(done.generations), 'generation')} of the index.",
        soft_wrap=True,
    )
    if done.held:
        console.print(
            f"Some process still has {', '.join(done.held)} open: retire the model again a little later.",
            soft_wrap=True,
        )


# -- waiting --------------------------------------------------------------------------------------


def _wait(database: Database, model: ModelVersion, *, quiet: bool) -> None:
    """Show how far the rollout is until the model is active; ends the command where it cannot become that."""
    from worker.rollout import blocked, progress

    with _shown(quiet=quiet) as show:
        while True:
            began = time.monotonic()
            now, serving = progress(database, model)
            if serving.active is not None and serving.active.pk == model.pk:
                return
            if serving.incoming is None or serving.incoming.pk != model.pk:
                fail(
                    StartError(
                        f"{model.name} is not rolled out any more: it was cancelled, or a rollback ended it"
                    ),
                    FAILED,
                )
            given_up = sum(now.given_up.values())
            if given_up and not now.waiting and not serving.without_missing:
                fail(StartError(blocked(model, now.given_up)), FAILED)
            show(now.embedded, now.images, given_up)
            time.sleep(max(POLL, CALM * (time.monotonic() - began)))


Show = Callable[[int, int, int], None]


@contextmanager
def _shown(*, quiet: bool) -> Iterator[Show]:
    if quiet:
        yield lambda *_: None
    elif sys.stderr.isatty():
        with Progress(
            TextColumn("{task.description}"), BarColumn(), console=stderr, transient=True
        ) as bars:
            task = bars.add_task("embedding")
            yield lambda done, total, lost: bars.update(
                task, description=_said(done, total, lost), completed=done, total=total
            )
    else:
        yield _Lines()


class _Lines:
    """A line every few seconds, for logs."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, done: int, total: int, lost: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY
            sys.stderr.write(f"{_said(done, total, lost)}\n")


def _said(done: int, total: int, lost: int) -> str:
    if done + lost >= total:
        return f"all of {total:,} embedded: building its index"
    return f"embedded {done:,} of {total:,}" + (f", {lost:,} given up" if lost else "")


# -- showing --------------------------------------------------------------------------------------


def _described(known: Known) -> dict[str, Any]:
    registered, progress = known.registered, known.progress
    return {
        **vars(registered.model),
        "state": known.state,
        "images": progress.images,
        "embedded": progress.embedded,
        "given_up": progress.given_up,
        "without_missing": registered.without_missing,
        "comparison": registered.comparison,
        "created_at": registered.created_at,
        "retired_at": registered.retired_at,
    }


def _table(found: Sequence[Known]) -> Table:
    table = Table("digest", "name", "state", "embedded", "given up", "overlap", "same category")
    for each in found:
        model, progress = each.registered.model, each.progress
        given_up = ", ".join(f"{n:,} {reason}" for reason, n in progress.given_up.items())
        share = f"{progress.embedded:,}/{progress.images:,}"
        table.add_row(model.digest[:12], model.name, each.state, share, given_up, *_figures(each))
    for column in table.columns[:4]:
        column.no_wrap = True
    return table


def _figures(known: Known) -> tuple[str, str]:
    found = known.registered.comparison
    if not found:
        return "", ""
    if None in {found["category_before"], found["category_after"]}:
        return f"{found['overlap']:.0%}", ""
    return (
        f"{found['overlap']:.0%}",
        f"{found['category_before']:.0%} → {found['category_after']:.0%}",
    )


def _compared(known: Known) -> str:
    """How it compares with the model before, in words; nothing where it was never rolled out."""
    found = known.registered.comparison
    if not found:
        return ""
    said = f" Of the ten nearest {found['overlap']:.0%} are as before"
    if None in {found["category_before"], found["category_after"]}:
        return f"{said}."
    return f"{said}; {found['category_after']:.0%} of the same category, {found['category_before']:.0%} before."
