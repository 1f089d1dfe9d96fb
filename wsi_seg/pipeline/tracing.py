"""The finished maps of one slide as a task: its regions as GeoJSON, and its picture.

Like a block it is a recipe that any worker can carry out, so that a driver of many slides has little to do.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from wsi_seg.core.classes import ClassGroup
from wsi_seg.core.geometry import Origin
from wsi_seg.core.threads import cancellation, raise_if_cancelled
from wsi_seg.execution.tasks import SlideRecipe, slide_of
from wsi_seg.exporters.geojson import write_geojson
from wsi_seg.exporters.overview import Overview, outline_tolerance, tinted_slide, write_overview
from wsi_seg.maps.maps import Maps
from wsi_seg.regions.group_outlines import GroupOutlines, note_outline
from wsi_seg.regions.polygons import iter_regions
from wsi_seg.regions.settings import TraceSettings
from wsi_seg.slides.slide import MapFrame

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class TraceTask:
    """All that a worker needs to trace one slide."""

    slide: SlideRecipe
    frame: MapFrame
    maps_path: str
    polygons_path: str
    overview_path: str
    groups: tuple[ClassGroup, ...]
    settings: TraceSettings
    origin: Origin
    notice: str
    """Put under the picture."""


@dataclass(frozen=True, slots=True)
class TraceRecord:
    """Outcome of a `TraceTask`."""

    polygons: str
    """Name of the file of regions."""
    vanished: int
    """Regions too thin to be written, see `GeoJSONSummary`."""
    regions: dict[ClassGroup, GroupOutlines]
    """Of each group that has any, without the outlines themselves."""
    overview: Overview
    seconds: dict[str, float]
    """Wall time of "polygons" and "overview"."""


def trace_slide(task: TraceTask) -> TraceRecord:
    """Trace the regions of a slide and draw it; running it again gives the same bytes.

    Raises:
        Interrupted: the run is cancelled, see `cancellable`.
        OutputError: a file cannot be written.
        SlideError: the slide cannot be read.
    """
    start = time.perf_counter()
    slide, maps = slide_of(task.slide), Maps.open(Path(task.maps_path))
    regions: dict[ClassGroup, GroupOutlines] = {}
    tolerance = outline_tolerance(task.frame)
    with ThreadPoolExecutor(1, "picture") as pool:
        tinted = pool.submit(tinted_slide, slide, frame=task.frame, maps=maps)
        traced = _until_cancelled(iter_regions(maps, task.groups, task.settings))
        written = write_geojson(
            traced,
            Path(task.polygons_path),
            slide=slide.info,
            frame=task.frame,
            origin=task.origin,
            compress_large=True,
            written=lambda region: note_outline(region, regions, tolerance),
        )
        between = time.perf_counter()
        overview = write_overview(
            Path(task.overview_path), tinted.result(), list(regions.values()), notice=task.notice
        )
    return TraceRecord(
        polygons=written.path.name,
        vanished=written.vanished,
        regions={group: replace(found, polygons=[]) for group, found in regions.items()},
        overview=overview,
        seconds={"polygons": between - start, "overview": time.perf_counter() - between},
    )


def _until_cancelled(items: Iterable[Item]) -> Iterator[Item]:
    for item in items:
        raise_if_cancelled(cancellation())
        yield item
