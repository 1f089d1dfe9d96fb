"""Where the columns of a histogram stand; the template draws them. Lengths are in units of its view box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 500.0, 170.0
SIDE, TOP, FOOT = 30.0, 20.0, 34.0
WIDEST_COLUMN = 56.0
DIGIT_WIDTH = 7.5
# Edges are written in µm² where the largest is below this many, else in mm².
LARGE_UM2, UM2_PER_MM2 = 10_000, 1e6
# With more edges than this only those at 1, 10, 100, … are written.
MOST_EDGES = 7


@dataclass(frozen=True, slots=True)
class Column:
    """One bin."""

    x: float
    y: float
    width: float
    height: float
    count: int
    text: str
    """The count, where there is room for it."""

    @property
    def centre(self) -> float:
        return self.x + self.width / 2


@dataclass(frozen=True, slots=True)
class Tick:
    """An edge that is written under the axis."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram in a view box of WIDTH × HEIGHT."""

    columns: tuple[Column, ...]
    ticks: tuple[Tick, ...]
    unit: str
    """Of the ticks."""
    left: float
    right: float
    base: float = HEIGHT - FOOT
    width: float = WIDTH
    height: float = HEIGHT


def draw_histogram(edges_um2: Sequence[float], counts: Sequence[int]) -> Histogram:
    """Place the columns of a `SizeHistogram` that is not empty, all of one width."""
    step = min(WIDEST_COLUMN, (WIDTH - 2 * SIDE) / len(counts))
    left = (WIDTH - step * len(counts)) / 2
    base, room, most = HEIGHT - FOOT, HEIGHT - FOOT - TOP, max(counts)
    shown = [f"{n:,}" if n == most or len(f"{n:,}") * DIGIT_WIDTH <= step else "" for n in counts]
    columns = [
        Column(left + step * index + 1, base - room * n / most, step - 2, room * n / most, n, shown[index])
        for index, n in enumerate(counts)
    ]
    unit, factor = ("mm²", UM2_PER_MM2) if edges_um2[-1] > LARGE_UM2 else ("µm²", 1.0)
    ticks = [
        Tick(left + step * index, f"{edge / factor:,.6g}")
        for index, edge in enumerate(edges_um2)
        if len(edges_um2) <= MOST_EDGES or f"{edge:e}".startswith("1.0")
    ]
    return Histogram(tuple(columns), tuple(ticks), unit, left, left + step * len(counts))
