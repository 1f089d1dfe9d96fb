"""Points and regions: how many lie in each, and how far they lie from a border. All positions are in µm."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage

# Points that are looked at together: what is held in memory beside their positions.
POINTS = 100_000
# Edges of one piece of a border; pieces are found by a tree and then measured edge by edge.
EDGES = 16


def count_inside(
    regions: NDArray[np.object_], xy_um: NDArray[np.float64], codes: NDArray[np.int32], classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the points of each class in each region; a point on an edge counts.

    Args:
        regions: (n,) valid polygons; they may overlap, then a point counts in each.
        xy_um: (m, 2) points.
        codes: (m,) class of each, 0 … classes - 1.
        classes: how many there are.

    Returns:
        int64 (n, classes) points inside each region, and int64 (classes,) points inside none.
    """
    counts = np.zeros((len(regions), classes), np.int64)
    none = np.zeros(classes, np.int64)
    for start, points in _batches(xy_um):
        region, point = shapely.STRtree(points).query(regions, predicate="intersects")
        of_class = codes[start : start + len(points)]
        np.add.at(counts, (region, of_class[point]), 1)
        outside = np.ones(len(points), bool)
        outside[point] = False
        none += np.bincount(of_class[outside], minlength=classes)
    return counts, none


def border_distances(regions: NDArray[np.object_], xy_um: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of each point (m, 2) to the nearest outline of regions, (m,): below 0 inside.

    `regions` are (n,) valid polygons, at least one.
    """
    tree = shapely.STRtree(border_pieces(regions))
    distances = np.empty(len(xy_um))
    for start, points in _batches(xy_um):
        (nearest, _), found = tree.query_nearest(points, return_distance=True, all_matches=False)
        of_points = distances[start : start + len(points)]
        of_points[nearest] = found
        _, inside = shapely.STRtree(points).query(regions, predicate="intersects")
        inside = np.unique(inside)
        of_points[inside] *= -1
    return distances


def border_pieces(regions: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return the outlines of polygons and of their holes, cut into lines of at most `EDGES` edges."""
    rings = shapely.get_rings(shapely.get_parts(regions))
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    lengths = np.bincount(ring, minlength=len(rings))
    first = np.cumsum(lengths) - lengths
    pieces = -(-(lengths - 1) // EDGES)  # of each ring
    of_ring = np.repeat(np.arange(len(rings)), pieces)
    number = np.arange(len(of_ring)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = first[of_ring] + EDGES * number
    stop = np.minimum(start + EDGES, (first + lengths - 1)[of_ring]) + 1
    points = stop - start
    index = np.repeat(np.arange(len(start)), points)
    position = np.arange(points.sum()) - np.repeat(np.cumsum(points) - points, points) + start[index]
    return np.asarray(shapely.linestrings(xy[position], indices=index), object)


def distance_edges(width_um: float, reach_um: float) -> NDArray[np.float64]:
    """Return the edges of bins, from -∞ to ∞: steps of `width_um` up to `reach_um` on both sides of 0."""
    steps = np.arange(1, int(np.ceil(reach_um / width_um - 1e-9)) + 1) * width_um
    return np.concatenate([[-np.inf], -steps[::-1], [0.0], steps, [np.inf]])


def areas_of_bins(
    inside: NDArray[np.bool_], counted: NDArray[np.bool_], um_per_px: float, edges_um: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the area, µm², of each bin of distances to a border, counted in pixels.

    Args:
        inside: (h, w) pixels whose center lies within the border.
        counted: (h, w) pixels that count.
        um_per_px: width and height of a pixel.
        edges_um: (k + 1,) edges, ascending.

    Returns:
        float64 (k,).
    """
    # A border runs half a pixel before the center of the first pixel beyond it.
    within = ndimage.distance_transform_edt(inside) - 0.5
    distance = np.where(inside, -within, ndimage.distance_transform_edt(~inside) - 0.5) * um_per_px
    bins = np.digitize(distance[counted], edges_um) - 1
    pixels = np.bincount(bins, minlength=len(edges_um) - 1)
    return np.asarray(pixels * um_per_px**2, np.float64)


def _batches(xy_um: NDArray[np.float64]) -> Iterator[tuple[int, NDArray[np.object_]]]:
    for start in range(0, len(xy_um), POINTS):
        yield start, np.asarray(shapely.points(xy_um[start : start + POINTS]), object)
