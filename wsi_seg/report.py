"""What a run says about itself: `summary.json` for people and tables, `manifest.json` for the record."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import re
import resource
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import wsi_seg
from wsi_seg.bottleneck import bottleneck
from wsi_seg.classes import ClassGroup
from wsi_seg.jobs import BlockRecord
from wsi_seg.outlines import GroupOutlines, size_histogram
from wsi_seg.plan import ModelFacts, SegmentationPlan
from wsi_seg.settings import RunSettings

UM2_PER_MM2 = 1e6

# Packages whose version can change a result.
VERSIONED = (
    "numpy", "torch", "segmentation-models-pytorch", "timm", "dask", "zarr", "openslide-python",
    "openslide-bin", "tifffile", "imagecodecs", "tiffslide", "pillow", "shapely", "contourpy", "scipy",
)  # fmt: skip


@dataclass(frozen=True)
class RunFacts:
    """Everything known at the end of a run."""

    plan: SegmentationPlan
    model: ModelFacts
    settings: RunSettings
    groups: tuple[ClassGroup, ...]
    records: Sequence[BlockRecord]
    """Of all blocks, those of an earlier, interrupted run included."""
    blocks_before: int
    """Records that come from the earlier run; they are the first."""
    seconds: dict[str, float]
    """Wall time per stage of the driver."""
    started: datetime
    forward_seconds: float | None = None
    """Of the network alone for one tile; None where it was not measured."""


def run_key(plan: SegmentationPlan, groups: tuple[ClassGroup, ...], settings: RunSettings) -> str:
    """Return the hash of all that decides the results: the maps' key and how regions are traced."""
    regions = [
        plan.key,
        [dataclasses.asdict(group) for group in groups],
        dataclasses.asdict(settings.regions.trace),
        settings.regions.origin,
    ]
    return hashlib.sha256(json.dumps(regions, sort_keys=True).encode()).hexdigest()


def summarise(facts: RunFacts, regions: Mapping[ClassGroup, GroupOutlines]) -> dict[str, Any]:
    """Return areas in mm², counts, seconds per stage and rates."""
    plan = facts.plan
    pixel_mm2 = plan.frame.mpp**2 / UM2_PER_MM2
    counts: Counter[int] = Counter()
    for record in facts.records:
        counts.update(record.counts)
    analysed = sum(record.tissue_pixels for record in facts.records)
    tiles = sum(record.tiles for record in facts.records)
    tiles_now = sum(record.tiles for record in facts.records[facts.blocks_before :])
    busy: Counter[str] = Counter()
    for record in facts.records[facts.blocks_before :]:
        busy.update(record.seconds)
    blocks_wall = facts.seconds.get("blocks", 0.0)
    failed = [record for record in facts.records if record.error]
    return {
        "slide": plan.slide.name,
        "status": "incomplete" if failed else "complete",
        "model": plan.model,
        "notice": facts.model.card.notice,
        "tissue_area_mm2": round(analysed * pixel_mm2, 6),
        "class_area_mm2": {
            c.name: round(counts[c.code] * pixel_mm2, 6) for c in facts.model.card.classes if counts[c.code]
        },
        "group_area_mm2": {
            g.name: round(sum(counts[code] for code in g.codes) * pixel_mm2, 6)
            for g in facts.model.card.groups
        },
        "regions": {
            group.name: _region_summary(regions.get(group, GroupOutlines(group))) for group in facts.groups
        },
        "tiles": tiles,
        "blocks": len(facts.records),
        "blocks_failed": len(failed),
        "seconds": {stage: round(value, 3) for stage, value in facts.seconds.items()},
        "worker_seconds": {stage: round(value, 3) for stage, value in busy.items()},
        "tiles_per_second": round(tiles_now / blocks_wall, 3) if blocks_wall > 0 else None,
        "bottleneck": bottleneck(facts.seconds, busy, tiles=tiles_now, forward_seconds=facts.forward_seconds),
        "peak_memory_mib": round(peak_memory_bytes() / 2**20),
    }


def _region_summary(regions: GroupOutlines) -> dict[str, Any]:
    areas = regions.areas_um2
    sizes = size_histogram(areas)
    return {
        "count": regions.count,
        "area_mm2": round(regions.area_um2 / UM2_PER_MM2, 6),
        "median_area_um2": round(statistics.median(areas), 2) if areas else None,
        "largest_area_um2": round(max(areas), 2) if areas else None,
        "sizes": {"edges_um2": list(sizes.edges_um2), "counts": list(sizes.counts)},
    }


def manifest(facts: RunFacts, key: str) -> dict[str, Any]:
    """Return what is needed to defend or repeat the results."""
    plan = facts.plan
    slide = plan.slide
    bounds = slide.bounds
    subtract = bounds is not None and facts.settings.regions.origin == "bounds"
    return {
        "key": key,
        "maps_key": plan.key,
        "started": facts.started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "slide": dataclasses.asdict(slide),
        "frame": dataclasses.asdict(plan.frame),
        "origin_subtracted_l0": [bounds.x0, bounds.y0] if subtract and bounds is not None else [0, 0],
        "model": {
            "digest": plan.model_digest,
            "card": facts.model.card.model_dump(mode="json"),
        },
        "settings": dataclasses.asdict(facts.settings),
        "plan": {k: v for k, v in plan.to_json().items() if k not in ("slide", "frame", "blocks", "layout")},
        "warnings": list(plan.warnings),
        "blocks_failed": [
            {"ix": r.ix, "iy": r.iy, "reason": r.error} for r in facts.records if r.error is not None
        ],
    }


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of what can change a result."""
    return {
        "wsi-seg": wsi_seg.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in VERSIONED},
    }


def peak_memory_bytes() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux ru_maxrss may still hold the size of the process that started this one; VmHWM does not.
        kib = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(encoding="utf-8"), re.MULTILINE)
        if kib is not None:
            return int(kib[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024
