"""`demo` and `sample`: what the service does, on real pictures."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from worker.cli.shell import FAILED, AsJson, console, settings


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
    summary = run_demo(out, catalogue, settings(), as_json=as_json)
    if summary.errors:
        sys.exit(FAILED)


def sample(
    folder: Annotated[Path, typer.Argument(help="Folder to unpack into; made when absent.")],
) -> None:
    """Unpack about 1,000 real product pictures, and some that are no part of the catalogue."""
    from worker.demo.sample import unpack

    unpacked = unpack(folder)
    console.print(f"Pictures to add: {unpacked.catalogue}", soft_wrap=True)
    console.print(f"Pictures to ask with: {unpacked.queries}", soft_wrap=True)
