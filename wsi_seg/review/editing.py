"""Edits of an outline that need more than moving its corners: brush and eraser, holes, splitting, merging."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon
from shapely.ops import split

from wsi_seg.core.errors import UsageError
from wsi_seg.core.geometry import Size
from wsi_seg.review.entries import MOST_PAIRS, PAIRS_PER_CORNER, near_pairs_exceed, snapped

Shape = Polygon | MultiPolygon
# Corners of a quarter of the brush's circle, and the share of its radius by which its outline is simplified.
QUARTER = 8
SIMPLIFIED = 0.02
# Edges of a stroke whose surroundings are made at once: those of a whole stroke that goes to and fro over one
# place took a minute and more, in pieces a fraction of a second.
PIECE = 8
# Pairs of edges of a stroke that may meet; thousands of points in circles over each other have 200,000.
MOST_STROKE_PAIRS = 400_000


def brush(line: Sequence[Sequence[float]], radius: float) -> Shape:
    """Return what a round brush covers: line and radius in l0 pixels; one point is a dot.

    Raises:
        UsageError: the line crosses itself too often.
    """
    points = np.asarray(line, float).reshape(-1, 2)
    if len(points) == 1:
        return snapped(shapely.buffer(shapely.Point(points[0]), radius, quad_segs=QUARTER))
    path = shapely.LineString(points)
    if near_pairs_exceed(path, path, MOST_STROKE_PAIRS):
        raise UsageError("line: crosses itself too often; paint in shorter strokes")
    pieces = [shapely.LineString(points[i : i + PIECE + 1]) for i in range(0, len(points) - 1, PIECE)]
    covered = shapely.union_all(shapely.buffer(pieces, radius, quad_segs=QUARTER))
    return snapped(shapely.simplify(covered, SIMPLIFIED * radius))


def united(shape: Shape, other: Shape, size: Size) -> Shape:
    """Return what either covers on a slide: painting on, or merging two regions; l0 pixels.

    Raises:
        UsageError: their outlines cross each other too often.
    """
    _refuse_tangle(shape, other)
    whole = shapely.box(0, 0, size.width, size.height)
    return snapped(shapely.intersection(shapely.union(shape, other), whole))


def without(shape: Shape, other: Shape) -> Shape:
    """Return a shape less another: erasing, or a hole.

    Raises:
        UsageError: nothing is left, or their outlines cross each other too often.
    """
    _refuse_tangle(shape, other)
    return snapped(shapely.difference(shape, other))


def divided(shape: Shape, line: Sequence[Sequence[float]]) -> list[Shape]:
    """Return the parts of a shape on each side of a line, largest first, l0 pixels.

    Raises:
        UsageError: the line does not cross it from side to side, or crosses itself or it too often.
    """
    cut = shapely.LineString(np.asarray(line, float).reshape(-1, 2))
    _refuse_tangle(cut, cut)
    _refuse_tangle(shape, cut)
    polygons = shapely.get_parts(shape).tolist()
    pieces = [piece for polygon in polygons for piece in split(polygon, cut).geoms]
    if len(pieces) == len(polygons):
        raise UsageError("line: does not divide the region; draw it across, from outside to outside")
    return sorted((snapped(piece) for piece in pieces), key=lambda piece: -piece.area)


def _refuse_tangle(one: shapely.Geometry, other: shapely.Geometry) -> None:
    """Raise UsageError where two outlines or lines cross so often that an edit would take minutes."""
    corners = int(shapely.get_num_coordinates(one) + shapely.get_num_coordinates(other))
    if near_pairs_exceed(one, other, MOST_PAIRS + PAIRS_PER_CORNER * corners):
        raise UsageError("line: crosses itself or the outline too often; draw it in parts")
