"""Pictures of a training: its curves, what it takes for what, and how fast it may learn. PNG, in bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from worker.training.history import Epoch

BLUE, ORANGE, GREY = "#2563eb", "#ea7317", "#6b7280"
LARGEST = 40.0
"""Inches of a picture's side, 4,800 pixels: what has too many categories for it goes without their names."""
MOST_NUMBERS = 20
"""Categories of which a confusion picture still shows every number."""


def curves(epochs: Sequence[Epoch], title: str) -> bytes:
    """Losses on the left, shares that were right on the right, over the epochs."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, shares = figure.subplots(1, 2)
    numbers = [each.number for each in epochs]
    _line(losses, numbers, [each.training_loss for each in epochs], "training", ORANGE)
    _line(losses, numbers, [each.validation_loss for each in epochs], "validation", BLUE)
    losses.set_title("loss (cross-entropy)")
    for name, colour, values in (
        ("first", BLUE, [each.accuracy for each in epochs]),
        ("among the first 3", ORANGE, [each.top_3 for each in epochs]),
        ("among the first 5", GREY, [each.top_5 for each in epochs]),
    ):
        _line(shares, numbers, values, name, colour)
    shares.set_title("the right category is named … (validation)")
    shares.yaxis.set_major_formatter(PercentFormatter(1.0))
    frozen = sum(each.phase == "head" for each in epochs)
    for axes in (losses, shares):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        if 0 < frozen < len(epochs):
            axes.axvline(frozen + 0.5, color=GREY, linewidth=0.8, linestyle=":")
        axes.legend(frameon=False)
    figure.suptitle(title, fontweight="bold")
    return _png(figure)


def confusion(counts: NDArray[np.int64], categories: Sequence[str], title: str) -> bytes:
    """Share of each category (row) that was taken for each (column); `counts` int [c, c]."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(max(5.0, 0.32 * len(categories) + 2.5), LARGEST)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    places = range(len(categories))
    if size < LARGEST:
        axes.set_xticks(places, categories, rotation=90, parse_math=False)
        axes.set_yticks(places, categories, parse_math=False)
    axes.set_xlabel("taken for")
    axes.set_ylabel("category")
    axes.set_title(title, fontweight="bold")
    if len(categories) <= MOST_NUMBERS:
        for row, column in np.argwhere(shares >= 0.005):
            share = shares[row, column]
            colour = "white" if share > 0.5 else "black"
            axes.text(
                column, row, f"{share:.0%}", ha="center", va="center", color=colour, fontsize=8
            )
    figure.colorbar(image, shrink=0.7, format=PercentFormatter(1.0))
    return _png(figure)


def rates(tried: Sequence[float], losses: Sequence[float], suggested: float) -> bytes:
    """Loss over the learning rate, with the one that is suggested."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(tried, losses, color=BLUE)
    axes.axvline(suggested, color=ORANGE, linestyle="--", label=f"suggested: {suggested:.1e}")
    axes.set_xlabel("learning rate of the head")
    axes.set_ylabel("training loss, smoothed")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return _png(figure)


def _line(axes: Axes, x: Sequence[int], y: Sequence[float], label: str, colour: str) -> None:
    axes.plot(x, y, color=colour, label=label, marker="o", markersize=3)


def _png(figure: Figure) -> bytes:
    written = io.BytesIO()
    with mpl.rc_context({"font.family": "DejaVu Sans"}):
        figure.savefig(written, format="png", dpi=120)
    return written.getvalue()
