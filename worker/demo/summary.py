"""What a demo measured: the table that it prints and the `summary.json` that it writes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from worker.demo.catalogue import Added, Changed
from worker.demo.lookups import Answered, Precision
from worker.demo.stage import Machine
from worker.demo.swaps import Swapped
from worker.demo.timing import Spread


@dataclass(frozen=True)
class Summary:
    """The numbers of one run. Times are milliseconds as the shop sees them, through the queue and back."""

    products: int
    images: int
    images_per_second: float
    """End to end: from the first picture given to the queue to the last one searchable."""
    refused: int
    """Pictures that could not be used, neither as products nor to ask with."""
    lookups: int
    """All that were answered."""
    lookup_by_product_ms: Spread
    lookup_by_picture_ms: Spread
    """By pictures that were never added, sent as bytes: with decoding and the network."""
    lookup_while_swapping_ms: Spread
    """By product, from several threads at once, while the index was rebuilt."""
    precision_at_10: float | None
    """Of unseen pictures, by category; None when the pictures have no categories."""
    precision_at_10_by_category: dict[str, float]
    generations: int
    """Index generations built and swapped in."""
    freshness_ms: Spread
    """From `add` until a lookup saw the product."""
    removal_ms: Spread
    """From `remove` until no lookup saw it any more."""
    errors: int
    seconds: float
    """The whole demo, the start of the service included."""
    machine: Machine

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")

    def table(self) -> Table:
        """For people."""
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(style="bold")
        table.add_column(justify="right")
        table.add_column(style="dim")
        for row in self._lines():
            table.add_row(*row)
        return table

    def _lines(self) -> list[tuple[str, str, str]]:
        waits = [
            ("lookup by product", self.lookup_by_product_ms),
            ("lookup by picture", self.lookup_by_picture_ms),
            ("lookup while swapping", self.lookup_while_swapping_ms),
            ("added, then found", self.freshness_ms),
            ("removed, then gone", self.removal_ms),
        ]
        refused = f", {self.refused} refused" if self.refused else ""
        lines = [
            ("products", f"{self.products:,}", f"{self.images:,} images{refused}"),
            ("images a second", f"{self.images_per_second:,.0f}", "through the queue, end to end"),
            *((name, f"{each.p50} ms", each.words) for name, each in waits if each.count),
        ]
        if self.precision_at_10 is not None:
            note = f"by category, {self.lookup_by_picture_ms.count} unseen pictures"
            lines.append(("precision@10", f"{self.precision_at_10:.2f}", note))
        lines.append(
            ("index generations", f"{self.generations}", f"{self.lookups:,} lookups in all")
        )
        lines.append(("errors", f"{self.errors}", f"{self.seconds:.0f} s, {self.machine}"))
        return lines


@dataclass(frozen=True)
class Measured:
    """What the steps of a demo gave."""

    added: Added
    refused: int
    by_product: list[Answered]
    by_picture: list[Answered]
    precision: Precision | None
    changed: Changed
    swapped: Swapped
    products: int
    images: int
    generations: int


def summarise(measured: Measured, machine: Machine, complaints: int, seconds: float) -> Summary:
    """Put the numbers together."""
    by_product = [answer.milliseconds for answer in measured.by_product]
    by_picture = [answer.milliseconds for answer in measured.by_picture]
    swapping = measured.swapped.milliseconds
    precision = measured.precision
    return Summary(
        products=measured.products,
        images=measured.images,
        images_per_second=round(measured.added.applied / measured.added.seconds, 1),
        refused=measured.refused,
        lookups=len(by_product) + len(by_picture) + len(swapping),
        lookup_by_product_ms=Spread.of(by_product),
        lookup_by_picture_ms=Spread.of(by_picture),
        lookup_while_swapping_ms=Spread.of(swapping),
        precision_at_10=round(precision.mean, 4) if precision else None,
        precision_at_10_by_category={
            name: round(share, 4)
            for name, share in (precision.by_category if precision else {}).items()
        },
        generations=measured.generations,
        freshness_ms=Spread.of(measured.changed.seen),
        removal_ms=Spread.of(measured.changed.gone),
        errors=complaints,
        seconds=round(seconds, 1),
        machine=machine,
    )
