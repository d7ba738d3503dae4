"""`reindex` and `rollback`: which generation of the index is current."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.progress import meter
from worker.cli.shell import FAILED, AsJson, catalogue, console, fail, print_json, settings
from worker.errors import StartError

_STEPS = {
    "read": "reading vectors",
    "sort": "laying them down",
    "index": "building",
    "tune": "measuring",
    "check": "checking",
}


def reindex(
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Publish even an index whose recall is below the target; never one that lost rows or is damaged.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build a new index generation here and now, and swap it in; it replaces what a rollback pinned, too."""
    from worker.index.rebuild import rebuild
    from worker.roles import build_settings

    found = settings()
    build = build_settings(found, force=force)
    with catalogue(found) as database, meter(_STEPS, quiet=as_json) as on_progress:
        built = rebuild(database, found.data_dir, build, on_progress=on_progress, over_pin=True)
    if built is None:
        fail(
            StartError("not rebuilt: another rebuild is running, or nothing was ever added"), FAILED
        )
    if as_json:
        print_json(vars(built))
    else:
        console.print(
            f"Generation {built.number}: {built.images} pictures up to revision {built.revision}, "
            f"recall@10 {built.recall:.3f}, {built.seconds:.1f} s"
        )


def rollback(
    number: Annotated[
        int | None,
        typer.Argument(help="The generation; the newest that is kept below the current, if none."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make an earlier index generation current again, once it was read in full, and keep it until `reindex`."""
    from worker.index.rollback import rollback as roll_back

    found = settings()
    with catalogue(found) as database, console.status("Reading …"):
        done = roll_back(database, found.data_dir, number)
    if as_json:
        print_json(vars(done) | {"pinned": True})
        return
    console.print(
        f"Generation {done.number} is current in the place of {done.replaced}: {done.images} pictures up to "
        f"revision {done.revision}, built {done.built_at:%Y-%m-%d %H:%M} UTC. Changes since then, which lookups "
        f"take from the overlay: {done.pending}.",
        soft_wrap=True,
    )
    if done.other_model:
        console.print(
            f"It is of another model, {done.model_digest[:12]}, which is the active one now: pictures that were "
            "added since are embedded under it by the embed workers, and found again when they are.",
            soft_wrap=True,
        )
    if done.ended_rollout:
        console.print(
            f"The rollout of {done.ended_rollout} ended with it: `lookalike-worker models activate` goes on from "
            "what is embedded.",
            soft_wrap=True,
        )
    console.print("It is not replaced by itself: run `lookalike-worker reindex` when it should be.")
