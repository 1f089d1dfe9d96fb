"""Sub-pixel contours of a field of any size, traced block by block and joined without a seam.

Nodes are the pixel centers plus one rim of empty nodes on the field's outer edge, so that contours close
inside the field. A block is a rectangle of cells between nodes; neighbors share one line of nodes, and
every pixel is read once. A contour's vertex lies on the grid edge between two neighboring nodes, one
inside and one outside: the number of that edge names the vertex. Lines that end on a block's border are
joined by that number, and positions follow from the two nodes alone, so the result does not depend on
the blocks. Where two corners of a cell are inside, crosswise, they are connected if the mean of the four
is.

Vertices never fall on a node and chords of one cell never touch (a vertex is strictly between two
nodes), hence rings neither cross nor touch themselves or each other, and filling them by the rule of
`rasterize` gives back exactly the pixels at or above the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon

from wsi_seg.core.geometry import Box
from wsi_seg.core.threads import map_ahead
from wsi_seg.regions.rings import (
    NO_LINES,
    Lines,
    RingLimits,
    are_near,
    chains,
    concatenate,
    connected,
    join,
    large_enough,
    near_pairs,
    nest,
    without_straight,
)

BLOCK = 1024

# Values of a float field are kept this far from the threshold (a quarter of an 8-bit step), as vertices
# must stay clear of nodes. Whole numbers have a gap of one half by nature.
FLOAT_GAP = 1 / 1024

# Rings that are made into polygons together, at least; those near each other are always.
LOT = 2000

# Field pixels that do not matter.
NEAR = 1e-6


class Field(Protocol):
    """A 2-D array that need not be in memory, such as a Zarr array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""

    @property
    def dtype(self) -> Any:
        """Type of the values."""

    def __getitem__(self, key: tuple[slice, slice], /) -> Any:
        """Return the values of a box."""


def trace_contours(
    field: Field,
    threshold: float,
    *,
    block: int = BLOCK,
    extent: tuple[float, float] | None = None,
    limits: RingLimits | None = None,
) -> list[Polygon]:
    """Trace the regions where `field` is at or above `threshold`, with their holes.

    Contours run where linear interpolation between pixel centers crosses the threshold; for whole
    numbers, half a step below it.

    Args:
        field: 2-D, whole numbers or floats; NaN counts as outside.
        threshold: above zero.
        block: pixels a side that are read at a time; best a multiple of the array's chunks.
        extent: width and height in field pixels when the last column or row is only partly inside, as
            in a map whose size is no multiple of its downsampling; by default the field's shape.
        limits: outer rings and holes with a smaller area are left out; what lies in a left-out hole too.

    Returns:
        Valid polygons in field pixels (pixel i covers [i, i + 1)), in no particular order, neither
        overlapping nor touching.
    """
    batches = stream_contours(field, threshold, block=block, extent=extent, limits=limits)
    return [polygon for batch in batches for polygon in batch]


def stream_contours(
    field: Field,
    threshold: float,
    *,
    block: int = BLOCK,
    extent: tuple[float, float] | None = None,
    limits: RingLimits | None = None,
    reach: float = 0.0,
) -> Iterator[NDArray[np.object_]]:
    """Return the polygons of `trace_contours` while the field is read: memory holds what is not whole yet.

    Polygons that lie no further than `reach` field pixels apart come together, so that each batch can be
    changed by half as much without a look at the others. Other arguments are those of `trace_contours`.

    Yields:
        (n,) polygons, once or more after each row of blocks. How they are batched depends on `block`; nothing
        else does.
    """
    height = field.shape[0]
    level = contour_level(field, threshold, extent, limits or RingLimits())

    def rows() -> Iterator[ContourRow]:
        for y0, blocks in groupby(_blocks(field, block), key=lambda found: found[2]):
            parts = map_ahead(lambda found: level.lines(*found), blocks)
            closed, others = (concatenate(lines) for lines in zip(*parts, strict=True))
            yield ContourRow(closed, others, level.y[y0 + block] if y0 + block < height else math.inf)

    return polygons_of_rows(rows(), level.limits, reach)


