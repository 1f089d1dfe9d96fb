"""Facts about a result, read from its manifest and summary, or from the plan of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsi_seg.core.assessed import assessed_codes
from wsi_seg.core.card import ModelCard
from wsi_seg.core.classes import ClassGroup, TissueClass, find_channels
from wsi_seg.core.errors import OutputError
from wsi_seg.core.geometry import Origin
from wsi_seg.pipeline.export import manifest_part
from wsi_seg.planning.map_layout import MapLayout
from wsi_seg.regions.settings import RegionSettings, TraceSettings
from wsi_seg.results.files import JOURNAL, MANIFEST, PLAN, SUMMARY, read_record
from wsi_seg.results.progress import RunProgress, planned_blocks, progress_of
from wsi_seg.slides.slide import MapFrame, SlideInfo
from wsi_seg.viewer.folders import ResultEntry

UM2_PER_MM2 = 1e6


@dataclass(frozen=True, slots=True)
class StoredStitch:
    """Layout of the stored maps, from the plan in a manifest."""

    probability_downsample: int
    uncertainty: bool = False
    stored: tuple[tuple[int, ...], ...] | None = None
    """See `StitchSettings`."""


@dataclass(frozen=True)
class ResultInfo:
    """A result, without its pixels and regions."""

    slide: SlideInfo
    frame: MapFrame
    classes: tuple[TissueClass, ...]
    groups: tuple[ClassGroup, ...] = ()
    """Of the model's card, and single classes that were traced; of a run that is not finished, what is stored
    in place of all classes."""
    unassessed: frozenset[int] = frozenset()
    """Codes of the classes that the model does not assess; none are known of a run that is not finished."""
    traced: tuple[str, ...] = ()
    """Names of the groups whose regions were traced."""
    trace: TraceSettings = field(default_factory=TraceSettings)
    origin: Origin = "bounds"
    """Of the GeoJSON, see `RegionSettings`."""
    notice: str = ""
    model_digest: str = ""
    """Of a finished result."""
    model: str = ""
    """Name and version of its model; of a finished result."""
    finished: str = ""
    """When it was finished, in ISO 8601; "" where the manifest does not say."""
    origin_offset: tuple[float, float] = (0.0, 0.0)
    """Offset subtracted from l0 positions in the GeoJSON."""
    artifacts: tuple[TissueClass, ...] = ()
    """Classes of artifacts; empty where they were not looked for."""
    uncertainty: bool = False
    stored: tuple[tuple[int, ...], ...] = ()
    """Codes of the classes that add up to each stored probability."""
    probability_downsample: int = 1
    summary: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    """Of a run that is not finished."""

    def channels(self, one: TissueClass | ClassGroup) -> tuple[int, ...] | None:
        """Return the channels that add up to the probability of a class or group; None: it is not stored."""
        return find_channels(self.stored, (one.code,) if isinstance(one, TissueClass) else one.codes)

    def area(self, name: str, kind: str) -> float | None:
        """Return the area of a class (`class_area_mm2`) or group (`group_area_mm2`) in mm², if known."""
        areas = self.summary.get(kind)
        if not isinstance(areas, dict):
            return None
        value = areas.get(name, 0.0)
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def read_result_info(entry: ResultEntry) -> ResultInfo:
    """Read what a result says about itself.

    Raises:
        OutputError: a file is missing or damaged.
    """
    return _read_running(entry) if entry.running else _read_finished(entry)


def _read_finished(entry: ResultEntry) -> ResultInfo:
    folder = entry.folder
    manifest, summary = _read(entry, MANIFEST), _read(entry, SUMMARY)
    card = manifest_part(ModelCard, manifest, folder, "model", "card")
    regions = manifest_part(RegionSettings, manifest, folder, "settings", "regions")
    offset = manifest_part(tuple[float, float], manifest, folder, "origin_subtracted_l0")
    stitch = manifest_part(StoredStitch, manifest, folder, "plan", "stitch")
    traced = regions.resolve(card)
    return ResultInfo(
        slide=manifest_part(SlideInfo, manifest, folder, "slide"),
        frame=manifest_part(MapFrame, manifest, folder, "frame"),
        classes=card.tissue_classes,
        groups=tuple(dict.fromkeys((*card.class_groups, *traced))),
        unassessed=frozenset(card.codes) - assessed_codes(card),
        traced=tuple(group.name for group in traced),
        trace=regions.trace,
        origin=regions.origin,
        notice=card.notice,
        model_digest=manifest_part(str, manifest, folder, "model", "digest"),
        model=f"{card.name} {card.version}".strip(),
        finished=str(manifest.get("finished", "")),
        origin_offset=offset,
        artifacts=_artifacts(manifest, summary, folder),
        uncertainty=stitch.uncertainty,
        stored=_stored_codes(stitch, card.codes),
        probability_downsample=stitch.probability_downsample,
        summary=summary,
    )


def _stored_codes(stitch: StoredStitch, codes: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    if stitch.stored is None:
        return tuple((code,) for code in codes)
    return tuple(tuple(codes[i] for i in members if i < len(codes)) for members in stitch.stored)


def _artifacts(manifest: dict[str, Any], summary: dict[str, Any], folder: Path) -> tuple[TissueClass, ...]:
    """Return the classes of artifacts: those of the model that looked for them which the summary names."""
    found = summary.get("artifacts")
    if not isinstance(found, dict):
        return ()
    card = manifest_part(ModelCard, manifest, folder, "finders", "artifacts", "card")
    return tuple(c for c in card.tissue_classes if c.name in found.get("area_mm2", {}))


def _read_running(entry: ResultEntry) -> ResultInfo:
    plan = _read(entry, PLAN)
    path = entry.folder / PLAN
    try:
        layout = MapLayout.from_json(plan["layout"])
    except (KeyError, TypeError, ValueError) as error:
        raise OutputError(f"{path}: is damaged ({error}); run wsi-seg run again") from error
    return ResultInfo(
        slide=manifest_part(SlideInfo, plan, entry.folder, "slide"),
        frame=manifest_part(MapFrame, plan, entry.folder, "frame"),
        classes=layout.classes,
        groups=layout.stored or (),
        artifacts=layout.artifacts,
        uncertainty=layout.uncertainty,
        stored=tuple(channel.codes for channel in layout.channels if channel.codes),
        probability_downsample=layout.probability_downsample,
        plan={"blocks": planned_blocks(plan, entry.folder)},
    )


def _read(entry: ResultEntry, name: str) -> dict[str, Any]:
    path = entry.file(name)
    if path is None:
        raise OutputError(f"{entry.folder / name}: is missing; run wsi-seg run again")
    return read_record(path)


def read_progress(entry: ResultEntry, facts: ResultInfo) -> RunProgress | None:
    """Return how far a run is, None for a finished one."""
    return progress_of(facts.plan["blocks"], entry.file(JOURNAL)) if entry.running else None
