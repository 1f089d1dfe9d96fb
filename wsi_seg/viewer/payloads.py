"""Results in the words of the API; texts are sent as they are, and the page shows them as text."""

from __future__ import annotations

from typing import Any

from wsi_seg.core.classes import ClassGroup, TissueClass, hex_code
from wsi_seg.maps.maps import FAULTS
from wsi_seg.results.files import unlike_notice
from wsi_seg.slides.slide import SlideInfo
from wsi_seg.slides.tolerant import OTHER_LEVEL, UNREADABLE
from wsi_seg.viewer.listing import place_of, region_count
from wsi_seg.viewer.palette import SCALE, safe_colors
from wsi_seg.viewer.result_info import ResultInfo
from wsi_seg.viewer.state import OpenResult, ViewerState


def describe_result(state: ViewerState, result: OpenResult) -> dict[str, Any]:
    """Return all that the page needs to show a result."""
    facts, place = result.facts, result.slide()
    slide, frame, progress = facts.slide, facts.frame, result.progress()
    bounds = slide.bounds
    return {
        "id": result.entry.id,
        "name": result.entry.name,
        "folder": place_of(state, result.entry),
        "version": result.version,
        "status": result.status,
        "progress": progress and progress.to_json(),
        "size": [slide.size.width, slide.size.height],
        "mpp": _mpp(slide),
        "bounds": bounds and [bounds.x0, bounds.y0, bounds.width, bounds.height],
        "map": {
            "size": [frame.size.width, frame.size.height],
            "mpp": frame.mpp,
            "l0_per_map": [frame.l0_per_map.x, frame.l0_per_map.y],
            "probability_downsample": facts.probability_downsample,
        },
        "tile_size": result.grid.tile,
        "max_zoom": result.grid.max_zoom,
        "classes": [_class(result, one) for one in facts.classes],
        "channels": _channels(facts),
        "groups": [_group(result, one) for one in facts.groups],
        "threshold": facts.trace.threshold if facts.traced else None,
        "layers": [
            "classes",
            *(["probability"] if facts.stored else []),
            "tissue",
            *(["uncertainty"] if facts.uncertainty else []),
            "coverage",
            *(["artifacts"] if facts.artifacts else []),
        ],
        "scale": [hex_code(color) for color in SCALE],
        "notice": facts.notice,
        "model": facts.model,
        "finished": facts.finished,
        "report": result.report is not None,
        "unlike": unlike_notice(facts.summary),
        "origin_offset": list(facts.origin_offset),
        "regions": region_count(result) or 0,
        "coverage": _coverage(result),
        "artifacts": _artifacts(result),
        "has_slide": place.path is not None,
        "slide_problem": place.problem,
    }


def _channels(facts: ResultInfo) -> list[str]:
    """Return the names of classes whose probability is stored; where some lack, those of groups too."""
    named = dict.fromkeys(one.name for one in facts.classes if facts.channels(one) is not None)
    if len(named) < len(facts.classes):
        named |= dict.fromkeys(one.name for one in facts.groups if facts.channels(one) is not None)
    return list(named)


def _class(result: OpenResult, one: TissueClass) -> dict[str, Any]:
    area = result.facts.area(one.name, "class_area_mm2")
    assessed = one.code not in result.facts.unassessed
    return {"code": one.code, "name": one.name, **_colors(result, one), "mm2": area, "assessed": assessed}


def _group(result: OpenResult, one: ClassGroup) -> dict[str, Any]:
    facts = result.facts
    traced = one.name in facts.traced
    regions = facts.summary.get("regions")
    found = regions.get(one.name, {}) if isinstance(regions, dict) else {}
    return {
        "name": one.name,
        "label": one.qupath_name,
        **_colors(result, one),
        "codes": list(one.codes),
        "assessed": not facts.unassessed.issuperset(one.codes),
        "stored": facts.channels(one) is not None,
        "traced": traced,
        "count": found.get("count") if traced else None,
        "mm2": facts.area(one.name, "group_area_mm2"),
        "regions_mm2": found.get("area_mm2") if traced else None,
    }


def _colors(result: OpenResult, one: TissueClass | ClassGroup) -> dict[str, str]:
    safe = safe_colors(result.colored())[one.name]
    return {"color": hex_code(one.color), "safe_color": hex_code(safe)}


def _artifacts(result: OpenResult) -> list[dict[str, Any]]:
    """Return the classes of artifacts with their areas, None where these are not known (yet)."""
    classes = result.facts.artifacts
    safe = safe_colors(classes)
    found = result.facts.summary.get("artifacts")
    areas = found.get("area_mm2", {}) if isinstance(found, dict) else {}
    return [
        {
            "name": one.name,
            "color": hex_code(one.color),
            "safe_color": hex_code(safe[one.name]),
            "mm2": areas.get(one.name),
        }
        for one in classes
    ]


def _coverage(result: OpenResult) -> dict[str, Any]:
    """Return how much of the slide was analyzed, and the colors of the coverage layer."""
    summary, slide = result.facts.summary, result.facts.slide
    mpp, size = slide.mpp, slide.size
    read = summary.get("coverage")
    read = read if isinstance(read, dict) else {}
    areas = {OTHER_LEVEL: read.get("other_level_mm2"), UNREADABLE: read.get("unread_mm2")}
    return {
        "slide_mm2": mpp and size.width * mpp.x * size.height * mpp.y / 1e6,
        "tissue_mm2": summary.get("tissue_area_mm2"),
        "blocks": summary.get("blocks"),
        "blocks_failed": summary.get("blocks_failed"),
        "legend": [{"name": f.name, "color": hex_code(f.color), "mm2": areas[f.code]} for f in FAULTS],
    }


def _mpp(slide: SlideInfo) -> list[float] | None:
    return None if slide.mpp is None else [slide.mpp.x, slide.mpp.y]
