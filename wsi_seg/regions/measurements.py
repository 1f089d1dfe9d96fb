"""Measurements inside regions: class shares, mean probability and uncertainty, in one pass over the maps.

A pixel belongs to a region by the pixel-center rule of `rasterize`. A region too small to hold any pixel
center is measured at the one pixel under a point inside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Point

from wsi_seg.annotations.rasterize import PixelRuns, polygon_edges, strip_runs
from wsi_seg.core.geometry import Box
from wsi_seg.core.threads import map_ahead
from wsi_seg.maps.fields import ChannelSum, LabelField

# Map pixels a side of the blocks that are read at a time. Those of probabilities are larger, as these have
# fewer pixels: a chunk of the stores of `maps` is read once.
LABEL_BLOCK = 1024
PROBABILITY_BLOCK = 2048


@dataclass(frozen=True, slots=True)
class Measured:
    """Measurements of one region, explained at `polygons.Region`."""

    mean_probability: float
    shares: dict[str, float]
    mean_uncertainty: float | None = None


def measure_regions(
    polygons: NDArray[np.object_],
    labels: LabelField,
    group: ChannelSum,
    uncertainty: ChannelSum | None = None,
) -> Iterator[Measured]:
    """Measure disjoint regions; each block of the maps that they touch is read once.

    Args:
        polygons: (n,) in map pixels, neither overlapping nor touching.
        labels: of the whole map.
        group: probability of the regions' group.
        uncertainty: of the same shape, where it is known; it may be of another type.

    Yields:
        One for each polygon, in their order.
    """
    fields = (group,) if uncertainty is None else (group, uncertainty)
    totals = _RegionTotals(len(polygons), labels.columns, len(fields))
    top, bottom = shapely.bounds(polygons).reshape(-1, 4).T[1::2]

    def runs(strip: Box, downsample: int, block: int) -> Iterator[PixelRuns]:
        here = np.flatnonzero((top < strip.y1 * downsample) & (bottom > strip.y0 * downsample))
        edges = polygon_edges(polygons[here], here + 1).shrunk(downsample)
        return (part for part in strip_runs(edges, strip, block) if part.ids.any())

    def of_fields(strip: Box) -> list[_Sums]:
        return [_sums(part, fields) for part in runs(strip, group.downsample, coarse)]

    def of_labels(strip: Box) -> list[_LabelCounts]:
        return [_counts(part, labels) for part in runs(strip, 1, LABEL_BLOCK)]

    coarse = max(1, PROBABILITY_BLOCK // group.downsample)
    for sums in map_ahead(of_fields, _strips(group.shape, coarse)):
        totals.add_fields(sums)
    for found in map_ahead(of_labels, _strips(labels.shape, LABEL_BLOCK)):
        totals.add_labels(found)
    _measure_small(polygons, totals, labels, fields)
    full = np.array([[field.full] for field in fields])
    means = np.minimum(totals.sums / totals.pixels / full, 1.0).T
    for mean, counts in zip(means, totals.labels, strict=True):
        probability, *rest = mean.tolist()
        yield Measured(probability, labels.shares(counts), *rest)


def _strips(shape: tuple[int, ...], side: int) -> Iterator[Box]:
    """Yield the strips of a (height, width) map, `side` pixels high."""
    height, width = shape
    for y0 in range(0, height, side):
        yield Box(0, y0, width, min(y0 + side, height))


@dataclass(frozen=True, slots=True)
class _LabelCounts:
    """Of one block: the label pixels of each region there, (regions here, columns of `LabelField`)."""

    present: NDArray[np.intp]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Sums:
    """Of one block: the probability pixels of each region there, and each field's sum over those."""

    present: NDArray[np.intp]
    pixels: NDArray[np.int64]
    sums: tuple[NDArray[np.float64], ...]


def _counts(runs: PixelRuns, labels: LabelField) -> _LabelCounts:
    codes = labels[runs.box.slices].ravel()
    # PixelRuns of one region and of one code: most are long, and pixels are many.
    starts = np.concatenate([runs.start, np.flatnonzero(codes[1:] != codes[:-1]) + 1])
    order = np.argsort(starts, kind="stable")
    start = starts[order]
    ids = runs.ids[np.cumsum(order < len(runs.start)) - 1]
    present, position, inside = _present(ids)
    lengths = np.diff(start, append=codes.size)[inside]
    width = labels.columns
    cell = position * width + labels.column(codes[start[inside]])
    counts = np.bincount(cell, lengths, len(present) * width).astype(np.int64)
    return _LabelCounts(present, counts.reshape(-1, width))


def _sums(runs: PixelRuns, fields: Sequence[ChannelSum]) -> _Sums:
    present, position, inside = _present(runs.ids)

    def total(of_runs: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(position, of_runs[inside]).astype(np.float64)

    values = (field[runs.box.slices].ravel() for field in fields)
    sums = tuple(total(np.add.reduceat(found, runs.start, dtype=np.float64)) for found in values)
    return _Sums(present, total(runs.lengths).astype(np.int64), sums)


class _RegionTotals:
    """Counts and sums of a group's regions, added up block by block, always in the same order."""

    def __init__(self, regions: int, columns: int, fields: int) -> None:
        self.labels = np.zeros((regions, columns), np.int64)
        """Label pixels of each region in each column of `LabelField`."""
        self.pixels = np.zeros(regions, np.int64)
        """Probability pixels of each region."""
        self.sums = np.zeros((fields, regions), np.float64)
        """Sum of each field over those, in the field's units."""

    def add_labels(self, counts: Sequence[_LabelCounts]) -> None:
        for block in counts:
            self.labels[block.present] += block.labels

    def add_fields(self, sums: Sequence[_Sums]) -> None:
        for block in sums:
            self.pixels[block.present] += block.pixels
            for total, here in zip(self.sums, block.sums, strict=True):
                total[block.present] += here


def _present(ids: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """Return the regions of runs, each inside run's position in that list, and which runs are inside."""
    inside = ids > 0
    region = ids[inside] - 1
    first = region.min()
    region -= first
    found = np.bincount(region) > 0
    return np.flatnonzero(found) + first, (np.cumsum(found) - 1)[region], inside


def _measure_small(
    polygons: NDArray[np.object_], totals: _RegionTotals, labels: LabelField, fields: Sequence[ChannelSum]
) -> None:
    """Give regions without any pixel center the one pixel under a point inside them."""
    for i in np.flatnonzero((totals.pixels == 0) | (totals.labels.sum(axis=1) == 0)).tolist():
        point = shapely.point_on_surface(polygons[i])
        if totals.pixels[i] == 0:
            pixel = _pixel(point, fields[0].shape, fields[0].downsample)
            totals.pixels[i], totals.sums[:, i] = 1, [field[pixel].item() for field in fields]
        if totals.labels[i].sum() == 0:
            code = labels[_pixel(point, labels.shape, 1)]
            totals.labels[i, labels.column(code).item()] = 1


def _pixel(point: Point, shape: tuple[int, ...], downsample: int) -> tuple[slice, slice]:
    row = min(int(point.y / downsample), shape[0] - 1)
    column = min(int(point.x / downsample), shape[1] - 1)
    return slice(row, row + 1), slice(column, column + 1)
