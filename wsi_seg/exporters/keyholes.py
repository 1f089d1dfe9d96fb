"""Polygons with holes as one ring each, for formats that know no holes.

Each hole is joined to the outline, or to a hole further left, by a cut of no width: the ring runs along it to
the hole, around it, and back. The area inside, by the shoelace formula or by even-odd or nonzero filling, is
that of the polygon with its holes; an outline that is drawn shows the cut as a line.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray
from shapely import Polygon

Ring = NDArray[np.float64]

# How far, in the polygon's unit, rounding may put a hole to the left of a ring that it touches.
TOUCH = 1e-6


def keyhole(polygon: Polygon) -> Ring:
    """Return a polygon as one ring.

    Args:
        polygon: valid, holes in the opposite direction of the outline.

    Returns:
        (n, 2) corners, the first not repeated at the end.
    """
    outline = np.asarray(polygon.exterior.coords)[:-1, :2]
    if not polygon.interiors:
        return outline
    holes = [_from_leftmost(np.asarray(hole.coords)[:-1, :2]) for hole in polygon.interiors]
    # A cut runs to the left from a hole's leftmost corner, and so ends at a ring that comes before it.
    rings = [outline, *sorted(holes, key=lambda ring: (ring[0, 0], ring[0, 1]))]
    starts, ends = np.concatenate(rings), np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    firsts = np.cumsum([0, *map(len, rings)])
    # For each ring: the cuts that end on it, as edge, distance from the edge's start, end and hole.
    cuts: dict[int, list[tuple[int, float, Ring, int]]] = defaultdict(list)
    for hole in range(1, len(rings)):
        edge, end = _cut(rings[hole][0], starts[: firsts[hole]], ends[: firsts[hole]])
        ring = int(np.searchsorted(firsts, edge, side="right")) - 1
        far = float(np.hypot(*(end - starts[edge])))
        cuts[ring].append((edge - int(firsts[ring]), far, end, hole))
    for ring in range(len(rings) - 1, -1, -1):
        rings[ring] = _joined(rings[ring], cuts[ring], rings)
    joined = rings[0]
    return joined[np.any(joined != np.roll(joined, 1, axis=0), axis=1)]


def _from_leftmost(ring: Ring) -> Ring:
    """Return a ring that starts at its leftmost corner, of several at the uppermost."""
    return np.roll(ring, -int(np.lexsort((ring[:, 1], ring[:, 0]))[0]), axis=0)


def _cut(corner: Ring, starts: Ring, ends: Ring) -> tuple[int, Ring]:
    """Return which of the edges (n, 2) is next to the left of a hole's corner, and where."""
    x, y = corner
    crossing = np.flatnonzero((starts[:, 1] <= y) != (ends[:, 1] <= y))
    (x0, y0), (x1, y1) = starts[crossing].T, ends[crossing].T
    at = x0 + (y - y0) / (y1 - y0) * (x1 - x0)
    at = np.where(at <= x + TOUCH, at, -np.inf)
    nearest = int(np.argmax(at))
    return int(crossing[nearest]), np.array([min(float(at[nearest]), x), y])


def _joined(ring: Ring, cuts: list[tuple[int, float, Ring, int]], rings: list[Ring]) -> Ring:
    """Return a ring with the holes that are cut to it; `rings` has them with their own already joined."""
    if not cuts:
        return ring
    parts, done = [], 0
    for edge, _, end, hole in sorted(cuts, key=lambda cut: cut[:2]):
        parts += [ring[done : edge + 1], end[None], rings[hole], rings[hole][:1], end[None]]
        done = edge + 1
    return np.concatenate([*parts, ring[done:]])
