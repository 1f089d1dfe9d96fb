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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import shapely
from contourpy import LineType, contour_generator
from numpy.typing import NDArray
from shapely import Polygon

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


@dataclass(frozen=True, slots=True)
class RingLimits:
    """Rings that are too small to be kept, in field px²."""

    outer: float = 0.0
    hole: float = 0.0


@dataclass(frozen=True, slots=True)
class _Lines:
    """Contour lines one after the other: line i has the vertices offsets[i] … offsets[i + 1] - 1."""

    xy: NDArray[np.float64]
    edge: NDArray[np.int64]
    """Number of the grid edge that each vertex lies on."""
    offsets: NDArray[np.int64]

    def pick(self, chosen: NDArray[np.bool_]) -> _Lines:
        keep = np.repeat(chosen, np.diff(self.offsets))
        lengths = np.diff(self.offsets)[chosen]
        return _Lines(self.xy[keep], self.edge[keep], np.concatenate([[0], np.cumsum(lengths)]))


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
    if not threshold > 0:
        raise ValueError(f"threshold must be above zero, got {threshold}")
    height, width = field.shape
    extent = (float(width), float(height)) if extent is None else extent
    grid = _Grid(_nodes(width, extent[0]), _nodes(height, extent[1]))
    limits = limits or RingLimits()
    closed, open_lines = [], []
    for nodes, x0, y0 in _blocks(field, block):
        lines = _block_lines(nodes, threshold, grid, (x0, y0))
        if lines is None:
            continue
        is_ring = lines.edge[lines.offsets[:-1]] == lines.edge[lines.offsets[1:] - 1]
        rings = lines.pick(is_ring)
        closed.append(rings.pick(_large_enough(_signed_areas(rings), limits)))
        open_lines.append(lines.pick(~is_ring))
    joined = _join(_concatenate(open_lines))
    return _polygons(_concatenate([*closed, joined.pick(_large_enough(_signed_areas(joined), limits))]))


