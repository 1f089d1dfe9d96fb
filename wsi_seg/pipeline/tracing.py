"""Regions and picture of one slide as tasks: the regions of each group, the file of all, the overview.

The contours of a group are there by then, as each block has left its own. The regions of a group wait in a
folder of the partial results until those of all groups are there. A group that an interrupted run has traced
is not traced again.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np

from wsi_seg.core.classes import ClassGroup
from wsi_seg.core.files import atomic_path, writing
from wsi_seg.core.geometry import Origin
from wsi_seg.core.threads import until_cancelled
from wsi_seg.execution.tasks import SlideRecipe, slide_of
from wsi_seg.exporters.geojson import join_parts, write_part
from wsi_seg.exporters.overview import Overview, TintedSlide, outline_tolerance, tinted_slide, write_overview
from wsi_seg.maps.maps import Maps
from wsi_seg.regions.block_contours import TracedBlocks
from wsi_seg.regions.group_outlines import GroupOutlines, note_outline
from wsi_seg.regions.polygons import iter_regions
from wsi_seg.regions.settings import TraceSettings
from wsi_seg.slides.slide import MapFrame, SlideInfo


@dataclass(frozen=True, slots=True)
class TracedGroup:
    """Outcome of a `TraceTask`."""

    outlines: GroupOutlines
    vanished: int
    """Regions too thin to be written, see `GeoJSONSummary`."""


@dataclass(frozen=True, slots=True)
class TraceTask:
    """All that a worker needs to trace the regions of one group."""

    slide: SlideInfo
    frame: MapFrame
    maps_path: str
    group: ClassGroup
    settings: TraceSettings
    origin: Origin
    blocks: TracedBlocks
    """That hold the contours."""
    part: str
    """Path of two files, without ending: `.features`, see `write_part`, and then `.npz`, coarse outlines."""
    namesakes: tuple[str, ...] = ()
    """Parts of groups before it that have its name, as a class may: their regions are counted on."""
    stage: ClassVar = "polygons"

    def run(self) -> TracedGroup:
        """Trace the group, unless that is done; the record is without the outlines themselves.

        Raises:
            Interrupted: the run is cancelled, see `cancellable`.
            OutputError: a file cannot be written.
        """
        if not _outlines_of(self.part).is_file():
            self._trace()
        traced = _traced(self.part, self.group)
        return replace(traced, outlines=replace(traced.outlines, outlines=[]))

    def _trace(self) -> None:
        features, found = _features_of(self.part), dict[ClassGroup, GroupOutlines]()
        tolerance = outline_tolerance(self.frame)
        with writing(features):
            features.parent.mkdir(exist_ok=True)
        regions = iter_regions(Maps.open(Path(self.maps_path)), [self.group], self.settings, self.blocks)
        vanished = write_part(
            until_cancelled(regions),
            features,
            slide=self.slide,
            frame=self.frame,
            origin=self.origin,
            written=lambda region: note_outline(region, found, tolerance),
            before={
                self.group.name: sum(_traced(part, self.group).outlines.count for part in self.namesakes)
            },
        )
        outlines = found.get(self.group, GroupOutlines(self.group))
        with atomic_path(_outlines_of(self.part), sync=True) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                vanished=vanished,
                area_um2=outlines.area_um2,
                areas_um2=np.array(outlines.areas_um2),
                wkb=np.frombuffer(b"".join(outlines.outlines), np.uint8),
                wkb_lengths=np.array(list(map(len, outlines.outlines)), np.int64),
            )


def _traced(part: str, group: ClassGroup) -> TracedGroup:
    """Return what the `TraceTask` of a group has noted."""
    with np.load(_outlines_of(part)) as noted:
        areas = array("d", noted["areas_um2"].tolist())
        wkb, ends = noted["wkb"].tobytes(), [0, *np.cumsum(noted["wkb_lengths"]).tolist()]
        each = [wkb[start:end] for start, end in pairwise(ends)]
        outlines = GroupOutlines(group, len(areas), float(noted["area_um2"]), each, areas)
        return TracedGroup(outlines, int(noted["vanished"]))


def _features_of(part: str) -> Path:
    """Return the file of a part's features."""
    return Path(f"{part}.features")


def _outlines_of(part: str) -> Path:
    return Path(f"{part}.npz")


@dataclass(frozen=True, slots=True)
class RegionFile:
    """Outcome of a `JoinTask`."""

    name: str
    """Of the file of regions."""


@dataclass(frozen=True, slots=True)
class JoinTask:
    """All that a worker needs to write the regions of all groups as GeoJSON."""

    slide: SlideInfo
    frame: MapFrame
    maps_path: str
    origin: Origin
    parts: tuple[str, ...]
    """Of the groups, in their order."""
    path: str
    stage: ClassVar = "polygons"

    def run(self) -> RegionFile:
        """Join the parts; OutputError where the file cannot be written."""
        parts = [_features_of(part) for part in self.parts]
        path = join_parts(parts, Path(self.path), slide=self.slide, frame=self.frame, origin=self.origin)
        return RegionFile(path.name)


@dataclass(frozen=True, slots=True)
class PictureTask:
    """All that a worker needs to make the picture of the slide that the overview draws on."""

    slide: SlideRecipe
    frame: MapFrame
    maps_path: str
    path: str
    name: str
    """Of the results: the title of the overview."""
    stage: ClassVar = "overview"

    def run(self) -> None:
        """Make it, unless that is done.

        Raises:
            OutputError: the file cannot be written.
            SlideError: the slide cannot be read.
        """
        path = Path(self.path)
        if not path.is_file():
            with writing(path):
                path.parent.mkdir(exist_ok=True)
            maps = Maps.open(Path(self.maps_path))
            tinted_slide(slide_of(self.slide), frame=self.frame, maps=maps, name=self.name).save(path)


@dataclass(frozen=True, slots=True)
class OverviewTask:
    """All that a worker needs to draw the slide with its regions."""

    maps_path: str
    picture: str
    """Path of what a `PictureTask` has made."""
    parts: tuple[tuple[str, ClassGroup], ...]
    path: str
    notice: str
    """Put under the picture."""
    stage: ClassVar = "overview"

    def run(self) -> Overview:
        """Draw it; OutputError where the file cannot be written."""
        tinted = TintedSlide.load(Path(self.picture))
        groups = [_traced(part, group).outlines for part, group in self.parts]
        return write_overview(
            Path(self.path), tinted, [found for found in groups if found.count], notice=self.notice
        )
