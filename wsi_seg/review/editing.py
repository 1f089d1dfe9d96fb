"""Edits of an outline that need more than moving its corners: brush and eraser, holes, splitting, merging."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon
from shapely.ops import split

from wsi_seg.core.errors import UsageError
from wsi_seg.core.geometry import Size
from wsi_seg.review.entries import snapped

Shape = Polygon | MultiPolygon
# Corners of a quarter of the brush's circle, and the share of its radius by which its outline is simplified.
QUARTER = 8
SIMPLIFIED = 0.02


def brush(line: Sequence[Sequence[float]], radius: float) -> Shape:
    """Return what a round brush covers: line and radius in l0 pixels; one point is a dot."""
    points = np.asarray(line, float).reshape(-1, 2)
    path = shapely.LineString(points) if len(points) > 1 else shapely.Point(points[0])
    covered = shapely.buffer(path, radius, quad_segs=QUARTER)
    return snapped(shapely.simplify(covered, SIMPLIFIED * radius))


def united(shape: Shape, other: Shape, size: Size) -> Shape:
    """Return what either covers on a slide: painting on, or merging two regions; l0 pixels."""
    whole = shapely.box(0, 0, size.width, size.height)
    return snapped(shapely.intersection(shapely.union(shape, other), whole))


def without(shape: Shape, other: Shape) -> Shape:
    """Return a shape less another: erasing, or a hole; UsageError where nothing is left."""
    return snapped(shapely.difference(shape, other))


def divided(shape: Shape, line: Sequence[Sequence[float]]) -> list[Shape]:
    """Return the parts of a shape on each side of a line, largest first, l0 pixels.

    Raises:
        UsageError: the line does not cross it from side to side.
    """
    cut = shapely.LineString(np.asarray(line, float).reshape(-1, 2))
    polygons = shapely.get_parts(shape).tolist()
    pieces = [piece for polygon in polygons for piece in split(polygon, cut).geoms]
    if len(pieces) == len(polygons):
        raise UsageError("line: does not divide the region; draw it across, from outside to outside")
    return sorted((snapped(piece) for piece in pieces), key=lambda piece: -piece.area)
