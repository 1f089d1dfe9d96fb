"""Regions where other software expects them: in l0 pixels, on a grid, valid, measured and with an id.

QuPath crops a slide to its `openslide.bounds-*`, so positions are counted from there by default; other
programs count from level 0. QuPath snaps coordinates to a grid of 0.01 px and refuses a whole file for one
polygon that is invalid then, so all are snapped and checked here, and every format gets the same outlines.
"""

from __future__ import annotations

import math
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon

from wsi_seg.annotations.annotation import polygonal_part
from wsi_seg.core.errors import UsageError
from wsi_seg.core.geometry import Origin
from wsi_seg.core.threads import map_ahead
from wsi_seg.regions.polygons import Region
from wsi_seg.slides.slide import MapFrame, SlideInfo, require_mpp

# QuPath's grid, in l0 pixels.
GRID = 0.01

# Any fixed namespace: ids are to be the same whenever and wherever a region is written.
ID_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "wsi_seg/region")

# Regions that are worked on together; more gain nothing.
BATCH = 1000


@dataclass(frozen=True, slots=True)
class PlacedRegion:
    """A region as a file holds it."""

    region: Region
    """Its area and perimeter are those of `geometry`; its polygon is still in map pixels."""
    geometry: Polygon | MultiPolygon
    """l0 pixels from the origin that was asked for; valid, outer rings counterclockwise (y up)."""
    identity: str
    """UUID, the same whenever this region of this slide is written."""
    number: int
    """Counts the regions of its group, from 1."""

    @property
    def name(self) -> str:
        return f"{self.region.group.qupath_name} {self.number}"


def origin_l0(slide: SlideInfo, origin: Origin) -> tuple[float, float]:
    """Return the l0 position, x and y, from which positions are counted.

    Raises:
        UsageError: another origin than `bounds` or `level0`.
    """
    if origin not in ("bounds", "level0"):
        raise UsageError(f"origin must be bounds or level0, got {origin!r}")
    crop = slide.bounds if origin == "bounds" else None
    return (float(crop.x0), float(crop.y0)) if crop is not None else (0.0, 0.0)


def facts(slide: SlideInfo, frame: MapFrame, origin: Origin) -> dict[str, Any]:
    """Return what files say of the frame of their positions, as JSON: l0 is a position + `subtracted_l0`.

    Raises:
        UsageError: another origin.
        MppMissingError: the slide has no mpp.
    """
    mpp = require_mpp(slide)
    return {
        "origin": origin,
        "subtracted_l0": list(origin_l0(slide, origin)),
        "slide": slide.name,
        "fingerprint": slide.fingerprint,
        "mpp": [mpp.x, mpp.y],
        "map_mpp": frame.mpp,
    }


def placed_regions(
    regions: Iterable[Region], *, slide: SlideInfo, frame: MapFrame, origin: Origin
) -> Iterator[PlacedRegion]:
    """Yield regions as files hold them, without those of which nothing is left on the grid or the slide.

    Args:
        regions: in map pixels of `frame`; an iterator is not held in memory.
        slide: the slide they lie on.
        frame: its map frame.
        origin: what positions are counted from, see `origin_l0`.

    Raises:
        UsageError: another origin.
        MppMissingError: the slide has no mpp.
    """
    counted_from = origin_l0(slide, origin)

    def placed(batch: list[Region]) -> Iterator[tuple[Region, Polygon | MultiPolygon | None, str | None]]:
        found, shapes = place(batch, slide, frame, counted_from)
        return zip(found, shapes.tolist(), keys(shapes), strict=True)

    counts: Counter[str] = Counter()
    for batch in map_ahead(placed, batches(regions)):
        for region, geometry, key in batch:
            if geometry is not None:
                counts[region.group.name] += 1
                yield PlacedRegion(region, geometry, identity(slide, region, key), counts[region.group.name])


def batches(regions: Iterable[Region]) -> Iterator[list[Region]]:
    """Yield regions as lists of at most `BATCH`."""
    rest = iter(regions)
    while batch := list(islice(rest, BATCH)):
        yield batch


def place(
    batch: list[Region], slide: SlideInfo, frame: MapFrame, origin_l0: tuple[float, float]
) -> tuple[list[Region], NDArray[np.object_]]:
    """Return regions with area and perimeter of what is written, and the geometries, (n,); None if vanished.

    Raises:
        MppMissingError: the slide has no mpp.
    """
    mpp = require_mpp(slide)
    um = np.array([mpp.x, mpp.y])
    shapes = to_l0(np.array([region.polygon for region in batch]), slide, frame, origin_l0)
    in_um = shapely.transform(shapes, lambda xy_l0: xy_l0 * um)
    figures = zip(batch, shapely.area(in_um).tolist(), shapely.length(in_um).tolist(), strict=True)
    return [replace(region, area_um2=area, perimeter_um=length) for region, area, length in figures], shapes


def to_l0(
    polygons: NDArray[np.object_], slide: SlideInfo, frame: MapFrame, origin_l0: tuple[float, float]
) -> NDArray[np.object_]:
    """Return polygons in map pixels, (n,), as files hold them: moved, cut at the edge, snapped, valid.

    `origin_l0` is what to subtract from l0 positions, x and y.

    Returns:
        (n,) Polygon or MultiPolygon; None when nothing is left of it. Snapping may part a polygon where it
        was thinner than the grid.
    """
    dx, dy = origin_l0
    factor, shift = np.array([frame.l0_per_map.x, frame.l0_per_map.y]), np.array([dx, dy])
    moved = _polygonal(shapely.transform(polygons, lambda xy_map: xy_map * factor - shift))
    # The map's last column and row may reach beyond the slide by part of a pixel.
    whole = shapely.box(-dx, -dy, slide.size.width - dx, slide.size.height - dy)
    x0, y0, x1, y1 = whole.bounds
    left, top, right, bottom = shapely.bounds(moved).T
    beyond = (left < x0) | (top < y0) | (right > x1) | (bottom > y1)
    moved[beyond] = shapely.intersection(moved[beyond], whole)
    snapped = _polygonal(shapely.set_precision(moved, GRID, mode="valid_output"))
    return np.asarray(shapely.orient_polygons(snapped), object)


def keys(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return text that tells each geometry from others; None for None."""
    return np.asarray(shapely.to_wkb(geometries, hex=True, byte_order=1), object)


def identity(slide: SlideInfo, region: Region, key: str | None) -> str:
    """Return the UUID of a region from its slide, group and `keys`."""
    return str(uuid.uuid5(ID_NAMESPACE, f"{slide.fingerprint}/{region.group.name}/{key}"))


def measurements(region: Region) -> dict[str, float]:
    """Return the figures of a region under the names that QuPath shows, without those that are not finite."""
    values = {
        "Area µm^2": round(region.area_um2, 2),
        "Perimeter µm": round(region.perimeter_um, 2),
        "Mean probability": round(region.mean_probability, 4),
        **_uncertainty(region),
        **{f"Share {name}": round(share, 4) for name, share in region.shares.items()},
    }
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _uncertainty(region: Region) -> dict[str, float]:
    known = region.mean_uncertainty
    return {} if known is None else {"Mean uncertainty": round(known, 4)}


def _polygonal(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return `polygonal_part` of each geometry; None stays None."""
    result = geometries.copy()
    good = (
        shapely.is_valid(geometries) & (shapely.get_type_id(geometries) == 3) & (shapely.area(geometries) > 0)
    )
    for i in np.flatnonzero(~good & ~shapely.is_missing(geometries)).tolist():
        result[i] = polygonal_part(geometries[i])
    return result
