"""From maps to regions: which parts of the slide belong to a class, as measured polygons.

Positions are map pixels (see `geometry`). Everything is read block by block. Regions come in an order that is
known only when all of a group are traced, so traced ones go into a `PolygonSpool`: memory holds less than 100
bytes of each, outlines that are not yet whole with what lies in their boxes, and a `WINDOW` of polygons.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon

from wsi_seg.core.classes import ClassGroup, TissueClass, find_channels, not_stored
from wsi_seg.core.errors import UsageError
from wsi_seg.core.threads import map_ahead
from wsi_seg.maps.fields import FULL, ChannelSum, LabelField, Unknown
from wsi_seg.regions.contours import Field, stream_contours
from wsi_seg.regions.measurements import measure_regions
from wsi_seg.regions.rings import RingLimits, are_near, connected, near_pairs
from wsi_seg.regions.settings import TraceSettings
from wsi_seg.regions.spool import PolygonSpool

# Geometries that a thread simplifies at a time.
PART = 256

# Bytes of traced polygons, as WKB, that are measured together: some 70,000 small ones, or a single large one.
# Blocks of maps that two of these lots meet are read twice.
WINDOW = 16 * 2**20


class MapArrays(Protocol):
    """The maps of one slide, as far as tracing needs them; arrays may be NumPy or Zarr."""

    @property
    def mpp(self) -> float:
        """Microns per map pixel."""

    @property
    def classes(self) -> tuple[TissueClass, ...]:
        """Classes of the labels."""

    @property
    def channels(self) -> tuple[ClassGroup, ...]:
        """Content of each probability channel: a class, the sum of several, or something else."""

    @property
    def labels(self) -> Any:
        """uint8 (y, x): class codes at full map resolution, 0 = not analyzed."""

    @property
    def probabilities(self) -> Any:
        """(c, y, x): uint8 (value / 255) or float32; pixel i covers map pixels [ds * i, ds * (i + 1)). Only
        asked for where there are `channels`.
        """

    @property
    def probability_downsample(self) -> int:
        """Map pixels per probability pixel, the `ds` above; the last pixel may be only partly inside."""

    @property
    def uncertainty(self) -> ChannelSum | None:
        """Uncertainty in the frame of the probabilities; None where it was not stored."""


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
    maps: MapArrays, groups: Sequence[ClassGroup], settings: TraceSettings | None = None
) -> Iterator[Region]:
    """Return an iterator over the regions of `trace`, which holds few of them in memory.

    Raises:
        UsageError: a group has no class of these maps, or it is to be traced by its probability and that is
            not stored; raised before anything is traced.
        OutputError: there is no room for a temporary file of outlines; raised by the iterator.
    """
    unique, settings = tuple(dict.fromkeys(groups)), settings or TraceSettings()
    fields = [_group_field(maps, group, settings) for group in unique]
    return _regions(maps, unique, fields, settings)


def _regions(
    maps: MapArrays, groups: Sequence[ClassGroup], fields: Sequence[ChannelSum], settings: TraceSettings
) -> Iterator[Region]:
    labels = LabelField(maps.labels, maps.classes)
    for group, field in zip(groups, fields, strict=True):
        for polygons in _outlines(maps, group, field, settings):
            areas = (shapely.area(polygons) * maps.mpp**2).tolist()
            lengths = (shapely.length(polygons) * maps.mpp).tolist()
            measured = measure_regions(polygons, labels, field, maps.uncertainty)
            for polygon, area, length, inside in zip(polygons, areas, lengths, measured, strict=True):
                mean, uncertainty = inside.mean_probability, inside.mean_uncertainty
                yield Region(polygon, group, area, length, mean, inside.shares, uncertainty)


@dataclass(frozen=True, slots=True)
class _GroupLabels:
    """1 where the label belongs to the group, else 0."""

    labels: Any
    codes: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.labels.shape)

    def __getitem__(self, key: tuple[slice, slice], /) -> NDArray[np.uint8]:
        labels: NDArray[np.uint8] = np.asarray(self.labels[key])
        inside = np.zeros(labels.shape, bool)
        for code in self.codes:  # a group has few, and comparing is quicker than a table
            inside |= labels == code
        return inside.view(np.uint8)


def _group_field(maps: MapArrays, group: ClassGroup, settings: TraceSettings) -> ChannelSum:
    codes = {c.code for c in maps.classes}.intersection(group.codes)
    if not codes:
        names = ", ".join(c.name for c in maps.classes)
        raise UsageError(f"group {group.name!r} has no class of these maps; they hold {names}")
    channels = find_channels((channel.codes for channel in maps.channels), codes)
    downsample = maps.probability_downsample
    if channels is not None:
        return ChannelSum(maps.probabilities, channels, downsample)
    if settings.source == "probabilities":
        raise UsageError(f"{not_stored(group.name, maps.channels)}, or trace labels (--source labels)")
    height, width = (-(-side // downsample) for side in maps.labels.shape)
    return ChannelSum(Unknown((1, height, width)), (0,), downsample)


def _outlines(
    maps: MapArrays, group: ClassGroup, probability: ChannelSum, settings: TraceSettings
) -> Iterator[NDArray[np.object_]]:
    """Yield the simplified polygons of one group in map pixels, sorted by top, then left, some at a time."""
    height, width = maps.labels.shape
    field: Field
    if settings.source == "labels":
        field, threshold, scale = _GroupLabels(maps.labels, group.codes), 1.0, 1
    else:
        field, scale = probability, maps.probability_downsample
        # A hair less, so that 0.6 of 255 means 153 whatever its floating-point product.
        threshold = settings.threshold * (FULL - 1e-9 if probability.dtype == np.uint8 else 1)
    um2_per_pixel = (maps.mpp * scale) ** 2
    limits = RingLimits(settings.min_area_um2 / um2_per_pixel, settings.min_hole_um2 / um2_per_pixel)
    tolerance = settings.tolerance_um / maps.mpp
    batches = stream_contours(
        field,
        threshold,
        extent=(width / scale, height / scale),
        limits=limits,
        reach=2 * tolerance / scale,
    )
    bounds = []
    with PolygonSpool() as spool:
        for batch in batches:
            traced = shapely.transform(shapely.normalize(batch), lambda xy: xy * scale)
            traced = traced[_order(shapely.bounds(traced))]
            simplified = simplify_together(traced, tolerance)
            large = shapely.area(simplified) * maps.mpp**2 >= settings.min_area_um2
            spool.add(simplified[large])
            bounds.append(shapely.bounds(traced[large]))
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
