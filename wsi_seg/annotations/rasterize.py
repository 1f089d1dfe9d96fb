"""Polygons to pixels by the pixel-center rule, exactly, without a loop over pixels or polygons.

Pixel (row r, column c) belongs to a polygon when its center (c + 0.5, r + 0.5) lies inside. A center on
a left or upper edge is inside, on a right or lower edge outside, so that polygons with a common edge
share no pixel and leave none out.

How: every edge crosses the lines through the pixel centers at known columns; there the polygon's
number is added or subtracted, and a running sum along each row gives the number at each pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely import MultiPolygon, Polygon

from wsi_seg.core.geometry import Box, Scale


@dataclass(frozen=True, slots=True)
class Edges:
    """All edges of some polygons, ready to be filled into any number of boxes."""

    lower: NDArray[np.float64]
    """(n, 2) x, y of the end with the smaller y; n edges, none horizontal."""
    upper: NDArray[np.float64]
    """(n, 2) x, y of the other end."""
    step: NDArray[np.int32]
    """(n,) what is added to the pixels to the right of the edge: plus or minus the polygon's id."""

    def shrunk(self, factor: float | Scale) -> Edges:
        """Return the same edges in a frame whose pixels are `factor` times larger."""
        by = np.array([factor.x, factor.y]) if isinstance(factor, Scale) else factor
        return Edges(self.lower / by, self.upper / by, self.step)

    def take(self, which: NDArray[np.intp] | slice) -> Edges:
        """Return the edges of these numbers."""
        return Edges(self.lower[which], self.upper[which], self.step[which])

    def cropped(self, box: Box) -> Edges:
        """Return edges that fill any part of a box, in any frame, exactly as these do; often far fewer.

        Of edges to the left of the box only their sum in each row counts: they become vertical ones.
        """
        meet = (self.lower[:, 1] < box.y1) & (self.upper[:, 1] > box.y0)
        meet &= np.minimum(self.lower[:, 0], self.upper[:, 0]) < box.x1
        beyond = np.maximum(self.lower[:, 0], self.upper[:, 0]) <= box.x0
        inside, left = self.take(np.flatnonzero(meet & ~beyond)), self.take(np.flatnonzero(meet & beyond))
        ends = np.clip(np.concatenate([left.lower[:, 1], left.upper[:, 1]]), box.y0, box.y1)
        y, at = np.unique(ends, return_inverse=True)
        change = np.zeros(len(y), np.int64)
        np.add.at(change, at, np.concatenate([left.step, -left.step]))
        y, change = y[change != 0], change[change != 0]
        total = np.cumsum(change)[:-1].astype(np.int32)
        x = np.full(len(total), float(box.x0))
        lower, upper = np.stack([x, y[:-1]], axis=1), np.stack([x, y[1:]], axis=1)
        used = np.flatnonzero(total)
        return Edges(
            np.concatenate([inside.lower, lower[used]]),
            np.concatenate([inside.upper, upper[used]]),
            np.concatenate([inside.step, total[used]]),
        )


