"""`verify`: whether catalogue, embeddings and index say the same, and mending them."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.findings import repair_as_json, report_as_json, show
from worker.cli.progress import OnStep, meter
from worker.cli.shell import FAILED, AsJson, catalogue, print_json, settings

if TYPE_CHECKING:
    from db.session import Database
    from worker.audit.auditor import Report
    from worker.audit.repair import Repaired
    from worker.settings import WorkerSettings

_STEPS = {
    "generations": "reading generations",
    "pictures": "comparing pictures",
    "unused": "looking for what is not used",
    "embeddings": "mending embeddings",
    "embedding again": "embedding again",
    "rebuilding": "building an index",
    "deleting": "deleting what is not used",
}


def verify(
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Mend what is found: embed pictures again, rebuild the index, delete what nobody uses.",
        ),
    ] = False,
    timeout: Annotated[
        float,
        typer.Option(min=0, help="Seconds to wait for pictures that are embedded again."),
    ] = 300.0,
    as_json: AsJson = False,
) -> None:
    """Audit the catalogue, its embeddings and the index against each other; exit with 1 while there are gaps."""
    # What a follower would log of a bad generation or vector is a finding here.
    logging.getLogger("worker.index.follower").setLevel(logging.CRITICAL)
    found = settings()
    with catalogue(found) as database, meter(_STEPS, quiet=as_json) as on_progress:
        report, repaired = _audited(database, found, on_progress, timeout if repair else None)
    if as_json:
        print_json(report_as_json(report) | {"repair": repaired and repair_as_json(repaired)})
    else:
        show(report, repaired)
    if report.gaps:
        sys.exit(FAILED)


def _audited(
    database: Database, found: WorkerSettings, on_progress: OnStep, timeout: float | None
) -> tuple[Report, Repaired | None]:
    """The last audit, and what was mended before it; nothing is mended without a timeout."""
    from worker.audit.auditor import Auditor
    from worker.audit.repair import Repairer
    from worker.audit.requeue import Requeue
    from worker.roles import build_settings

    auditor = Auditor(
        database,
        found.data_dir,
        overlay_limit=found.rebuild_after_changes,
        on_progress=on_progress,
    )
    report = auditor.audit()
    if timeout is None or not report.findings:
        return report, None
    with Requeue(found, timeout) as embedders:
        repairer = Repairer(
            database,
            found.data_dir,
            build_settings(found),
            auditor=auditor,
            embedders=embedders,
            on_progress=on_progress,
        )
        repaired = repairer.repair(report)
    return repaired.after, repaired
