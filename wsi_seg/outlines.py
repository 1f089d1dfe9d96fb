"""What a summary and a picture need of regions that stream by: how many, how large, and where about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import shapely
from shapely import Polygon

from wsi_seg.classes import ClassGroup
from wsi_seg.polygons import Region


@dataclass(slots=True)
class GroupOutlines:
    """The regions of one group, in little memory."""

    group: ClassGroup
    count: int = 0
    area_um2: float = 0.0
    """Sum of the regions' areas."""
    polygons: list[Polygon] = field(default_factory=list)
    """In map pixels, coarse: a region in as few vertices as a picture needs."""


def keep_outlines(
    regions: Iterable[Region], groups: dict[ClassGroup, GroupOutlines], tolerance: float
) -> Iterator[Region]:
    """Pass regions on, and note each under its group in `groups`, which begins empty.

    Args:
        regions: in map pixels.
        groups: filled as regions pass; groups come in the order of their first regions.
        tolerance: how far noted outlines may be off, in map pixels.
    """
    for region in regions:
        known = groups.setdefault(region.group, GroupOutlines(region.group))
        known.count += 1
        known.area_um2 += region.area_um2
        known.polygons.append(shapely.simplify(region.polygon, tolerance))
        yield region
