"""Where a slide is annotated, as boxes to read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from shapely import MultiPolygon, Polygon, STRtree

from wsi_seg.core.geometry import Box, RealBox

# Most map pixels along a side of a box, so that none is huge.
LONGEST_SIDE = 4096


def annotated_boxes(
    polygons: Sequence[Polygon | MultiPolygon], whole: Box, margin: int, longest: int = LONGEST_SIDE
) -> list[Box]:
    """Return boxes that do not overlap and hold all of the polygons that lies in the map.

    The bounding boxes of connected areas, grown by a margin, are merged where they overlap and cut into equal
    parts where they are too long. Parts that no polygon reaches are left out.

    Args:
        polygons: valid, in map pixels.
        whole: all map pixels.
        margin: in map pixels.
        longest: most map pixels along a side.

    Returns:
        Boxes of map pixels inside `whole`, by rows.
    """
    areas = shapely.get_parts(np.asarray(polygons, dtype=object))
    grown = [RealBox(*area.bounds).outward(margin).intersect(whole) for area in areas]
    boxes = np.array([(b.x0, b.y0, b.x1, b.y1) for b in grown if not b.empty], np.int64).reshape(-1, 4)
    tree = STRtree(areas)
    parts = [part for box in _merged(boxes) for part in _cut(Box(*map(int, box)), longest)]
    return sorted((part for part in parts if _reached(part, tree)), key=lambda box: (box.y0, box.x0))


def _merged(boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bounding boxes of what overlaps, until nothing does; (n, 4) x0, y0, x1, y1."""
    while True:
        # Boxes that only touch share no pixel and stay apart.
        shapes = shapely.box(*(boxes.T + np.array([[0.25], [0.25], [-0.25], [-0.25]])))
        one, other = STRtree(shapes).query(shapes, predicate="intersects")
        pairs = coo_array((np.ones(len(one), bool), (one, other)), shape=(len(boxes), len(boxes)))
        count, of = connected_components(pairs, directed=False)
        if count == len(boxes):
            return boxes
        low, high = boxes[:count, :2].copy(), boxes[:count, 2:].copy()
        low[of], high[of] = boxes[:, :2], boxes[:, 2:]
        np.minimum.at(low, of, boxes[:, :2])
        np.maximum.at(high, of, boxes[:, 2:])
        boxes = np.hstack([low, high])


def _cut(box: Box, longest: int) -> Iterator[Box]:
    columns, rows = -(-box.width // longest), -(-box.height // longest)
    xs = [box.x0 + box.width * i // columns for i in range(columns + 1)]
    ys = [box.y0 + box.height * i // rows for i in range(rows + 1)]
    for y0, y1 in pairwise(ys):
        for x0, x1 in pairwise(xs):
            yield Box(x0, y0, x1, y1)


def _reached(box: Box, tree: STRtree) -> bool:
    """Return whether a polygon reaches a pixel center of the box, or at least comes between them."""
    centers = shapely.box(box.x0 + 0.5, box.y0 + 0.5, box.x1 - 0.5, box.y1 - 0.5)
    return len(tree.query(centers, predicate="intersects")) > 0