def polygon_edges(polygons: Sequence[Polygon | MultiPolygon] | NDArray[np.object_], ids: ArrayLike) -> Edges:
    """Return the edges of polygons, holes included; `ids` has one whole number for each polygon."""
    parts, owner = shapely.get_parts(np.asarray(polygons, dtype=object), return_index=True)
    # With outer rings counter-clockwise and holes clockwise, the inside is always left of the edge.
    rings, part = shapely.get_rings(shapely.orient_polygons(parts), return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    values = np.asarray(ids, dtype=np.int32)[owner][part][ring[:-1]] if len(xy) else np.empty(0, np.int32)
    start, end = xy[:-1], xy[1:]
    same_ring = ring[:-1] == ring[1:]
    down, up = (
        np.flatnonzero(same_ring & (start[:, 1] > end[:, 1])),
        np.flatnonzero(same_ring & (start[:, 1] < end[:, 1])),
    )
    # Ends in a fixed order: neighbors then compute the same crossing for a common edge.
    return Edges(
        np.concatenate([end[down], start[up]]),
        np.concatenate([start[down], end[up]]),
        np.concatenate([values[down], -values[up]]),
    )


def fill_edges(edges: Edges, box: Box, step: int = 1) -> NDArray[np.int32]:
    """Return, for each pixel of `box`, the sum of the ids of the polygons that hold its center.

    Args:
        edges: of polygons in the pixel frame of `box`.
        box: pixels to fill; memory is four bytes for each, plus what the edges that cross it need.
        step: fill only the pixels step // 2, step // 2 + step, … of both axes, counted from the box's corner.

    Returns:
        int32 (box.height, box.width), of which every step-th row and column; 0 outside all polygons.
    """
    rows, columns = (max(0, -(-(side - step // 2) // step)) for side in (box.height, box.width))
    out = np.zeros((rows, columns + 1), np.int32)
    # Edges to the left of the box count, for the running sum starts with them.
    row, column, value = _crossings(edges, box, step)
    np.add.at(out, (row, np.clip(column, 0, columns)), value)
    return np.cumsum(out, axis=1, out=out)[:, :-1]


@dataclass(frozen=True, slots=True)
class PixelRuns:
    """The pixels of a box, numbered from 0 row after row, as runs of one id."""

    box: Box
    start: NDArray[np.intp]
    """(n,) rising: the first pixel of each run, the first one 0."""
    ids: NDArray[np.int32]
    """(n,) what `fill_edges` would give the pixels of each run."""

    @property
    def lengths(self) -> NDArray[np.intp]:
        """Pixels of each run, (n,)."""
        return np.diff(self.start, append=self.box.width * self.box.height)


def strip_runs(edges: Edges, strip: Box, side: int) -> Iterator[PixelRuns]:
    """Yield what `fill_edges` returns for the boxes, `side` pixels wide, of a strip, from left to right.

    The ids at the left side of a box are those at the right side of the one before, so that an edge is looked
    at once however wide the strip is. Boxes that no polygon reaches are left out.
    """
    row, column, value = _crossings(edges, strip, 1)
    order = np.argsort(column, kind="stable")
    row, column, value = row[order], column[order], value[order]
    left = np.zeros(strip.height, np.int32)
    for x0 in range(0, strip.width, side):
        width = min(side, strip.width - x0)
        # Of edges to the left of the strip the columns are below zero.
        begin, end = np.searchsorted(column, [x0 if x0 else -np.inf, x0 + width])
        if begin == end and not left.any():
            continue
        here, step = row[begin:end], value[begin:end]
        right = left.copy()
        np.add.at(right, here, step)
        # A row begins with the id at its left side, and the one before has ended with that at its right side.
        pixel = np.concatenate([np.arange(strip.height), here]) * width
        pixel[strip.height :] += np.maximum(column[begin:end] - x0, 0)
        change = np.concatenate([left, step])
        change[1 : strip.height] -= right[:-1]
        left = right
        order = np.argsort(pixel, kind="stable")
        start, ids = pixel[order], np.cumsum(change[order], dtype=np.int32)
        last = np.diff(start, append=strip.height * width) > 0  # of those that change one pixel
        yield PixelRuns(Box.at(strip.x0 + x0, strip.y0, width, strip.height), start[last], ids[last])


def _crossings(
    edges: Edges, box: Box, step: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int32]]:
    """Return where edges cross the filled rows of `box`: row, first column after the edge, and its step.

    Rows and columns count what is filled. Of edges to the right of the box some may be left out.
    """
    rows = max(0, -(-(box.height - step // 2) // step))
    first = np.maximum(_first_after(edges.lower[:, 1], box.y0, step), 0)
    last = np.minimum(_first_after(edges.upper[:, 1], box.y0, step), rows)
    left = np.minimum(edges.lower[:, 0], edges.upper[:, 0])
    used = np.flatnonzero((first < last) & (left < box.x1))
    lower, upper = edges.lower[used], edges.upper[used]
    slope = (upper[:, 0] - lower[:, 0]) / (upper[:, 1] - lower[:, 1])
    lengths = (last[used] - first[used]).astype(np.intp)
    edge = np.repeat(np.arange(len(used)), lengths)
    begin = np.cumsum(lengths) - lengths
    row = np.arange(len(edge)) - begin[edge] + first[used].astype(np.intp)[edge]
    center_y = box.y0 + step // 2 + row * step + 0.5
    x = lower[edge, 0] + (center_y - lower[edge, 1]) * slope[edge]
    return row, _first_after(x, box.x0, step).astype(np.intp), edges.step[used][edge]


def _first_after(position: NDArray[np.float64], start: int, step: int) -> NDArray[np.float64]:
    """Return the number k of the first pixel start + step // 2 + k · step whose center is not before it."""
    pixel = np.ceil(position - 0.5)
    return np.asarray(np.ceil((pixel - (start + step // 2)) / step))


def outline_pixels(
    geometries: Sequence[Polygon | MultiPolygon] | NDArray[np.object_], box: Box
) -> NDArray[np.bool_]:
    """Return the pixels of `box` that the outlines of geometries in its frame pass through.

    Returns:
        bool (box.height, box.width).
    """
    rings = shapely.get_rings(shapely.get_parts(np.asarray(geometries, dtype=object)))
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    xy -= (box.x0, box.y0)
    same_ring = np.flatnonzero(ring[:-1] == ring[1:])
    start, end = xy[same_ring], xy[same_ring + 1]
    down = start[:, 1] > end[:, 1]
    lower, upper = np.where(down[:, None], end, start), np.where(down[:, None], start, end)
    first = np.maximum(np.floor(lower[:, 1]), 0)
    last = np.minimum(np.floor(upper[:, 1]), box.height - 1)
    used = np.flatnonzero(first <= last)
    lower, upper, first = lower[used], upper[used], first[used].astype(np.intp)
    lengths = last[used].astype(np.intp) - first + 1
    edge = np.repeat(np.arange(len(used)), lengths)
    row = np.arange(len(edge)) - (np.cumsum(lengths) - lengths)[edge] + first[edge]
    x0 = _at_height(lower[edge], upper[edge], row, if_level=0.0)
    x1 = _at_height(lower[edge], upper[edge], row + 1, if_level=1.0)
    left = np.maximum(np.floor(np.minimum(x0, x1)), 0)
    right = np.minimum(np.floor(np.maximum(x0, x1)), box.width - 1)
    seen = np.flatnonzero(left <= right)
    out = np.zeros((box.height, box.width + 1), np.int32)
    np.add.at(out, (row[seen], left[seen].astype(np.intp)), 1)
    np.add.at(out, (row[seen], right[seen].astype(np.intp) + 1), -1)
    return np.cumsum(out, axis=1, out=out)[:, :-1] > 0


def _at_height(
    lower: NDArray[np.float64], upper: NDArray[np.float64], y: NDArray[np.intp], if_level: float
) -> NDArray[np.float64]:
    """Return x where each edge comes nearest to a height; of a level edge, x of one of its ends, 0 or 1."""
    rise = upper[:, 1] - lower[:, 1]
    share = np.divide(y - lower[:, 1], rise, out=np.full(len(rise), if_level), where=rise > 0)
    return np.asarray(lower[:, 0] + np.clip(share, 0, 1) * (upper[:, 0] - lower[:, 0]))
