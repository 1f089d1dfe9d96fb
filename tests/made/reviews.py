"""Reviews without a run: regions as arrays, and entries on them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from wsi_seg.core.classes import BCSS_GROUPS
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.results.region_files import RegionGroup, Regions
from wsi_seg.review.entries import ReviewEntry
from wsi_seg.review.results import ReviewedResults, region_values
from wsi_seg.slides.slide import SlideInfo

SIZE = Size(2000, 1500)
BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def slide_info(fingerprint: str = "sha256:abc/1", bounds: Box | None = None) -> SlideInfo:
    return SlideInfo(
        "/slides/a.svs", "a", "openslide", "made", SIZE, (), Scale(0.5, 0.5), "user", bounds, fingerprint
    )


def regions_of(*named: tuple[shapely.Geometry, str]) -> Regions:
    """Return regions of these outlines (l0) and names of BCSS groups."""
    groups = {group.name: group for group in BCSS_GROUPS}
    names = tuple(dict.fromkeys(name for _, name in named))
    shapes = np.array([shape for shape, _ in named], object)
    return Regions(
        shapes,
        shapely.bounds(shapes).reshape(-1, 4),
        np.array([names.index(name) for _, name in named], np.int32),
        tuple(RegionGroup(n, groups[n].qupath_name, groups[n].color) for n in names),
        tuple(str(uuid.uuid5(uuid.NAMESPACE_OID, f"{name}{shape.wkt}")) for shape, name in named),
        ("{}",) * len(named),
    )


def reviewed_results(regions: Regions, slide: SlideInfo | None = None) -> ReviewedResults:
    return ReviewedResults(Path("results/a"), slide or slide_info(), "m" * 8, BCSS_GROUPS, regions)


def verdict_on(regions: Regions, index: int, verdict: str = "accepted", **values: Any) -> ReviewEntry:
    """Return an entry on a region; accepted ones have its class."""
    facts = region_values(regions, index)
    if verdict == "accepted":
        facts["class_name"] = facts["region_class"]
    given = {"slide": slide_info().fingerprint, "reviewer": "Ada", "verdict": verdict, **facts, **values}
    return ReviewEntry(**given)


def at(seconds: float) -> datetime:
    """Return a time so many seconds after `BEGIN`."""
    return BEGIN + timedelta(seconds=seconds)
