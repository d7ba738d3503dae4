"""The recipe's first answer: a DataFrame with a vector in each row, and scipy's cosine row by row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.index_systems import ASKED, Alone, Build, Searcher, Setting, Vectors, mapped


@dataclass(frozen=True)
class PandasLoop(Alone):
    """No index: every row's distance is computed in Python, then the smallest are taken."""

    name: str = "pandas loop"
    needs: tuple[str, ...] = ("pandas", "scipy")

    def build(self, rows: Path, folder: Path) -> Build:
        """Nothing to build; the bytes are those of the frame in memory."""
        (folder / "rows.npy").hardlink_to(rows)
        return Build(0.0, int(_frame(rows).memory_usage(deep=True).sum()))

    def settings(self, folder: Path) -> list[Setting]:
        """Nothing to set."""
        return [Setting("fp32", 32, default=True)]

    def open(self, folder: Path) -> Searcher:
        """Make the frame."""
        return _Loop(folder)


class _Loop:
    def __init__(self, folder: Path) -> None:
        self._frame = _frame(folder / "rows.npy")

    def use(self, setting: Setting) -> None:
        pass

    def ask(self, number: int, vector: Vectors) -> Any:
        from scipy.spatial.distance import cosine

        distances = self._frame["embedding"].apply(lambda row: cosine(row, vector))
        return distances.nsmallest(ASKED).index

    def numbers(self, found: Any) -> list[int]:
        return [int(each) for each in found]


def _frame(rows: Path) -> Any:
    """Each row an array of its own, as when a network's answers are collected in a list."""
    import pandas as pd

    return pd.DataFrame({"embedding": [row.copy() for row in mapped(rows)]})
