"""Polygons to pixels by the pixel-centre rule, exactly, without a loop over pixels or polygons.

Pixel (row r, column c) belongs to a polygon when its centre (c + 0.5, r + 0.5) lies inside. A centre on
a left or upper edge is inside, on a right or lower edge outside, so that polygons with a common edge
share no pixel and leave none out.

How: every edge crosses the lines through the pixel centres at known columns; there the polygon's
number is added or subtracted, and a running sum along each row gives the number at each pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely import MultiPolygon, Polygon

from wsi_seg.geometry import Box


@dataclass(frozen=True, slots=True)
class Edges:
    """All edges of some polygons, ready to be filled into any number of boxes."""

    lower: NDArray[np.float64]
    """(n, 2) x, y of the end with the smaller y; n edges, none horizontal."""
    upper: NDArray[np.float64]
    """(n, 2) x, y of the other end."""
    step: NDArray[np.int32]
    """(n,) what is added to the pixels to the right of the edge: plus or minus the polygon's id."""

    def crossing_rows(self, y0: int, y1: int) -> Edges:
        """Return those that matter for pixel rows y0 … y1 - 1; saves time when filling row by row."""
        used = (self.lower[:, 1] < y1) & (self.upper[:, 1] > y0)
        return Edges(self.lower[used], self.upper[used], self.step[used])

    def shrunk(self, factor: float) -> Edges:
        """Return the same edges in a frame whose pixels are `factor` times larger."""
        return Edges(self.lower / factor, self.upper / factor, self.step)


def polygon_edges(polygons: Sequence[Polygon | MultiPolygon], ids: ArrayLike) -> Edges:
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
    # Ends in a fixed order: neighbours then compute the same crossing for a common edge.
    return Edges(
        np.concatenate([end[down], start[up]]),
        np.concatenate([start[down], end[up]]),
        np.concatenate([values[down], -values[up]]),
    )


def fill_edges(edges: Edges, box: Box) -> NDArray[np.int32]:
    """Return, for each pixel of `box`, the sum of the ids of the polygons that hold its centre.

    Args:
        edges: of polygons in the pixel frame of `box`.
        box: pixels to fill; memory is four bytes for each plus what the edges that cross it need.

    Returns:
        int32 (box.height, box.width), 0 outside all polygons.
    """
    out = np.zeros((max(0, box.height), max(0, box.width) + 1), np.int32)
    first = np.maximum(np.ceil(edges.lower[:, 1] - 0.5), box.y0)
    last = np.minimum(np.ceil(edges.upper[:, 1] - 0.5), box.y1)
    left = np.minimum(edges.lower[:, 0], edges.upper[:, 0])
    # Edges to the left of the box count, for the running sum starts with them.
    used = np.flatnonzero((first < last) & (left < box.x1))
    if box.empty or len(used) == 0:
        return out[:, : max(0, box.width)]
    lower, upper = edges.lower[used], edges.upper[used]
    slope = (upper[:, 0] - lower[:, 0]) / (upper[:, 1] - lower[:, 1])
    rows = (last[used] - first[used]).astype(np.intp)
    edge = np.repeat(np.arange(len(used)), rows)
    begin = np.cumsum(rows) - rows
    row = np.arange(len(edge)) - begin[edge] + first[used].astype(np.intp)[edge]
    x = lower[edge, 0] + (row + 0.5 - lower[edge, 1]) * slope[edge]
    column = np.clip(np.ceil(x - 0.5), box.x0, box.x1).astype(np.intp)
    np.add.at(out, (row - box.y0, column - box.x0), edges.step[used][edge])
    return np.cumsum(out[:, :-1], axis=1, dtype=np.int32)


def rasterize_ids(polygons: Sequence[Polygon | MultiPolygon], ids: ArrayLike, box: Box) -> NDArray[np.int32]:
    """Return the id of the polygon that holds each pixel centre, 0 where none does.

    Args:
        polygons: valid, not overlapping (one may lie in a hole of another), in the pixel frame of `box`.
        ids: one positive whole number for each polygon.
        box: pixels to fill.

    Returns:
        int32 (box.height, box.width).
    """
    return fill_edges(polygon_edges(polygons, ids), box)


def rasterize_mask(geometries: Sequence[Polygon | MultiPolygon], box: Box) -> NDArray[np.bool_]:
    """Return the pixels whose centre lies in any of the geometries, which may overlap.

    Args:
        geometries: valid, in the pixel frame of `box`.
        box: pixels to fill.

    Returns:
        bool (box.height, box.width).
    """
    return fill_edges(polygon_edges(geometries, np.ones(len(geometries), np.int32)), box) > 0
