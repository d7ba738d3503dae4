"""Cuts points into blocks of neighbours, which are candidates for each other, and get slots beside each other.

Median-like cuts along randomly turned main axes, as in a randomised k-d tree (Silpa-Anan and Hartley, CVPR 2008).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from worker.index.score import Vectors

AXES = 24
"""Leading axes that are cut: reduced vectors have their variance in front."""
SAMPLE = 512
"""Points that decide where a block is cut."""

Places = NDArray[np.int32]


def blocks(points: Vectors, largest: int, chance: np.random.Generator) -> Iterator[Places]:
    """Places of the points [n, r] in blocks of at most `largest`; neighbouring blocks come after each other."""
    width = min(AXES, points.shape[1])
    turn = np.linalg.qr(chance.standard_normal((width, width)))[0].astype(np.float32)
    turned = points[:, :width] @ turn
    pending = [np.arange(len(points), dtype=np.int32)]
    while pending:
        block = pending.pop()
        if len(block) <= largest:
            yield block
            continue
        below = _below(turned[block], chance)
        pending += [block[~below], block[below]]


def _below(points: Vectors, chance: np.random.Generator) -> NDArray[np.bool_]:
    """Which points are on the one side of a cut between the 35th and the 65th percentile of the widest axis."""
    # Not the first ones: points may come in the order of slots, in which neighbours are beside each other.
    sample = points[:: max(1, len(points) // SAMPLE)]
    axis = int(sample.var(axis=0).argmax())
    cut = np.sort(sample[:, axis])[int(len(sample) * chance.uniform(0.35, 0.65))]
    below: NDArray[np.bool_] = points[:, axis] < cut
    if not below.any() or below.all():
        below[:] = np.arange(len(points)) % 2 == 0  # equal points: any halves do
    return below
