"""Polygons with a value each, painted into targets by the pixel-centre rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon

from wsi_seg.datasets.region import IGNORED, Targets
from wsi_seg.errors import DataError
from wsi_seg.geometry import Box, RealBox, Size
from wsi_seg.rasterize import Edges, fill_edges, polygon_edges

# Hand-drawn outlines cross the border of an image by a pixel or so; more of their area says that they belong
# to another image, or to another resolution or origin.
OUTSIDE_SHARE = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """Polygons in one pixel frame. Where they overlap the smaller one wins: it was drawn inside the larger.

    Of equally large ones the later wins.
    """

    edges: tuple[Edges, ...]
    """Of each polygon, the largest first."""
    bounds: NDArray[np.float64]
    """(n, 4) x0, y0, x1, y1 of each."""
    values: tuple[int, ...]
    """What each means."""

    @classmethod
    def of(cls, polygons: Sequence[Polygon | MultiPolygon], values: Sequence[int]) -> Self:
        """Return the drawing of valid polygons, holes included, with a value for each."""
        order = np.argsort(-shapely.area(np.asarray(polygons, dtype=object)), kind="stable")
        ordered = [polygons[i] for i in order]
        bounds = np.array([polygon.bounds for polygon in ordered], np.float64).reshape(-1, 4)
        edges = tuple(polygon_edges([polygon], [1]) for polygon in ordered)
        return cls(edges, bounds, tuple(int(values[i]) for i in order))

    def paint(self, box: Box, step: int = 1, ground: int = IGNORED) -> Targets:
        """Return the value at each pixel centre of a box.

        Args:
            box: pixels of the drawing's frame.
            step: paint only the pixels step // 2, step // 2 + step, … of both axes of the box.
            ground: value where there is no polygon.

        Returns:
            int16 (box.height, box.width), of which every step-th row and column.
        """
        rows, columns = (max(0, -(-(side - step // 2) // step)) for side in (box.height, box.width))
        out = np.full((rows, columns), ground, np.int16)
        meet = (self.bounds[:, :2] < (box.x1, box.y1)).all(1) & (self.bounds[:, 2:] > (box.x0, box.y0)).all(1)
        for i in np.flatnonzero(meet):
            part = RealBox(*self.bounds[i]).outward().intersect(box)
            # Whole cells of the grid of steps, so that the part has the box's own pixels.
            x, y = (part.x0 - box.x0) // step, (part.y0 - box.y0) // step
            part = Box(box.x0 + x * step, box.y0 + y * step, part.x1, part.y1)
            inside = fill_edges(self.edges[i], part, step) > 0
            view = out[y : y + inside.shape[0], x : x + inside.shape[1]]
            view[inside] = self.values[i]
        return out


def check_inside(polygon: Polygon | MultiPolygon, size: Size, what: str, image: object) -> None:
    """Refuse a polygon of which more than a hundredth lies outside its image.

    Args:
        polygon: in pixels of the image.
        size: of the image.
        what: file and polygon, the start of the message.
        image: what the polygon is drawn on, for the message.

    Raises:
        DataError: it does.
    """
    inside = polygon.intersection(shapely.box(0, 0, size.width, size.height)).area
    if polygon.area - inside > OUTSIDE_SHARE * polygon.area:
        x0, y0, x1, y1 = polygon.bounds
        raise DataError(
            f"{what} lies outside its image {image} of {size.width}×{size.height} pixels: "
            f"x {x0:.0f} … {x1:.0f}, y {y0:.0f} … {y1:.0f}; is it of another image, resolution or origin?"
        )
