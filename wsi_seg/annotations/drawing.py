"""Polygons with a value each, painted by the pixel-center rule: the smaller of two that overlap wins."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely import MultiPolygon, Polygon

from wsi_seg.annotations.rasterize import Edges, fill_edges, outline_pixels, polygon_edges
from wsi_seg.core.errors import DataError
from wsi_seg.core.geometry import Box, Scale, Size

# Hand-drawn outlines cross the border of an image by a pixel or so; more of their area says that they belong
# to another image, or to another resolution or origin.
OUTSIDE_SHARE = 0.01

# Pixels that could be filled in the time in which a polygon is looked at.
PIXELS_A_POLYGON = 20_000

Polygons = Sequence[Polygon | MultiPolygon] | NDArray[np.object_]


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """Polygons in one pixel frame, painted one over the other."""

    edges: Edges
    """Of all polygons, in the order in which they are painted."""
    start: NDArray[np.intp]
    """(n + 1,) polygon i has the edges start[i] … start[i + 1] - 1."""
    bounds: NDArray[np.float64]
    """(n, 4) x0, y0, x1, y1 of each."""
    values: NDArray[np.int16]
    """(n,) of each."""

    @classmethod
    def of(cls, polygons: Polygons, values: ArrayLike) -> Self:
        """Return the drawing of valid polygons, holes included, with a value for each.

        Where they overlap the smaller one wins: it was drawn inside the larger. Of equally large ones the
        later wins.
        """
        order = largest_first(polygons)
        return cls.in_order(np.asarray(polygons, dtype=object)[order], np.asarray(values)[order])

    @classmethod
    def in_order(cls, polygons: Polygons, values: ArrayLike) -> Self:
        """Return the drawing of valid polygons of which the later wins, whatever its size."""
        ordered = np.asarray(polygons, dtype=object)
        edges = polygon_edges(ordered, np.arange(1, len(ordered) + 1))
        owner = np.abs(edges.step) - 1
        sorted_ = edges.take(np.argsort(owner, kind="stable"))
        start = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(ordered)))]).astype(np.intp)
        bounds = shapely.bounds(ordered).reshape(-1, 4)
        return cls(
            Edges(sorted_.lower, sorted_.upper, np.sign(sorted_.step)),
            start,
            bounds,
            np.asarray(values, np.int16),
        )

    def paint(self, box: Box, step: int = 1, *, ground: int) -> NDArray[np.int16]:
        """Return the value at each pixel center of a box.

        Args:
            box: pixels of the drawing's frame.
            step: paint only the pixels step // 2, step // 2 + step, … of both axes of the box.
            ground: value where there is no polygon.

        Returns:
            int16 (box.height, box.width), of which every step-th row and column.
        """
        rows, columns = (max(0, -(-(side - step // 2) // step)) for side in (box.height, box.width))
        out = np.full((rows, columns), ground, np.int16)
        for which, part in self.groups(box):
            # Whole cells of the grid of steps, so that the part has the box's own pixels.
            x, y = (part.x0 - box.x0) // step, (part.y0 - box.y0) // step
            part = Box(box.x0 + x * step, box.y0 + y * step, part.x1, part.y1)
            inside = fill_edges(self._edges_of(which), part, step) > 0
            view = out[y : y + inside.shape[0], x : x + inside.shape[1]]
            view[inside] = self.values[which[0]]
        return out

    def groups(self, box: Box) -> Iterator[tuple[NDArray[np.intp], Box]]:
        """Yield the polygons that reach into a box, in order: one by one, or several of one value at once.

        Yields:
            Their numbers, and the part of the box that they lie in.
        """
        meet = (self.bounds[:, :2] < (box.x1, box.y1)).all(1) & (self.bounds[:, 2:] > (box.x0, box.y0)).all(1)
        found = np.flatnonzero(meet)
        low = np.maximum(np.floor(self.bounds[found, :2]), (box.x0, box.y0)).astype(np.intp)
        high = np.minimum(np.ceil(self.bounds[found, 2:]), (box.x1, box.y1)).astype(np.intp)
        changes = np.flatnonzero(np.diff(self.values[found])) + 1
        for run in np.split(np.arange(len(found)), changes) if len(found) else ():
            apart = (high[run] - low[run]).prod(axis=1).sum() + PIXELS_A_POLYGON * len(run)
            whole = Box(*map(int, (*low[run].min(axis=0), *high[run].max(axis=0))))
            if whole.width * whole.height <= apart:
                yield found[run], whole
            else:
                for i in run:
                    yield found[i : i + 1], Box(*map(int, (*low[i], *high[i])))

    def _edges_of(self, which: NDArray[np.intp]) -> Edges:
        begin, end = self.start[which[0]], self.start[which[-1] + 1]
        if len(which) == which[-1] + 1 - which[0]:
            return self.edges.take(slice(begin, end))
        lengths = self.start[which + 1] - self.start[which]
        first = self.start[which] - (np.cumsum(lengths) - lengths)
        return self.edges.take(np.repeat(first, lengths) + np.arange(lengths.sum()))

    def scaled(self, pixel: Scale) -> Drawing:
        """Return the same drawing in a frame whose pixels are so many of this frame's wide and high."""
        bounds = self.bounds / (pixel.x, pixel.y, pixel.x, pixel.y)
        return Drawing(self.edges.shrunk(pixel), self.start, bounds, self.values)

    def cropped(self, box: Box) -> Drawing:
        """Return a drawing that paints any part of a box, in any frame, as this one does."""
        groups = list(self.groups(box))
        edges = [self._edges_of(which).cropped(box) for which, _ in groups]
        bounds = np.array([(part.x0, part.y0, part.x1, part.y1) for _, part in groups], np.float64)
        return Drawing(
            _joined(edges),
            np.concatenate([[0], np.cumsum([len(e.step) for e in edges])]).astype(np.intp),
            bounds.reshape(-1, 4),
            self.values[[which[0] for which, _ in groups]],
        )

    def digest(self) -> str:
        """Return a SHA-256 of what is drawn and where."""
        digest = hashlib.sha256()
        for part in (self.edges.lower, self.edges.upper, self.edges.step, self.start, self.values):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


def _joined(edges: Sequence[Edges]) -> Edges:
    if not edges:
        return Edges(np.empty((0, 2)), np.empty((0, 2)), np.empty(0, np.int32))
    return Edges(*(np.concatenate([getattr(e, name) for e in edges]) for name in ("lower", "upper", "step")))


def largest_first(polygons: Polygons) -> NDArray[np.intp]:
    """Return the order in which polygons are painted, so that the smaller one wins."""
    return np.argsort(-shapely.area(np.asarray(polygons, dtype=object)), kind="stable")


def reached_pixels(polygons: Polygons, values: ArrayLike, box: Box, value: int) -> NDArray[np.bool_]:
    """Return the pixels of which some part may have this value, were the polygons painted much finer.

    Args:
        polygons: valid, in the pixel frame of `box`, in the order of `Drawing.in_order`.
        values: of each.
        box: pixels to look at.
        value: asked for.

    Returns:
        bool (box.height, box.width), never False where `Drawing.paint` in a finer frame gives the value.
    """
    drawing = Drawing.in_order(polygons, values)
    out = np.zeros((box.height, box.width), bool)
    for which, part in drawing.groups(box):
        outline = outline_pixels(np.asarray(polygons, dtype=object)[which], part)
        inside = fill_edges(drawing._edges_of(which), part) > 0
        view = out[part.within(box)]
        if drawing.values[which[0]] == value:
            view |= inside | outline
        else:
            view &= outline | ~inside
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
