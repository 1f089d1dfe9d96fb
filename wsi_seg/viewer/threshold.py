"""Outlines of a group or class at any threshold, traced from the probability maps for one view."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_seg.core.geometry import Box, Scale
from wsi_seg.maps.fields import FULL
from wsi_seg.regions.contours import trace_contours
from wsi_seg.regions.settings import TraceSettings
from wsi_seg.results.region_files import RegionGroup
from wsi_seg.slides.slide import MapFrame
from wsi_seg.viewer.query import View
from wsi_seg.viewer.responses import Refused
from wsi_seg.viewer.screen_outlines import answer, power_of_two_below, ring_texts
from wsi_seg.viewer.sources import Channels, MapSource, pick_downsample

# Boxes are grown to multiples of this many level pixels: their border, along which regions are cut, lies
# outside the view, and views that differ a little are traced once.
STEP = 128
# Most level pixels that are traced for one view.
MOST_PIXELS = 4096 * 4096


def trace_box(source: MapSource, frame: MapFrame, what: Channels, view: View) -> tuple[int, Box]:
    """Return the level that suits a view, by its downsample, and the box of it to trace.

    Raises:
        Refused: 400, the box is too large for its scale.
    """
    l0_per_map = frame.l0_per_map
    downsample = pick_downsample(source, what.kind, view.scale / max(l0_per_map.x, l0_per_map.y))
    level = Scale(l0_per_map.x * downsample, l0_per_map.y * downsample)
    size = source.layout.map_size
    whole = Box(0, 0, -(-size.width // downsample), -(-size.height // downsample))
    x0, y0, x1, y1 = view.box_l0
    seen = Box(
        int(np.floor(x0 / level.x)), int(np.floor(y0 / level.y)),
        int(np.ceil(x1 / level.x)), int(np.ceil(y1 / level.y)),
    )  # fmt: skip
    box = seen.grown(STEP // 2).aligned(STEP).intersect(whole)
    if not box.empty and box.width * box.height > MOST_PIXELS:
        raise Refused(400, f"box is too large for scale {view.scale:g}; give a larger scale or a smaller box")
    return downsample, box


def trace_view(
    source: MapSource, frame: MapFrame, what: Channels, box: Box, downsample: int, trace: TraceSettings
) -> NDArray[np.object_]:
    """Return the polygons, in l0 pixels, in a box of pixels of the level `downsample`.

    Regions and holes below the limits are left out as the run does, but for those that the box cuts.
    """
    if box.empty:
        return np.empty(0, object)
    values = source.read(what, downsample, box)
    # As in `polygons`: a hair less, so that 0.6 of 255 means 153 whatever its floating-point product.
    threshold = trace.threshold * (FULL - 1e-9 if values.dtype == np.uint8 else 1)
    size = source.layout.map_size
    extent = tuple(
        min(float(length), whole / downsample - start)
        for length, whole, start in ((box.width, size.width, box.x0), (box.height, size.height, box.y0))
    )
    polygons = np.array(trace_contours(values, threshold, extent=(extent[0], extent[1])), object)
    um2_per_pixel = (frame.mpp * downsample) ** 2
    kept = _large(polygons, extent, trace.min_area_um2 / um2_per_pixel)
    filled = _without_small_holes(polygons[kept], trace.min_hole_um2 / um2_per_pixel)
    factor = np.array([frame.l0_per_map.x, frame.l0_per_map.y]) * downsample
    corner = np.array([box.x0, box.y0])
    return np.asarray(shapely.transform(filled, lambda xy: (xy + corner) * factor), object)


def _large(polygons: NDArray[np.object_], extent: tuple[float, ...], least: float) -> NDArray[np.bool_]:
    x0, y0, x1, y1 = shapely.bounds(polygons).reshape(-1, 4).T
    cut = (x0 <= 0.5) | (y0 <= 0.5) | (x1 >= extent[0] - 0.5) | (y1 >= extent[1] - 0.5)
    return np.asarray((shapely.area(polygons) >= least) | cut, bool)


def _without_small_holes(polygons: NDArray[np.object_], least: float) -> NDArray[np.object_]:
    result = polygons.copy()
    for i in np.flatnonzero(shapely.get_num_interior_rings(polygons) > 0).tolist():
        outer, *holes = shapely.get_rings(polygons[i])
        kept = [hole for hole in holes if shapely.area(shapely.polygons(hole)) >= least]
        result[i] = shapely.polygons(outer, kept or None)
    return result


def show_contours(polygons: NDArray[np.object_], group: RegionGroup, view: View) -> str:
    """Return polygons in l0 pixels as `Outlines.show` returns regions; `i` numbers those of this answer."""
    scale = power_of_two_below(view.scale)
    x0, y0, x1, y1 = shapely.bounds(polygons).reshape(-1, 4).T
    left, top, right, bottom = view.box_l0
    seen = (x0 <= right) & (x1 >= left) & (y0 <= bottom) & (y1 >= top)
    large = seen & (np.maximum(x1 - x0, y1 - y0) >= view.scale)
    pieces = [
        f'{{"i":{i},"g":0,"rings":[{rings}]}}' for i, rings in enumerate(ring_texts(polygons[large], scale))
    ]
    return answer([group], pieces, int(np.count_nonzero(seen & ~large)))