@dataclass(frozen=True, slots=True)
class ContourRow:
    """Contours of one row of blocks."""

    rings: Lines
    """Those that are whole and neither too small nor straight anywhere."""
    others: Lines
    """Those that end on a border of a block."""
    border: float
    """Position y of the lower border, in field pixels; infinite for the last row."""


def polygons_of_rows(
    rows: Iterable[ContourRow], limits: RingLimits, reach: float
) -> Iterator[NDArray[np.object_]]:
    """Join contours of rows of blocks, from top to bottom, to what `stream_contours` yields."""
    rings, open_lines = NO_LINES, NO_LINES
    for row in rows:
        joined, open_lines = join(concatenate([open_lines, row.others]))
        rings = concatenate([rings, row.rings, without_straight(large_enough(joined, limits))])
        together, waiting = _coupled(rings, open_lines, row.border, reach)
        for lot in _lots(together, ~waiting):
            yield nest(rings.pick(lot))
        rings = rings.pick(waiting)


def _lots(together: NDArray[np.intp], chosen: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """Yield masks of chosen rings, some `LOT` of them each: those with the same number stay together.

    There is one at least, which may be empty.
    """
    sizes = np.bincount(together[chosen], minlength=1)
    lot = (np.cumsum(sizes) - sizes) // LOT
    for number in np.unique(lot):
        yield chosen & (lot[np.minimum(together, len(lot) - 1)] == number)


def _coupled(
    rings: Lines, open_lines: Lines, border: float, reach: float
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return a number for each ring, equal for those inside or near each other, and which have to wait.

    They wait where they may yet turn out to be inside or near something that crosses the line y = border.
    """
    bounds = np.concatenate([rings.bounds(), open_lines.bounds()])
    # Open lines end on the border, and what will be found below is no nearer than the border.
    is_open = bounds[:, 3] + reach >= border
    one, other = near_pairs(bounds, reach)
    # What an open line will surround has the line above it, and so lies in its box.
    linked = (other >= len(rings)) | _box_in_box(bounds[one], bounds[other])
    unsure = np.flatnonzero(~linked)
    linked[unsure] = _are_near(rings, one[unsure], other[unsure], reach)
    number = connected(len(bounds), one[linked], other[linked])
    own = number[: len(rings)]
    return own, np.isin(own, number[is_open])


def _box_in_box(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return for pairs of boxes (n, 4) whether one of them lies in the other."""
    low, high = one[:, :2] - other[:, :2], one[:, 2:] - other[:, 2:]
    inside = (low >= 0).all(1) & (high <= 0).all(1)
    return np.asarray(inside | ((low <= 0).all(1) & (high >= 0).all(1)))


def _are_near(
    rings: Lines, one: NDArray[np.intp], other: NDArray[np.intp], reach: float
) -> NDArray[np.bool_]:
    """Return for pairs of rings whether they are at most `reach` apart."""
    used, position = np.unique(np.concatenate([one, other]), return_inverse=True)
    chosen = np.zeros(len(rings), bool)
    chosen[used] = True
    lines = rings.pick(chosen)
    shapes = np.asarray(
        shapely.linearrings(lines.xy, indices=np.repeat(np.arange(len(lines)), lines.lengths))
    )
    # A hair more, as others may scale the rings before they measure.
    return are_near(shapes, position[: len(one)], position[len(one) :], reach + NEAR)


@dataclass(frozen=True, slots=True)
class ContourLevel:
    """The level at which contours run through a field, its nodes, and what is kept of the contours."""

    threshold: float
    x: NDArray[np.float64]
    """Positions of the nodes' columns in field pixels; the first and last are the rim."""
    y: NDArray[np.float64]
    """The same of their rows."""
    limits: RingLimits

    def lines(self, nodes: NDArray[Any], column: int, row: int) -> tuple[Lines, Lines]:
        """Return the rings in a rectangle of cells and its other lines; the inside is left of each step.

        Rings come without those that are too small and without vertices on straight lines.

        Args:
            nodes: (rows, columns) values, two at least along each axis.
            column: of the first node; that of the first pixel is 1.
            row: of the first node.
        """
        inside = nodes >= self.threshold
        crossings = _crossings(inside)
        if not len(crossings.near):
            return NO_LINES, NO_LINES
        xy, edge = _exact(crossings, nodes, self, (column, row))
        order, offsets, is_ring = chains(_following(crossings, inside, nodes, self.threshold))
        lines = Lines(xy[order], edge[order], offsets)
        return without_straight(large_enough(lines.pick(is_ring), self.limits)), lines.pick(~is_ring)


def contour_level(
    field: Field, threshold: float, extent: tuple[float, float] | None, limits: RingLimits
) -> ContourLevel:
    """Return the level of a field; arguments are those of `trace_contours`."""
    if not threshold > 0:
        raise ValueError(f"threshold must be above zero, got {threshold}")
    height, width = field.shape
    across, down = (float(width), float(height)) if extent is None else extent
    if np.issubdtype(field.dtype, np.integer):
        threshold = math.ceil(threshold)
    return ContourLevel(threshold, _nodes(width, across), _nodes(height, down), limits)


def _nodes(count: int, extent: float) -> NDArray[np.float64]:
    if not count - 1 < extent <= count:
        raise ValueError(f"an extent of {extent} does not end in the last of {count} pixels")
    last = (count - 1 + extent) / 2
    return np.concatenate([[0.0], np.arange(count - 1) + 0.5, [last, extent]])


def _blocks(field: Field, block: int) -> Iterator[tuple[NDArray[Any], int, int]]:
    """Yield (node values, first node column, first node row) of each block, row by row.

    The last row and column of the blocks before are carried along, so every pixel is read once.
    """
    height, width = field.shape
    whole = Box(0, 0, width, height)
    boxes = [
        Box.at(x0, y0, block, block).intersect(whole)
        for y0 in range(0, height, block)
        for x0 in range(0, width, block)
    ]
    arrays = map_ahead(lambda box: np.asarray(field[box.slices]), boxes)
    above = np.zeros(width + 2, field.dtype)
    for y0 in range(0, height, block):
        y1 = min(y0 + block, height)
        left = np.zeros(y1 - y0, field.dtype)
        below = np.zeros_like(above)
        for x0 in range(0, width, block):
            x1 = min(x0 + block, width)
            values = next(arrays)
            nodes = np.zeros((y1 - y0 + 1 + (y1 == height), x1 - x0 + 1 + (x1 == width)), field.dtype)
            nodes[0] = above[x0 : x0 + nodes.shape[1]]
            nodes[1 : y1 - y0 + 1, 0] = left
            nodes[1 : y1 - y0 + 1, 1 : x1 - x0 + 1] = values
            left = values[:, -1]
            below[x0 + 1 : x1 + 1] = values[-1]
            yield nodes, x0, y0
        above = below


@dataclass(frozen=True, slots=True)
class _Crossings:
    """The grid edges of a block, between two nodes, that a contour crosses."""

    near: NDArray[np.intp]
    """(n,) number, row after row, of the node with the smaller column or row."""
    across: NDArray[np.bool_]
    """(n,) whether the edge is along x, that is on a row of nodes."""
    shape: tuple[int, int]
    """Rows and columns of the block's nodes."""

    @property
    def far(self) -> NDArray[np.intp]:
        """(n,) number of the other node."""
        return self.near + np.where(self.across, 1, self.shape[1])


def _crossings(inside: NDArray[np.bool_]) -> _Crossings:
    rows, columns = inside.shape
    row, column = np.divmod(np.flatnonzero(inside[:, 1:] != inside[:, :-1]), columns - 1)
    along_y = np.flatnonzero(inside[1:] != inside[:-1])
    near = np.concatenate([row * columns + column, along_y])
    return _Crossings(near, np.arange(len(near)) < len(row), (rows, columns))


def _following(
    crossings: _Crossings, inside: NDArray[np.bool_], nodes: NDArray[Any], threshold: float
) -> NDArray[np.intp]:
    """Return the crossing that comes after each one with the inside on the left; -1 outside the block."""
    (rows, columns), across = crossings.shape, crossings.across
    near, far, is_in = crossings.near, crossings.far, inside.ravel()
    near_in = is_in[near]
    left, right = np.where(near_in, near, far), np.where(near_in, far, near)
    # The next cell has two more nodes, ahead of those two.
    forward = np.where(across == near_in, 1, -1)
    row, column = np.divmod(near, columns)
    to = np.where(across, row, column) + forward
    leaves = (to < 0) | (to == np.where(across, rows, columns))
    ahead = np.where(leaves, 0, forward * np.where(across, columns, 1))
    ahead_left, ahead_right = left + ahead, right + ahead
    left_in, right_in = is_in[ahead_left], is_in[ahead_right]
    turns_right = left_in & right_in
    # Where the inside meets the outside crosswise, the mean of the four nodes tells which is connected.
    saddle = np.flatnonzero(~left_in & right_in & ~leaves)
    around = np.sort([found[saddle] for found in (left, right, ahead_left, ahead_right)], axis=0)
    turns_right[saddle] = sum(_heights(nodes.ravel()[around], threshold)) > 0
    turns_left = ~left_in & ~turns_right
    one, other = np.where(turns_left, left, ahead_right), np.where(turns_right, right, ahead_left)
    exit_edge = 2 * np.minimum(one, other) + (across ^ (turns_left | turns_right))
    number = np.empty(2 * inside.size, np.intp)
    number[2 * near + across] = np.arange(len(near))
    return np.where(leaves, -1, number[np.where(leaves, 2 * near + across, exit_edge)])


def _heights(values: NDArray[Any], threshold: float) -> NDArray[np.float64]:
    """Return values above the contour's level, at least a gap away from it."""
    if np.issubdtype(values.dtype, np.floating):
        height = values.astype(np.float64) - threshold
        is_in = values >= threshold
        height = np.where(is_in, np.maximum(height, FLOAT_GAP), np.fmin(height, -FLOAT_GAP))  # also for NaN
        return np.asarray(height, np.float64)
    return np.asarray(values, np.float64) - (threshold - 0.5)


def _exact(
    crossings: _Crossings, nodes: NDArray[Any], level: ContourLevel, corner: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return field positions and grid edge numbers of crossings.

    Positions follow from the two nodes in a fixed order, so that they have the same bits in every block. A
    crossing next to the rim lies on the field's edge.
    """
    across = crossings.across
    here, there = (_heights(nodes.ravel()[end], level.threshold) for end in (crossings.near, crossings.far))
    part = here / (here - there)
    row, column = np.divmod(crossings.near, crossings.shape[1])
    column, row = column + corner[0], row + corner[1]
    last_column, last_row = len(level.x) - 2, len(level.y) - 2
    part[(across & (column == 0)) | (~across & (row == 0))] = 0.0
    part[(across & (column == last_column)) | (~across & (row == last_row))] = 1.0
    x0, y0 = level.x[column], level.y[row]
    xy = np.empty((len(part), 2))
    xy[:, 0] = np.where(across, x0 + part * (level.x[column + across] - x0), x0)
    xy[:, 1] = np.where(across, y0, y0 + part * (level.y[row + ~across] - y0))
    return xy, 2 * (row * len(level.x) + column) + across