@dataclass(frozen=True, slots=True)
class _Grid:
    """Positions of the nodes' columns and rows in field pixels; the first and last are the rim."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]


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
    above = np.zeros(width + 2, field.dtype)
    for y0 in range(0, height, block):
        y1 = min(y0 + block, height)
        left = np.zeros(y1 - y0, field.dtype)
        below = np.zeros_like(above)
        for x0 in range(0, width, block):
            x1 = min(x0 + block, width)
            values = np.asarray(field[y0:y1, x0:x1])
            nodes = np.zeros((y1 - y0 + 1 + (y1 == height), x1 - x0 + 1 + (x1 == width)), field.dtype)
            nodes[0] = above[x0 : x0 + nodes.shape[1]]
            nodes[1 : y1 - y0 + 1, 0] = left
            nodes[1 : y1 - y0 + 1, 1 : x1 - x0 + 1] = values
            left = values[:, -1]
            below[x0 + 1 : x1 + 1] = values[-1]
            yield nodes, x0, y0
        above = below


def _block_lines(
    nodes: NDArray[Any], threshold: float, grid: _Grid, corner: tuple[int, int]
) -> _Lines | None:
    """Return the contour lines of one block, each with the inside on the same hand; None without any."""
    inside = nodes >= threshold
    if inside.all() or not inside.any():
        return None
    height = _heights(nodes, inside, threshold)
    generator = contour_generator(z=height, name="serial", line_type=LineType.ChunkCombinedOffset)
    # Of one chunk: all points, and where each line begins and ends; None for both without lines.
    lines: Any = generator.lines(0.0)
    points, offsets = lines[0][0], lines[1][0]
    if points is None:
        return None
    xy, edge = _exact(points, height, grid, corner)
    return _Lines(xy, edge, offsets.astype(np.int64))


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


def _concatenate(lines: list[_Lines]) -> _Lines:
    starts = np.cumsum([0] + [len(part.edge) for part in lines])
    return _Lines(
        np.concatenate([np.empty((0, 2)), *(part.xy for part in lines)]),
        np.concatenate([np.empty(0, np.int64), *(part.edge for part in lines)]),
        np.concatenate(
            [*(part.offsets[:-1] + at for part, at in zip(lines, starts, strict=False)), starts[-1:]]
        ),
    )


def _join(lines: _Lines) -> _Lines:
    """Join open lines, each of which ends on the grid edge where exactly one other begins, to rings."""
    first, last = lines.offsets[:-1], lines.offsets[1:]
    starting = {edge: line for line, edge in enumerate(lines.edge[first].tolist())}
    following = [starting[edge] for edge in lines.edge[last - 1].tolist()]
    order: list[int] = []
    ring_starts: list[int] = []
    done = [False] * len(following)
    for begin in range(len(following)):
        if done[begin]:
            continue
        ring_starts.append(len(order))
        line = begin
        while not done[line]:
            done[line] = True
            order.append(line)
            line = following[line]
    # A line begins with the vertex that the line before it ended with; rings close by themselves later.
    begins = first[order] + 1
    lengths = last[order] - begins
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    take = np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], lengths)
    return _Lines(lines.xy[take], lines.edge[take], offsets[[*ring_starts, len(order)]])


def _signed_areas(rings: _Lines) -> NDArray[np.float64]:
    """Return the area of each ring, negative for holes (shoelace formula)."""
    if len(rings.offsets) == 1:
        return np.empty(0)
    begin = rings.offsets[:-1]
    # Relative to each ring's first vertex: far from the origin digits would cancel, and the edge that
    # closes the ring adds nothing.
    x, y = (rings.xy - np.repeat(rings.xy[begin], np.diff(rings.offsets), axis=0)).T
    cross = np.zeros(len(x))
    cross[:-1] = x[:-1] * y[1:] - x[1:] * y[:-1]
    cross[rings.offsets[1:] - 1] = 0.0
    areas: NDArray[np.float64] = np.add.reduceat(cross, begin) / 2
    return areas


def _large_enough(areas: NDArray[np.float64], limits: RingLimits) -> NDArray[np.bool_]:
    return np.where(areas > 0, areas >= limits.outer, -areas >= limits.hole)


def _polygons(lines: _Lines) -> list[Polygon]:
    """Nest rings into polygons."""
    areas = _signed_areas(lines)
    if len(areas) == 0:
        return []
    ring_of = np.repeat(np.arange(len(areas)), np.diff(lines.offsets))
    rings = np.asarray(shapely.linearrings(lines.xy, indices=ring_of))
    parent = _parents(rings, lines.xy[lines.offsets[:-1]], np.abs(areas))
    is_outer = areas > 0
    # An outer ring directly in an outer one lies in a hole that was filled. A hole directly in a hole has
    # lost its outer ring to the limits; no polygon takes it.
    outer = np.flatnonzero(is_outer & ~((parent >= 0) & is_outer[parent]))
    holes = np.flatnonzero(~is_outer)
    holes = holes[np.argsort(parent[holes], kind="stable")]
    splits = np.searchsorted(parent[holes], [outer, outer + 1])
    return [
        shapely.Polygon(rings[ring], list(rings[holes[a:b]])) if b > a else shapely.Polygon(rings[ring])
        for ring, a, b in zip(outer, *splits, strict=True)
    ]


def _parents(
    rings: NDArray[np.object_], vertices: NDArray[np.float64], areas: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Return, for each ring, the smallest ring around it, -1 without one.

    Rings do not touch, so one vertex tells where a ring lies.
    """
    tree = shapely.STRtree(np.asarray(shapely.points(vertices)))
    around, ring = tree.query(shapely.polygons(rings), predicate="contains")
    order = np.lexsort((-areas[around], ring))
    parent = np.full(len(rings), -1, np.intp)
    parent[ring[order]] = around[order]  # the last one written, the smallest, stays
    return parent
