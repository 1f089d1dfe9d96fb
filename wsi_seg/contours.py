"""Sub-pixel contours of a field of any size, traced block by block and joined without a seam.

Nodes are the pixel centres plus one rim of empty nodes on the field's outer edge, so that contours close
inside the field. A block is a rectangle of cells between nodes; neighbours share one line of nodes, and
every pixel is read once. A contour's vertex lies on the grid edge between two neighbouring nodes, one
inside and one outside: the number of that edge names the vertex. Lines that end on a block's border are
joined by that number, and positions follow from the two nodes alone, so the result does not depend on
the blocks.

Vertices never fall on a node and chords of one cell never touch (a vertex is strictly between two
nodes), hence rings neither cross nor touch themselves or each other, and filling them by the rule of
`rasterize` gives back exactly the pixels at or above the threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from contourpy import LineType, contour_generator
from numpy.typing import NDArray
from shapely import Polygon

from wsi_seg.ahead import map_ahead
from wsi_seg.geometry import Box
from wsi_seg.rings import (
    NO_LINES,
    Lines,
    RingLimits,
    concatenate,
    connected,
    join,
    large_enough,
    near_pairs,
    nest,
    split_rings,
    without_straight,
)

BLOCK = 1024

# Values of a float field are kept this far from the threshold (a quarter of an 8-bit step), as vertices
# must stay clear of nodes. Whole numbers have a gap of one half by nature.
FLOAT_GAP = 1 / 1024


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

    Contours run where linear interpolation between pixel centres crosses the threshold; for whole
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
    """Yield the polygons of `trace_contours` while the field is read: memory holds what is not whole yet.

    Args:
        field: see `trace_contours`.
        threshold: see there.
        block: see there.
        extent: see there.
        limits: see there.
        reach: in field pixels. Polygons that lie no further apart come together, so that each batch can
            be changed by half as much without a look at the others.

    Yields:
        (n,) polygons, after each row of blocks. How they are batched depends on `block`; nothing else does.
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be above zero, got {threshold}")
    height, width = field.shape
    extent = (float(width), float(height)) if extent is None else extent
    grid = _Grid(_nodes(width, extent[0]), _nodes(height, extent[1]), lru_cache(2)(_node_numbers))
    limits = limits or RingLimits()
    rings, open_lines = NO_LINES, NO_LINES
    for y0, blocks in groupby(_blocks(field, block), key=lambda found: found[2]):
        parts = list(map_ahead(lambda found: _block_lines(*found, threshold, grid), blocks))
        closed, others = split_rings(concatenate(parts))
        joined, open_lines = join(concatenate([open_lines, others]))
        whole = [without_straight(large_enough(found, limits)) for found in (closed, joined)]
        rings = concatenate([rings, *whole])
        waiting = np.zeros(len(rings), bool)
        if y0 + block < height:
            waiting = _waiting(rings, open_lines, grid.y[y0 + block], reach)
        yield nest(rings.pick(~waiting))
        rings = rings.pick(waiting)


def _waiting(rings: Lines, open_lines: Lines, border: float, reach: float) -> NDArray[np.bool_]:
    """Tell which rings may yet turn out to be inside or near something that crosses the line y = border."""
    bounds = np.concatenate([rings.bounds(), open_lines.bounds()])
    # Open lines end on the border, and what will be found below is no nearer than the border.
    is_open = bounds[:, 3] + reach >= border
    number = connected(len(bounds), *near_pairs(bounds, reach))
    return np.isin(number, number[is_open])[: len(rings)]


@dataclass(frozen=True, slots=True)
class _Grid:
    """Positions of the nodes' columns and rows in field pixels; the first and last are the rim."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    numbers: Callable[[tuple[int, ...]], tuple[NDArray[np.float64], NDArray[np.float64]]]
    """`_node_numbers`, which remembers: contourpy would make them for each block, at half its time."""


def _node_numbers(shape: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return column and row, from 0, of each node of a block of this shape."""
    row, column = np.indices(shape, np.float64)
    return column, row


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


def _block_lines(nodes: NDArray[Any], x0: int, y0: int, threshold: float, grid: _Grid) -> Lines:
    """Return the contour lines of one block, each with the inside on the same hand."""
    inside = nodes >= threshold
    if inside.all() or not inside.any():
        return NO_LINES
    height = _heights(nodes, inside, threshold)
    column, row = grid.numbers(height.shape)
    generator = contour_generator(column, row, height, line_type=LineType.ChunkCombinedOffset)
    # Of one chunk: all points, and where each line begins and ends; None for both without lines.
    lines: Any = generator.lines(0.0)
    points, offsets = lines[0][0], lines[1][0]
    if points is None:
        return NO_LINES
    xy, edge = _exact(points, height, grid, (x0, y0))
    return Lines(xy, edge, offsets.astype(np.int64))


def _heights(nodes: NDArray[Any], inside: NDArray[np.bool_], threshold: float) -> NDArray[np.float64]:
    """Return the values above the contour's level, at least a gap away from it."""
    if np.issubdtype(nodes.dtype, np.floating):
        height = nodes.astype(np.float64) - threshold
        height = np.where(inside, np.maximum(height, FLOAT_GAP), np.fmin(height, -FLOAT_GAP))  # also for NaN
        return np.asarray(height, np.float64)
    level = float(np.ceil(threshold)) - 0.5
    return np.asarray(nodes, np.float64) - level


def _exact(
    points: NDArray[np.float64], height: NDArray[np.float64], grid: _Grid, corner: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return field positions and grid edge numbers of contour points given in node indices.

    Positions are computed again from the two nodes in a fixed order, so that they have the same bits in
    every block. A crossing beside the rim lies on the field's edge.
    """
    nearest = np.rint(points)
    off_x, off_y = np.abs(points - nearest).T
    across = off_y < off_x  # on an edge along x, that is on a row of nodes
    column = np.where(across, np.floor(points[:, 0]), nearest[:, 0]).astype(np.int64)
    row = np.where(across, nearest[:, 1], np.floor(points[:, 1])).astype(np.int64)
    here = height[row, column]
    there = height[row + ~across, column + across]
    part = here / (here - there)
    column, row = column + corner[0], row + corner[1]
    last_column, last_row = len(grid.x) - 2, len(grid.y) - 2
    part[(across & (column == 0)) | (~across & (row == 0))] = 0.0
    part[(across & (column == last_column)) | (~across & (row == last_row))] = 1.0
    x0, y0 = grid.x[column], grid.y[row]
    xy = np.empty_like(points)
    xy[:, 0] = np.where(across, x0 + part * (grid.x[column + across] - x0), x0)
    xy[:, 1] = np.where(across, y0, y0 + part * (grid.y[row + ~across] - y0))
    return xy, 2 * (row * len(grid.x) + column) + across
