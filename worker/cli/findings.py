"""What an audit found and what was done about it, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from producer.cli.terminal import table, visible
from worker.audit.findings import MEANING, counted
from worker.cli.shell import console

if TYPE_CHECKING:
    from worker.audit.auditor import Report
    from worker.audit.findings import Example, Finding
    from worker.audit.repair import Repaired

SHOWN = 20
"""Pictures to be added again that are named; --json names more."""


# -- for people -----------------------------------------------------------------------------------


def show(report: Report, repaired: Repaired | None) -> None:
    """Write what was found, what was done about it, and what is left."""
    if repaired is not None:
        _show_findings(repaired.before, "Found")
        for line in _done(repaired):
            _line(line)
        for remark in repaired.remarks:
            _line(f"! {remark}")
        _show_findings(report, "Left" if report.findings else "")
    else:
        _show_findings(report, "Found")
    _line(_verdict(report, repaired=repaired is not None))


def _show_findings(report: Report, title: str) -> None:
    _line(_compared(report))
    if report.findings:
        console.print(_table(title.lower(), report.findings))


def _compared(report: Report) -> str:
    against = (
        f"generation {report.generation} and {counted(report.pending, 'change')} since"
        if report.generation is not None
        else f"no generation, {counted(report.pending, 'picture')} being searched one by one"
    )
    return (
        f"{counted(report.images, 'live picture')} at revision {report.revision:,}, compared with {against}; "
        f"{report.seconds:.1f} s"
    )


def _table(title: str, findings: Sequence[Finding]) -> Table:
    rows = [
        (
            "gap" if finding.is_gap else "note",
            MEANING[finding.kind],
            f"{finding.count:,}",
            ", ".join(map(_example, finding.examples)) + _more(finding),
        )
        for finding in findings
    ]
    return table((title, "", "count", "for example"), rows, right=("count",))


def _more(finding: Finding) -> str:
    return " …" if 0 < len(finding.examples) < finding.count else ""


def _example(example: Example) -> str:
    if example.product_id is None:
        return example.detail or ""
    picture = f"{example.product_id} ({example.name})"
    return f"{picture}: {example.detail}" if example.detail else picture


def _done(repaired: Repaired) -> Iterator[str]:
    if repaired.counter is not None:
        yield f"Raised the revision counter to {repaired.counter:,}."
    if repaired.embeddings_deleted:
        yield f"Deleted {counted(repaired.embeddings_deleted, 'bad embedding')}."
    if repaired.sent:
        ended = repaired.sent - repaired.waiting
        yield f"Sent {counted(repaired.sent, 'picture')} to be embedded again; done: {ended:,}."
    if repaired.generation is not None:
        yield f"Built generation {repaired.generation}."
    for name in repaired.removed:
        yield f"Deleted {name}."
    if repaired.unused_embeddings or repaired.unused_thumbnails:
        yield (
            f"Deleted {counted(repaired.unused_embeddings, 'embedding')} and "
            f"{counted(repaired.unused_thumbnails, 'thumbnail')} that no picture refers to."
        )
    if repaired.add_again_count:
        pictures = counted(repaired.add_again_count, "picture")
        yield f"To be added again by the shop (`lookalike add`): {pictures}"
        yield from (f"  {_example(example)}" for example in repaired.add_again[:SHOWN])
        if (more := repaired.add_again_count - SHOWN) > 0:
            yield f"  and {more:,} more: --json names them"


def _verdict(report: Report, *, repaired: bool) -> str:
    if not report.gaps:
        return "No gaps."
    kinds = sum(finding.is_gap for finding in report.findings)
    gaps = f"{counted(report.gaps, 'gap')} of {counted(kinds, 'kind')}"
    if repaired:
        return f"{gaps} left."
    return f"{gaps}. `lookalike-worker verify --repair` mends what it can."


def _line(text: str) -> None:
    console.print(visible(text), markup=False, highlight=False, soft_wrap=True)


# -- for machines ---------------------------------------------------------------------------------


def report_as_json(report: Report) -> dict[str, Any]:
    """An audit as a JSON object."""
    return {
        "clean": not report.gaps,
        "revision": report.revision,
        "generation": report.generation,
        "current": report.kept.pointer.generation,
        "pinned": report.kept.pointer.pinned,
        "model": report.model,
        "images": report.images,
        "pending": report.pending,
        "seconds": round(report.seconds, 3),
        "gaps": report.gaps,
        "findings": [_finding_as_json(finding) for finding in report.findings],
    }


def _finding_as_json(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind.value,
        "gap": finding.is_gap,
        "count": finding.count,
        "meaning": MEANING[finding.kind],
        "examples": [_example_as_json(example) for example in finding.examples],
    }


def _example_as_json(example: Example) -> dict[str, Any]:
    return {"product_id": example.product_id, "name": example.name, "detail": example.detail}


def repair_as_json(repaired: Repaired) -> dict[str, Any]:
    """What was mended, as a JSON object."""
    return {
        "found": [_finding_as_json(finding) for finding in repaired.before.findings],
        "counter": repaired.counter,
        "embeddings_deleted": repaired.embeddings_deleted,
        "sent": repaired.sent,
        "waiting": repaired.waiting,
        "generation": repaired.generation,
        "removed": list(repaired.removed),
        "unused_embeddings_deleted": repaired.unused_embeddings,
        "unused_thumbnails_deleted": repaired.unused_thumbnails,
        "add_again_count": repaired.add_again_count,
        "add_again": [_example_as_json(example) for example in repaired.add_again],
        "remarks": list(repaired.remarks),
    }
