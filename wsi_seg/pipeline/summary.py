"""Records of a run: `summary.json` for people and tables, `manifest.json` for provenance."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from wsi_seg.core.assessed import assessed_codes, describe_unassessed
from wsi_seg.core.card import ModelCard, Task
from wsi_seg.core.classes import ClassGroup
from wsi_seg.core.system import peak_memory_bytes
from wsi_seg.core.versions import versions
from wsi_seg.execution.graph import Flight
from wsi_seg.execution.tasks import BlockRecord
from wsi_seg.pipeline.settings import RunSettings
from wsi_seg.planning.plan import ModelFacts, SegmentationPlan
from wsi_seg.regions.group_outlines import GroupOutlines, size_histogram
from wsi_seg.results.bottleneck import bottleneck, lanes_of
from wsi_seg.tissue.domain import NO_STAIN, compare

UM2_PER_MM2 = 1e6

# Packages whose version can change a result.
VERSIONED = (
    "numpy", "torch", "segmentation-models-pytorch", "timm", "dask", "zarr", "openslide-python",
    "openslide-bin", "tifffile", "imagecodecs", "tiffslide", "pillow", "shapely", "scipy",
)  # fmt: skip


@dataclass(frozen=True)
class FinishedRun:
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
    versions: Mapping[str, str]
    """See `result_versions`."""
    flight: Flight
    """Tasks of the run, and of others on the same workers meanwhile or before."""
    request: str | None = None
    """See `run_inputs.RunInputs.key`."""
    made_with: Mapping[str, str] = field(default_factory=dict)
    """See `run_inputs.made_with`."""
    content: Mapping[str, Any] = field(default_factory=dict)
    """See `matching.ExpectedResults.content`."""
    finders: Mapping[Task, ModelFacts] = field(default_factory=dict)
    """See `Finders.facts`."""

    @property
    def incomplete(self) -> bool:
        """True where unreadable tissue was left out or read from another level."""
        return any(r.unread_pixels or r.other_level_pixels or not r.written for r in self.records)

    @property
    def warnings(self) -> list[str]:
        """Warnings of the plan, and of devices without enough memory for its batch."""
        fewer = [record.fewer_tiles for record in self.records if record.fewer_tiles]
        if not fewer:
            return list(self.plan.warnings)
        said = (
            f"{len(fewer)} of {len(self.records)} blocks were predicted with as few as {min(fewer)} tiles at "
            f"a time, not {self.plan.batch}, for lack of device memory; a few labels may differ"
        )
        return [*self.plan.warnings, said]


def run_key(
    plan: SegmentationPlan,
    groups: tuple[ClassGroup, ...],
    settings: RunSettings,
    made_with: Mapping[str, str],
) -> str:
    """Return the hash of all that decides the results: versions, the maps' key and how regions are traced."""
    regions = [
        dict(made_with),
        plan.key,
        [dataclasses.asdict(group) for group in groups],
        dataclasses.asdict(settings.regions.trace),
        settings.regions.origin,
    ]
    return hashlib.sha256(json.dumps(regions, sort_keys=True).encode()).hexdigest()


def summarize(facts: FinishedRun, regions: Mapping[ClassGroup, GroupOutlines]) -> dict[str, Any]:
    """Return areas in mm², counts, seconds per stage and rates.

    Areas of tissue, classes and groups are counted in label pixels. Those of `regions` are the areas of the
    polygons as written: at a threshold of their own, without small ones, simplified, cut at the slide's edge.
    """
    plan = facts.plan
    pixel_mm2 = plan.frame.mpp**2 / UM2_PER_MM2
    counts: Counter[int] = Counter()
    for record in facts.records:
        counts.update(record.counts)
    analyzed = sum(record.tissue_pixels for record in facts.records)
    tiles = sum(record.tiles for record in facts.records)
    now = facts.records[facts.blocks_before :]
    tiles_now = sum(record.tiles for record in now)
    busy: Counter[str] = Counter()
    for record in now:
        busy.update(record.seconds)
    blocks_wall = facts.seconds.get("blocks", 0.0)
    unread = sum(record.unread_pixels for record in facts.records)
    return {
        "slide": plan.slide.name,
        "status": "incomplete" if facts.incomplete else "complete",
        "model": plan.model,
        "notice": facts.model.card.notice,
        "warnings": facts.warnings,
        **_likeness(facts),
        "reader": plan.slide.reader,
        "mpp": None if plan.slide.mpp is None else [plan.slide.mpp.x, plan.slide.mpp.y],
        "mpp_source": plan.slide.mpp_source,
        "tissue_source": plan.tissue_source,
        "tissue_area_mm2": round(analyzed * pixel_mm2, 6),
        **_areas(facts.model.card, counts, pixel_mm2),
        "artifacts": _artifact_summary(facts, pixel_mm2),
        "regions": {
            group.name: _region_summary(regions.get(group, GroupOutlines(group)), facts.model.card)
            for group in facts.groups
        },
        "tiles": tiles,
        "blocks": len(facts.records),
        "blocks_failed": sum(not record.written for record in facts.records),
        "coverage": {
            "analyzed_share": round(analyzed / (analyzed + unread), 6) if analyzed + unread else None,
            "unread_mm2": round(unread * pixel_mm2, 6),
            "other_level_mm2": round(sum(r.other_level_pixels for r in facts.records) * pixel_mm2, 6),
        },
        "seconds": {stage: round(value, 3) for stage, value in facts.seconds.items()},
        "worker_seconds": {stage: round(value, 3) for stage, value in busy.items()},
        "tiles_per_second": round(tiles_now / blocks_wall, 3) if blocks_wall > 0 else None,
        "bottleneck": bottleneck(facts.seconds, busy, lanes_of((r.lane for r in now), plan.passes)),
        "peak_memory_mib": round(peak_memory_bytes() / 2**20),
        "peak_worker_memory_mib": round(max((r.peak_memory for r in facts.records), default=0) / 2**20),
        "tasks_in_flight": {"peak": facts.flight.tasks, "limit": facts.flight.limit},
    }


