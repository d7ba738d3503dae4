"""`judgements`: what people think of matches, for whoever trains on it."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, TextIO

import typer

from db.queries.judgements import Judgement, all_
from worker.cli.shell import AsJson, catalogue, console, print_json, settings

COLUMNS = (
    "product_id",
    "match",
    "verdict",
    "judge",
    "at",
    "generation",
    "model_version",
    "distance",
)


def judgements(
    *,
    out: Annotated[
        Path | None, typer.Option(help="The file to write, a CSV; to stdout if none is given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write what people think of matches: one row for each product, match and judge."""
    with catalogue(settings()) as database, database.reading() as session:
        if as_json:
            print_json([_row(each) for each in all_(session)])
            return
        with ExitStack() as stack:
            file: TextIO = sys.stdout
            if out is not None:
                file = stack.enter_context(out.open("w", encoding="utf-8", newline=""))
            written = _write(file, all_(session))
    if out is not None:
        console.print(f"Written: {out} ({written:,} judgements)", soft_wrap=True)


def _write(file: TextIO, found: Iterable[Judgement]) -> int:
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    written = 0
    for each in found:
        writer.writerow(_row(each))
        written += 1
    return written


def _row(judgement: Judgement) -> dict[str, object]:
    return {
        "product_id": judgement.product_id,
        "match": judgement.match_id,
        "verdict": "up" if judgement.good else "down",
        "judge": judgement.judge,
        "at": judgement.judged_at.isoformat(),
        "generation": judgement.generation,
        "model_version": judgement.model_digest,
        "distance": judgement.distance,
    }
