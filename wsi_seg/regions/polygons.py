"""From maps to regions: which parts of the slide belong to a class, as measured polygons.

Positions are map pixels (see `geometry`). Everything is read block by block. Regions come in an order that is
known only when all of a group are traced, so traced ones go into a `PolygonSpool`: memory holds less than 100
bytes of each, outlines that are not yet whole with what lies in their boxes, and a `WINDOW` of polygons.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon

from wsi_seg.core.classes import ClassGroup
from wsi_seg.core.threads import map_ahead
from wsi_seg.maps.fields import ChannelSum, LabelField
from wsi_seg.regions.block_contours import TracedBlocks
from wsi_seg.regions.contours import stream_contours
from wsi_seg.regions.group_fields import MapArrays, group_probability, traced_field
from wsi_seg.regions.measurements import measure_regions
from wsi_seg.regions.rings import are_near, connected, near_pairs
from wsi_seg.regions.settings import TraceSettings
from wsi_seg.regions.spool import PolygonSpool

# Geometries that a thread simplifies at a time.
PART = 256

# Bytes of traced polygons, as WKB, that are measured together: some 70,000 small ones, or a single large one.
# Blocks of maps that two of these lots meet are read twice.
WINDOW = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Region:
    """One connected region of a group."""

    polygon: Polygon
    """Valid, in map pixels."""
    group: ClassGroup
    area_um2: float
    """Area of `polygon`, without its holes. `write_geojson` measures it again on what it writes."""
    perimeter_um: float
    """Length of the outline and of the holes' outlines; measured again likewise."""
    mean_probability: float
    """Mean of the group's probability over the probability pixels whose center lies inside, 0 … 1; NaN where
    it is not stored."""
    shares: dict[str, float]
    """Class name to its share of the analyzed label pixels whose center lies inside, in the order of the
    model's classes, without those that do not occur; empty when nothing inside was analyzed."""
    mean_uncertainty: float | None = None
    """Mean of the uncertainty over the same pixels as `mean_probability`, 0 … 1; None where not stored."""


def trace(
    maps: MapArrays, groups: Sequence[ClassGroup], settings: TraceSettings | None = None
) -> list[Region]:
    """Return the measured regions of each group, in the order of `groups`, each from top to bottom.

    Regions of one group neither overlap nor touch, before and after simplification.

    Raises:
        UsageError: a group has no class of these maps.
    """
    return list(iter_regions(maps, groups, settings))


def iter_regions(
    maps: MapArrays,
    groups: Sequence[ClassGroup],
    settings: TraceSettings | None = None,
    blocks: TracedBlocks | None = None,
) -> Iterator[Region]:
    """Return an iterator over the regions of `trace`, which holds few of them in memory.

    Where `blocks` hold their contours, traced with the same settings, the maps are read for measuring alone.

    Raises:
        UsageError: a group has no class of these maps, or it is to be traced by its probability and that is
            not stored; raised before anything is traced.
        OutputError: there is no room for a temporary file of outlines; raised by the iterator.
    """
    unique, settings = tuple(dict.fromkeys(groups)), settings or TraceSettings()
    fields = [group_probability(maps, group, settings) for group in unique]
    return _regions(maps, dict(zip(unique, fields, strict=True)), settings, blocks)


def _regions(
    maps: MapArrays,
    fields: Mapping[ClassGroup, ChannelSum],
    settings: TraceSettings,
    blocks: TracedBlocks | None,
) -> Iterator[Region]:
    labels = LabelField(maps.labels, maps.classes)
    for group, field in fields.items():
        for polygons in _outlines(maps, group, settings, blocks):
            areas = (shapely.area(polygons) * maps.mpp**2).tolist()
            lengths = (shapely.length(polygons) * maps.mpp).tolist()
            measured = measure_regions(polygons, labels, field, maps.uncertainty)
            for polygon, area, length, inside in zip(polygons, areas, lengths, measured, strict=True):
                mean, uncertainty = inside.mean_probability, inside.mean_uncertainty
                yield Region(polygon, group, area, length, mean, inside.shares, uncertainty)