def _likeness(facts: FinishedRun) -> dict[str, Any]:
    """Return the comparison with the training data, where the card describes them."""
    domain = facts.model.card.domain
    if domain is None:
        return {}
    sums = sum((record.stain for record in facts.records), NO_STAIN)
    return {"domain": dataclasses.asdict(compare(sums, domain))}


def _artifact_summary(facts: FinishedRun, pixel_mm2: float) -> dict[str, Any] | None:
    """Return the area of each class of artifacts in the tissue; None where they were not looked for.

    Those that are excluded are in no other area.
    """
    plan = facts.plan
    if plan.artifacts_source is None:
        return None
    counts: Counter[int] = Counter()
    for record in facts.records:
        counts.update(record.artifacts)
    return {
        "source": plan.artifacts_source,
        "excluded": not facts.settings.keep_artifacts,
        "area_mm2": {c.name: round(counts[c.code] * pixel_mm2, 6) for c in plan.layout.artifacts},
    }


def _areas(card: ModelCard, counts: Mapping[int, int], pixel_mm2: float) -> dict[str, Any]:
    """Return the areas of classes and groups, None of a group of which no class is assessed."""
    known = assessed_codes(card)
    missing = describe_unassessed(card)
    return {
        "class_area_mm2": {
            c.name: round(counts[c.code] * pixel_mm2, 6) for c in card.classes if counts[c.code]
        },
        "group_area_mm2": {
            g.name: None
            if known.isdisjoint(g.codes)
            else round(sum(counts[code] for code in g.codes) * pixel_mm2, 6)
            for g in card.groups
        },
        **({} if missing is None else {"not_assessed": missing}),
    }


def _region_summary(regions: GroupOutlines, card: ModelCard) -> dict[str, Any]:
    areas = regions.areas_um2
    sizes = size_histogram(areas)
    return {
        "count": regions.count,
        "area_mm2": round(regions.area_um2 / UM2_PER_MM2, 6),
        "median_area_um2": round(statistics.median(areas), 2) if areas else None,
        "largest_area_um2": round(max(areas), 2) if areas else None,
        "sizes": {"edges_um2": list(sizes.edges_um2), "counts": list(sizes.counts)},
        **({"assessed": False} if assessed_codes(card).isdisjoint(regions.group.codes) else {}),
    }


def manifest(facts: FinishedRun, key: str) -> dict[str, Any]:
    """Return what is needed to defend or repeat the results."""
    plan = facts.plan
    slide = plan.slide
    bounds = slide.bounds
    subtract = bounds is not None and facts.settings.regions.origin == "bounds"
    return {
        "key": key,
        "request": facts.request,
        "made_with": dict(facts.made_with),
        "content": dict(facts.content),
        "maps_key": plan.key,
        "started": facts.started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": facts.versions,
        "slide": dataclasses.asdict(slide),
        "frame": dataclasses.asdict(plan.frame),
        "origin_subtracted_l0": [bounds.x0, bounds.y0] if subtract and bounds is not None else [0, 0],
        "model": {
            "digest": plan.model_digest,
            "card": facts.model.card.model_dump(mode="json"),
        },
        "finders": {
            task: {"digest": found.digest, "card": found.card.model_dump(mode="json")}
            for task, found in facts.finders.items()
        },
        "settings": settings_json(facts.settings),
        "plan": {k: v for k, v in plan.to_json().items() if k not in ("slide", "frame", "blocks", "layout")},
        "warnings": facts.warnings,
        "faults": [
            {
                "ix": r.ix,
                "iy": r.iy,
                "written": r.written,
                "other_level_pixels": r.other_level_pixels,
                "unread_pixels": r.unread_pixels,
                "reason": r.error,
            }
            for r in sorted(facts.records, key=lambda r: (r.iy, r.ix))
            if r.error is not None
        ],
    }


def settings_json(settings: RunSettings) -> dict[str, Any]:
    """Return settings as plain JSON data."""
    plain = dataclasses.asdict(settings)
    del plain["model"]  # has a part of its own
    if settings.workers.cluster is not None:
        plain["workers"]["cluster"] = str(settings.workers.cluster)
    return plain


def result_versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of what can change a result."""
    return versions(VERSIONED)
