"""What is asked of an index, and what is true. Light: the processes that are measured load it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
STRANGER = -1


@dataclass(frozen=True)
class Questions:
    """What is asked about, and the true answers."""

    numbers: Numbers
    """The products [m], held out of their own answers; STRANGER for vectors that are in no index."""
    vectors: NDArray[np.float32]
    """The vectors [m, d]."""
    truth: Numbers
    """The nearest other products of each [m, LIMIT], in no order."""

    def recall(self, answers: list[list[int]]) -> float:
        """Share of the true nearest that the answers hold."""
        found = [
            len(set(true) & set(said))
            for true, said in zip(self.truth.tolist(), answers, strict=True)
        ]
        return sum(found) / self.truth.size

    def first(self, count: int) -> Questions:
        """Some of them."""
        return replace(
            self,
            numbers=self.numbers[:count],
            vectors=self.vectors[:count],
            truth=self.truth[:count],
        )
