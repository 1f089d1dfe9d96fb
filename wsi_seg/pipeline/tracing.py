"""The finished maps of one slide as a job: its regions as GeoJSON, and its picture.

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
from wsi_seg.execution.tasks import SlideRecipe, end_if_told, slide_of
from wsi_seg.exporters.geojson import Origin, write_geojson
from wsi_seg.exporters.overview import Overview, outline_tolerance, tinted_slide, write_overview
from wsi_seg.maps.maps import Maps
from wsi_seg.regions.outlines import GroupOutlines, note_outline
from wsi_seg.regions.polygons import TraceSettings, iter_regions
from wsi_seg.slides.slide import MapFrame

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class TraceJob:
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
    """What became of it."""

    polygons: str
    """Name of the file of regions."""
    vanished: int
    """Regions too thin to be written, see `GeoJSONSummary`."""
    regions: dict[ClassGroup, GroupOutlines]
    """Of each group that has any, without the outlines themselves."""
    overview: Overview
    seconds: dict[str, float]
    """Wall time of "polygons" and "overview"."""


def trace_slide(job: TraceJob) -> TraceRecord:
    """Trace the regions of a slide and draw it; running it again gives the same bytes.

    Raises:
        Interrupted: the run is to stop, see `jobs.stoppable`.
        OutputError: a file cannot be written.
        SlideError: the slide cannot be read.
    """
    start = time.perf_counter()
    slide, maps = slide_of(job.slide), Maps.open(Path(job.maps_path))
    regions: dict[ClassGroup, GroupOutlines] = {}
    tolerance = outline_tolerance(job.frame)
    with ThreadPoolExecutor(1, "picture") as beside:
        tinted = beside.submit(tinted_slide, slide, frame=job.frame, maps=maps)
        traced = _until_told(iter_regions(maps, job.groups, job.settings))
        written = write_geojson(
            traced,
            Path(job.polygons_path),
            slide=slide.info,
            frame=job.frame,
            origin=job.origin,
            compress_large=True,
            written=lambda region: note_outline(region, regions, tolerance),
        )
        between = time.perf_counter()
        overview = write_overview(
            Path(job.overview_path), tinted.result(), list(regions.values()), notice=job.notice
        )
    return TraceRecord(
        polygons=written.path.name,
        vanished=written.vanished,
        regions={group: replace(found, polygons=[]) for group, found in regions.items()},
        overview=overview,
        seconds={"polygons": between - start, "overview": time.perf_counter() - between},
    )


def _until_told(items: Iterable[Item]) -> Iterator[Item]:
    for item in items:
        end_if_told()
        yield item
