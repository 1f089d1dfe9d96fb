"""Regions of a group in little memory, for a summary and a picture: number, areas, coarse outlines."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_seg.core.classes import ClassGroup
from wsi_seg.regions.polygons import Region

# Outlines that are made into geometries at a time.
BATCH = 1000


@dataclass(slots=True)
class GroupOutlines:
    """The regions of one group, in little memory: some 50 bytes of each, and 16 of each coarse vertex."""

    group: ClassGroup
    count: int = 0
    area_um2: float = 0.0
    """Sum of `areas_um2`."""
    outlines: list[bytes] = field(default_factory=list)
    """WKB in map pixels, coarse: a region in as few vertices as a picture needs."""
    areas_um2: array[float] = field(default_factory=lambda: array("d"))
    """Area of each region as it was written, eight bytes apiece."""

    def polygons(self) -> Iterator[NDArray[np.object_]]:
        """Yield the coarse outlines, (n,) polygons at a time."""
        for start in range(0, len(self.outlines), BATCH):
            yield np.asarray(shapely.from_wkb(self.outlines[start : start + BATCH]), object)


@dataclass(frozen=True, slots=True)
class SizeHistogram:
    """Number of regions by area; bins follow 1, 2, 5, 10, … µm²."""

    edges_um2: tuple[float, ...]
    """One more than `counts`; empty where there are no regions."""
    counts: tuple[int, ...]
    """Of regions of at least the lower edge and less than the upper one."""


def note_outline(region: Region, groups: dict[ClassGroup, GroupOutlines], tolerance: float) -> None:
    """Note a region under its group in `groups`, where groups come in the order of their first regions.

    Args:
        region: in map pixels, with its area as it counts.
        groups: begins empty.
        tolerance: how far noted outlines may be off, in map pixels.
    """
    known = groups.setdefault(region.group, GroupOutlines(region.group))
    known.count += 1
    known.area_um2 += region.area_um2
    known.areas_um2.append(region.area_um2)
    known.outlines.append(shapely.to_wkb(shapely.simplify(region.polygon, tolerance)))


def size_histogram(areas_um2: Sequence[float]) -> SizeHistogram:
    """Count areas above zero in bins that follow 1, 2, 5, 10, … from the smallest area to the largest."""
    if not len(areas_um2):
        return SizeHistogram((), ())
    areas = np.asarray(areas_um2, np.float64)
    low, high = float(areas.min()), float(areas.max())
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    ladder = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    edges = ladder[bisect_right(ladder, low) - 1 : bisect_right(ladder, high) + 1]
    counts, _ = np.histogram(areas, edges)
    return SizeHistogram(tuple(edges), tuple(counts.tolist()))
