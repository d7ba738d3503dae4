"""What every epoch came to, and the CSV of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal

Phase = Literal["head", "all"]


@dataclass(frozen=True)
class Epoch:
    """One pass over the training part. Losses are cross-entropy in nats; shares are of the validation part."""

    number: int
    """From 1, over both phases."""
    phase: Phase
    """Whether the head alone was trained, or all."""
    training_loss: float
    """Mean over the epoch's end, smoothed as fastai does."""
    validation_loss: float
    accuracy: float
    top_3: float
    top_5: float
    rate: float
    """Learning rate of the head at the epoch's end."""
    seconds: float


COLUMNS = tuple(field.name for field in fields(Epoch))


def as_csv(epochs: Sequence[Epoch]) -> str:
    """A header and a row for each epoch."""
    written = io.StringIO()
    writer = csv.DictWriter(written, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(epoch) for epoch in epochs)
    return written.getvalue()
