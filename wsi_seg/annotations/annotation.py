"""Drawn regions as values: what every reader of annotations returns, and the shapes that it builds.

Positions are continuous: pixel (column c, row r) covers [c, c + 1) × [r, r + 1); its center is at + 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon

from wsi_seg.core.classes import canonical_name
from wsi_seg.core.errors import MaskError
from wsi_seg.core.geometry import Box, Origin, Size

# What QuPath calls an annotation without a class.
UNCLASSIFIED = "Unclassified"
# Class of areas that no command takes into account, whatever else the user names.
IGNORE = "Ignore*"

# Attributes of groups of ASAP and of layers of Aperio, which `wsi_seg.exporters` writes: l0 x and y between
# blanks, and the group in whose regions the annotations of a group are holes.
SUBTRACTED = "subtracted_l0"
HOLE_OF = "hole_of"

# Pixels by which the polygon that stands for an ellipse may differ from it, and the most corners it gets.
ELLIPSE_ERROR = 0.05
MOST_CORNERS = 4096


@dataclass(frozen=True, slots=True)
class Annotation:
    """One drawn region."""

    geometry: Polygon | MultiPolygon
    """Valid, area above zero, in the file's coordinates."""
    name: str | None
    """Name of its class; None when it has none."""
    where: str
    """File and place in it, for messages."""
    image: str | None = None
    """Name of its image, where the file says it."""


@dataclass(frozen=True, slots=True)
class Annotations:
    """All drawn regions of one file."""

    items: tuple[Annotation, ...]
    """At least one, unless an empty file was asked for."""
    subtracted_l0: tuple[float, float] | None
    """Offset to add to get l0 positions; None: neither file nor format says it, see `in_l0`."""
    images: Mapping[str, Size | None] = field(default_factory=dict)
    """Images that the file names, those without a region too, and their sizes where it says them."""

    @property
    def geometries(self) -> NDArray[Any]:
        """Those of the items, an object array (n,)."""
        return np.array([item.geometry for item in self.items], dtype=object)

    def in_l0(self, bounds: Box | None, origin: Origin) -> Annotations:
        """Return the same regions in l0 pixels.

        Args:
            bounds: the non-empty region of the slide in l0 pixels, where it states one.
            origin: what positions count from, unless file or format says it: `bounds` (QuPath) or `level0`.
        """
        moved_by = np.array(self.subtracted_l0 or (0.0, 0.0))
        if self.subtracted_l0 is None and origin == "bounds" and bounds is not None:
            moved_by[:] = bounds.x0, bounds.y0
        moved = shapely.transform(self.geometries, lambda xy: xy + moved_by)
        items = tuple(replace(item, geometry=g) for item, g in zip(self.items, moved, strict=True))
        return replace(self, items=items, subtracted_l0=(0.0, 0.0))


@dataclass(frozen=True, slots=True)
class Drawn:
    """Something drawn, as a reader finds it, before any check."""

    kind: str
    """The file's word for it."""
    geometry: shapely.Geometry | None
    """Perhaps invalid or empty; None: a kind without area, such as a point or a line."""
    name: str | None
    where: str
    image: str | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """Result of a reader; see `Annotations`."""

    drawn: Sequence[Drawn]
    subtracted_l0: tuple[float, float] | None = (0.0, 0.0)
    images: Mapping[str, Size | None] = field(default_factory=dict)


def is_named(name: str | None, names: Iterable[str]) -> bool:
    """Return whether a class is one of several; None, no class, is called Unclassified."""
    return canonical_name(name or UNCLASSIFIED) in map(canonical_name, names)


# --- shapes ---------------------------------------------------------------------------------------------


def polygonal_part(geometry: shapely.Geometry) -> Polygon | MultiPolygon | None:
    """Return the valid, areal part of a geometry, or None when it has no area."""
    if not shapely.is_valid(geometry):
        # "structure": where parts overlap or a line crosses itself, all that was encircled counts.
        geometry = shapely.make_valid(geometry, method="structure", keep_collapsed=False)
    parts = shapely.get_parts(shapely.get_parts(geometry))
    polygons = [part for part in parts if isinstance(part, Polygon) and part.area > 0]
    if len(polygons) > 1:
        return MultiPolygon(polygons)
    return polygons[0] if polygons else None


