"""Sources of exporters: regions of any map, and the maps of a finished result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from wsi_seg.core.card import ModelCard
from wsi_seg.core.classes import ClassGroup
from wsi_seg.core.threads import until_cancelled
from wsi_seg.exporters.placed import PlacedRegion, placed_regions
from wsi_seg.maps.maps import Maps
from wsi_seg.regions.block_contours import TracedBlocks
from wsi_seg.regions.group_fields import MapArrays
from wsi_seg.regions.polygons import Region, iter_regions
from wsi_seg.regions.settings import RegionSettings
from wsi_seg.slides.slide import MapFrame, SlideInfo


@dataclass(frozen=True)
class RegionSource:
    """Source of formats of regions: a result, or a map of other software."""

    slide: SlideInfo
    frame: MapFrame
    card: ModelCard
    """That of another program's map names classes, and no network."""
    maps: MapArrays
    settings: RegionSettings
    """Choice of regions, how they are traced, and what their positions are counted from."""

    @cached_property
    def groups(self) -> tuple[ClassGroup, ...]:
        """Groups and classes to trace; UsageError where the model has no such class."""
        return self.settings.resolve(self.card)

    def traced(self) -> Iterator[Region]:
        """Trace the regions, in map pixels of `frame`; raises as `regions` does.

        In a run that is cancelled it raises Interrupted, see `cancellable`.
        """
        return until_cancelled(iter_regions(self.maps, self.groups, self.settings.trace))

    def regions(self) -> Iterator[PlacedRegion]:
        """Trace the regions and yield them as files hold them, group by group.

        Raises:
            UsageError: the model has no such class, or another origin than there is.
            OutputError: the maps are damaged.
            MapError: another program's map is damaged.
            MppMissingError: the slide has no mpp.
        """
        return placed_regions(self.traced(), slide=self.slide, frame=self.frame, origin=self.settings.origin)


@dataclass(frozen=True)
class ExportSource(RegionSource):
    """A finished result; maps are read piece by piece, regions are traced as they are asked for."""

    maps: Maps
    mpp: float | None = None
    """Microns per pixel to write, for formats that take it; None: as the maps have."""
    blocks: TracedBlocks | None = None
    """That hold the contours of these groups with these settings; None: the maps are traced."""

    def traced(self) -> Iterator[Region]:
        """See `RegionSource.traced`."""
        return until_cancelled(iter_regions(self.maps, self.groups, self.settings.trace, self.blocks))


@dataclass(frozen=True, slots=True)
class Exported:
    """Outcome of an export."""

    path: Path
    """File or folder that was written."""
    content: str
    """Its content in a few words, such as `12 regions`."""