def _outlines(
    maps: MapArrays, group: ClassGroup, settings: TraceSettings, blocks: TracedBlocks | None
) -> Iterator[NDArray[np.object_]]:
    """Yield the simplified polygons of one group in map pixels, sorted by top, then left, some at a time."""
    traced = traced_field(maps, group, settings)
    tolerance, scale = settings.tolerance_um / maps.mpp, traced.scale
    reach = 2 * tolerance / scale
    if blocks is None:
        batches = stream_contours(
            traced.field,
            traced.level.threshold,
            extent=traced.extent,
            limits=traced.level.limits,
            reach=reach,
        )
    else:
        batches = blocks.polygons(group, traced, reach)
    bounds = []
    with PolygonSpool() as spool:
        for batch in batches:
            whole = shapely.transform(shapely.normalize(batch), lambda xy: xy * scale)
            whole = whole[_order(shapely.bounds(whole))]
            simplified = simplify_together(whole, tolerance)
            large = shapely.area(simplified) * maps.mpp**2 >= settings.min_area_um2
            spool.add(simplified[large])
            bounds.append(shapely.bounds(whole[large]))
        yield from spool.read(_order(np.concatenate(bounds)), WINDOW)


def _order(bounds: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the order of boxes (n, 4) from top to bottom, then from left to right."""
    x0, y0, x1, y1 = bounds.reshape(-1, 4).T
    return np.lexsort((x1, y1, x0, y0))


def simplify_together(polygons: NDArray[np.object_], tolerance: float) -> NDArray[np.object_]:
    """Simplify disjoint polygons so that they stay valid and disjoint.

    Args:
        polygons: (n,) disjoint polygons; one may lie in a hole of another.
        tolerance: how far an outline may move, in the unit of the polygons.

    Returns:
        (n,) polygons in the same order.
    """
    result, left = polygons.copy(), np.arange(len(polygons))
    one, other = near_pairs(shapely.bounds(polygons).reshape(-1, 4), 2 * tolerance)
    group, exact = connected(len(polygons), one, other), False
    while len(left) and tolerance > 0:
        result[left] = _simplify_rings(polygons[left], tolerance)
        invalid = _invalid(result[left], group[left])
        if len(invalid) and not exact:  # boxes are near far more often than outlines
            near = are_near(polygons, one, other, 2 * tolerance)
            group, exact = connected(len(polygons), one[near], other[near]), True
            invalid = _invalid(result[left], group[left])
        left = left[np.isin(group[left], invalid)]
        # GEOS is meant to keep them valid, and older versions did not in every case: ask for less.
        tolerance = tolerance / 2 if tolerance > 1e-3 else 0.0
    result[left] = polygons[left]
    return result


def _invalid(polygons: NDArray[np.object_], group: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the groups of polygons that are not valid, or not disjoint."""
    order = np.argsort(group, kind="stable")
    numbers, index = np.unique(group[order], return_inverse=True)
    return numbers[~shapely.is_valid(shapely.multipolygons(polygons[order], indices=index))]


def _simplify_rings(polygons: NDArray[np.object_], tolerance: float) -> NDArray[np.object_]:
    """Return polygons with each ring simplified; rings near each other keep from crossing.

    GEOS compares each ring with all others of a geometry, so a geometry holds only what can meet: outlines
    move by the tolerance at most.
    """
    rings, owner = shapely.get_rings(polygons, return_index=True)
    one, other = near_pairs(shapely.bounds(rings), 2 * tolerance)
    near = are_near(rings, one, other, 2 * tolerance)
    group = connected(len(rings), one[near], other[near])
    order = np.argsort(group, kind="stable")
    # Of polygons, for only then may the vertex that a ring begins with be dropped.
    alone = np.asarray(shapely.polygons(rings[order]))
    together = np.asarray(shapely.multipolygons(alone, indices=group[order]))
    # In parts: GEOS works on several at a time.
    parts = (together[at : at + PART] for at in range(0, len(together), PART))
    done = map_ahead(lambda part: shapely.simplify(part, tolerance, preserve_topology=True), parts)
    simple = np.concatenate([shapely.get_parts(part) for part in done])
    if len(simple) != len(rings):
        return polygons
    result = np.empty_like(rings)
    result[order] = shapely.get_exterior_ring(simple)
    return np.asarray(shapely.polygons(result, indices=owner), object).reshape(-1)