def union_of(shapes: Sequence[shapely.Geometry]) -> shapely.Geometry:
    """Return the area that any of the shapes covers, each of which may cross itself."""
    parts = [part for shape in shapes if (part := polygonal_part(shape)) is not None]
    return parts[0] if len(parts) == 1 else shapely.union_all(parts)


def polygon_of(
    ring: Sequence[Sequence[float]], where: str, holes: Sequence[Sequence[Sequence[float]]] = ()
) -> shapely.Geometry:
    """Return the area within a ring, closed or not, less that within its holes; empty below three points.

    Args:
        ring: points of x, y and perhaps more, which is left out.
        where: file and place, for messages.
        holes: rings as well.

    Raises:
        MaskError: a position is not a finite number.
    """
    if not all(math.isfinite(value) for points in (ring, *holes) for point in points for value in point[:2]):
        raise MaskError(f"{where}: a position is not a finite number")
    outer, *inner = (
        Polygon([xy[:2] for xy in points]) if len(points) > 2 else Polygon() for points in (ring, *holes)
    )
    return shapely.difference(union_of([outer]), union_of(inner)) if inner else outer


def ellipse_of(center: Sequence[float], radii: Sequence[float], angle: float = 0.0) -> Polygon:
    """Return an ellipse as a polygon that differs from it by less than `ELLIPSE_ERROR` pixels.

    Args:
        center: x, y.
        radii: along its own x and y.
        angle: of its own x, in radians, from x toward y.
    """
    largest = max(abs(radii[0]), abs(radii[1]), ELLIPSE_ERROR)
    corners = math.ceil(math.pi / math.acos(1 - min(1.0, ELLIPSE_ERROR / largest)))
    turn = np.linspace(0, 2 * math.pi, min(max(corners, 16), MOST_CORNERS), endpoint=False)
    x, y = radii[0] * np.cos(turn), radii[1] * np.sin(turn)
    cos, sin = math.cos(angle), math.sin(angle)
    return Polygon(np.column_stack([center[0] + x * cos - y * sin, center[1] + x * sin + y * cos]))


def within_corners(points: Sequence[Sequence[float]], where: str, *, ellipse: bool) -> shapely.Geometry:
    """Return the upright rectangle that points span, or the ellipse in it; raises as `polygon_of`."""
    if len(points) < 2:
        return Polygon()
    polygon_of(points, where)  # which checks the positions
    (x0, y0), (x1, y1) = np.min(points, axis=0)[:2], np.max(points, axis=0)[:2]
    if ellipse:
        return ellipse_of(((x0 + x1) / 2, (y0 + y1) / 2), ((x1 - x0) / 2, (y1 - y0) / 2))
    return Polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def pixels_of(start: NDArray[np.int64], stop: NDArray[np.int64], height: int) -> shapely.Geometry:
    """Return the area of runs of pixels, which are numbered from 0 down each column, column after column.

    Args:
        start: (n,) first pixel of each run.
        stop: (n,) pixel after its last one.
        height: pixels in a column.
    """
    first, top = np.divmod(start, height)
    last, bottom = np.divmod(stop, height)  # the rows above `bottom` of column `last` belong to the run
    within = first == last
    none, full = np.zeros_like(first), np.full_like(first, height)
    x0 = np.concatenate([first, first + 1, last])
    y0 = np.concatenate([top, none, none])
    x1 = np.concatenate([first + 1, np.maximum(last, first + 1), last + 1])
    y1 = np.concatenate([np.where(within, bottom, height), full, np.where(within, 0, bottom)])
    parts = shapely.box(x0, y0, x1, y1)
    pixels: shapely.Geometry = shapely.union_all(parts[shapely.area(parts) > 0])
    return pixels
