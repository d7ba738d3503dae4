"""The picture of the comparison: recall against the time of a query, a line for each system, named beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.index_curves import Curve, Point
from tests.benchmarks.index_run import LIMIT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (
    "#c62828", "#ef6c6c", "#6a1b9a", "#b084cc", "#1565c0", "#2e7d32", "#ef8e00", "#00a5b5", "#444444", "#8d5524",
)  # fmt: skip
MARKS = "osD^vP*XhD"
LEAST = 0.7
"""Recall below which no setting is of use: not drawn."""
TOP = 0.9995
"""The axis ends where what is missed can no longer be told from nothing."""
TICKS = (0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, TOP)
OFFSETS = (
    (11, 0, "left"), (-11, 0, "right"), (0, 13, "center"), (0, -14, "center"),
    (8, 13, "left"), (8, -14, "left"), (-8, 13, "right"), (-8, -14, "right"),
)  # fmt: skip
"""Places of a name beside a point, in points, and the side that it is aligned to."""
LETTER, LINE = 7.0, 14.0
"""Points that a name takes, about."""


def draw(curves: Sequence[Curve], path: Path, title: str, colours: Sequence[str] = COLOURS) -> None:
    """Write the plot as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(11, 7), dpi=110, layout="constrained")
    drawn = [_Drawn(curve, colours[i % len(colours)]) for i, curve in enumerate(curves)]
    drawn = [each for each in drawn if each.points]
    for place, each in enumerate(drawn):
        _line(axes, each, MARKS[place % len(MARKS)])
    _dress(axes, title)
    figure.canvas.draw()
    _name(axes, drawn)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


@dataclass(frozen=True)
class _Drawn:
    """A curve as it is drawn: its best settings only."""

    curve: Curve
    colour: str

    @property
    def points(self) -> list[Point]:
        return [point for point in self.curve.best if point.recall >= LEAST]

    @property
    def ring(self) -> NDArray[np.float64]:
        """Data coordinates of the default setting [1, 2]; none [0, 2] where it is of no use."""
        default = self.curve.default
        shown = [(default.ms, _shown(default.recall))] if default.recall >= LEAST else []
        return np.array(shown).reshape(-1, 2)

    @property
    def places(self) -> NDArray[np.float64]:
        """Data coordinates [n, 2]."""
        return np.array([(point.ms, _shown(point.recall)) for point in self.points])


def _shown(recall: float) -> float:
    return min(recall, TOP)


def _line(axes: Axes, drawn: _Drawn, mark: str) -> None:
    times, recalls = drawn.places.T
    axes.plot(times, recalls, color=drawn.colour, marker=mark, markersize=5, linewidth=1.6)
    axes.plot(
        *drawn.ring.T, "o", color=drawn.colour, markersize=13, fillstyle="none", markeredgewidth=1.5
    )


def _dress(axes: Axes, title: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("function", functions=(_stretched, _back))
    axes.set_ylim(LEAST, 0.9997)
    axes.set_yticks(TICKS, [*(f"{tick:g}" for tick in TICKS[:-1]), f"≥ {TOP:g}"])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("milliseconds a query (median); the ring is the default setting")
    axes.set_ylabel(f"recall@{LIMIT}")
    axes.set_title(title, loc="left")
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)


def _stretched(recall: Any) -> Any:
    """Each halving of what is missed is as far."""
    return -np.log10(np.maximum(1.0 - np.asarray(recall), 1e-5))


def _back(stretched: Any) -> Any:
    return 1.0 - 10.0 ** -np.asarray(stretched)


# -- names ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Box:
    """Pixels that a name covers."""

    left: float
    bottom: float
    right: float
    top: float

    def covers(self, places: NDArray[np.float64]) -> int:
        """How many of the places [n, 2] are in it."""
        inside = (places > (self.left, self.bottom)) & (places < (self.right, self.top))
        return int(inside.all(axis=1).sum())

    def overlaps(self, other: _Box) -> bool:
        """Whether they have a pixel in common."""
        apart = self.right < other.left or other.right < self.left
        return not (apart or self.top < other.bottom or other.top < self.bottom)


@dataclass(frozen=True)
class _Spot:
    """A place for a name: at a point of its line, on one side of it."""

    place: NDArray[np.float64]
    offset: tuple[int, int, str]
    box: _Box


def _name(axes: Axes, drawn: Sequence[_Drawn]) -> None:
    """Put each system's name where it covers the least of the lines and of the other names."""
    pixels = axes.transData.transform
    lines = np.concatenate([_dense(pixels(each.places)) for each in drawn])
    rings = np.concatenate([pixels(each.ring) for each in drawn if len(each.ring)] or [lines[:0]])
    lines = np.concatenate([lines, *(rings + np.array((side, 0)) for side in (-8, 0, 8))])
    frame, taken = axes.get_window_extent(), list[_Box]()
    within = _Box(frame.x0, frame.y0, frame.x1, frame.y1)
    for each in drawn:
        spots = list(_spots(axes, each))
        best = min(spots, key=lambda spot: _cost(spot.box, within, lines, taken))
        taken.append(best.box)
        axes.annotate(
            each.curve.system, tuple(best.place), best.offset[:2], textcoords="offset points",
            ha=best.offset[2], va="center", color=each.colour, fontsize=10, fontweight="bold",
        )  # fmt: skip


def _spots(axes: Axes, drawn: _Drawn) -> Iterator[_Spot]:
    wide = LETTER * len(drawn.curve.system) * axes.figure.dpi / 72
    high = LINE * axes.figure.dpi / 72
    for place, (x, y) in zip(drawn.places, axes.transData.transform(drawn.places), strict=True):
        for offset in OFFSETS:
            across, up = (each * axes.figure.dpi / 72 for each in offset[:2])
            left = x + across - wide * {"left": 0.0, "center": 0.5, "right": 1.0}[offset[2]]
            middle = y + up
            box = _Box(left, middle - high / 2, left + wide, middle + high / 2)
            yield _Spot(place, offset, box)


def _cost(
    box: _Box, within: _Box, lines: NDArray[np.float64], taken: Sequence[_Box]
) -> tuple[bool, bool, int]:
    corners = np.array([(box.left, box.bottom), (box.right, box.top)])
    outside = within.covers(corners) < len(corners)
    return outside, any(map(box.overlaps, taken)), box.covers(lines)


def _dense(pixels: NDArray[np.float64], step: float = 3.0) -> NDArray[np.float64]:
    """Places along a line [n, 2], a few pixels apart."""
    lengths = np.hypot(*np.diff(pixels, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    at = np.arange(0.0, along[-1] + step, step)
    return np.stack([np.interp(at, along, pixels[:, axis]) for axis in (0, 1)], axis=1)
