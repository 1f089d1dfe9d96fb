"""Regions of maps that other software made, by the same tracing, measuring and export as our own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import shapely

from wsi_seg.core.card import CardClass, ModelCard
from wsi_seg.core.classes import NOT_TRACED, canonical_name
from wsi_seg.core.errors import MapError, UsageError
from wsi_seg.core.geometry import Scale, Size
from wsi_seg.exporters.source import Exported, RegionSource
from wsi_seg.exporters.table import FORMATS, find_format
from wsi_seg.maps.foreign.legend import (
    Kind,
    Legend,
    axes_of,
    channel_legend,
    kind_of,
    label_legend,
    read_instances,
)
from wsi_seg.maps.foreign.opening import open_map
from wsi_seg.maps.foreign.stored import StoredMap, ValueName
from wsi_seg.maps.foreign.views import ForeignMaps, label_maps, probability_maps
from wsi_seg.regions.polygons import Region
from wsi_seg.regions.settings import RegionSettings
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.slide import Level, MapFrame, SlideInfo, require_mpp

USER = "--mpp"

# Longest list of classes in a line.
NAMED = 8


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """A map and what its file may not say of it."""

    path: Path
    """See `open_map`."""
    inner: str | None = None
    """Array or image in the file, see `open_map`."""
    kind: Kind | None = None
    """None: by type and axes, see `kind_of`."""
    channels: Literal["first", "last"] | None = None
    """Axis of the classes, if the file does not say."""
    names: Mapping[int, ValueName] = field(default_factory=dict)
    """Names and colors of label values or channels, in place of those in the file."""
    instances: Path | None = None
    """File with the class of each value, where values number objects; see `read_instances`."""
    mpp: Scale | None = None
    """Microns per map pixel, in place of what the file says."""
    offset: Literal["bounds"] | tuple[float, float] | None = None
    """Place of the map's corner: that of the slide's bounds, or x, y in l0 pixels; None: as the file says,
    else the corner of level 0."""
    slide: Path | str | None = None
    """The slide that the map is of, if it is at hand."""
    slide_mpp: Scale | None = None
    """Microns per l0 pixel, in place of what the slide says; without a slide those of the map by default."""


@dataclass(frozen=True)
class ForeignSource(RegionSource):
    """A map of other software on its slide, for formats that hold regions."""

    offset_map: tuple[float, float]
    """Where the map's corner lies, x and y, in map pixels from the corner of level 0."""
    about: str
    """One line that says what was found, and where it comes from."""

    def traced(self) -> Iterator[Region]:
        dx, dy = self.offset_map
        for region in super().traced():
            moved = region.polygon
            if dx or dy:
                moved = shapely.transform(moved, lambda xy: xy + np.array([dx, dy]))
            yield replace(region, polygon=moved)


def region_format(name: str, path: Path) -> Callable[[RegionSource, Path], Exported]:
    """Return the writer of a format of regions.

    Raises:
        UsageError: there is none of this name, it holds maps, its library is missing, or the name of `path`
            does not fit.
    """
    form = find_format(name)
    if form.holds != "regions":
        others = ", ".join(other for other, item in FORMATS.items() if item.holds == "regions")
        raise UsageError(f"--to: the format {name} holds maps; regions are written as {others}")
    form.check_path(name, path)
    return cast("Callable[[RegionSource, Path], Exported]", form.load())


def open_foreign(request: TraceRequest, settings: RegionSettings) -> ForeignSource:
    """Open a map of other software, so that it can be traced.

    Args:
        request: the map.
        settings: regions. Label maps are traced as labels, probability maps as the settings say; groups that
            are None stand for all classes but those of `NOT_TRACED`.

    Raises:
        MapError: the map cannot be read, or neither the file nor the request says enough of it.
        UsageError: there is no such class, or a value of the request is out of range.
        SlideError: the slide cannot be read.
    """
    stored = open_map(request.path, request.inner)
    axes = axes_of(stored, request.channels)
    kind = kind_of(stored, axes, request.kind)
    mpp, mpp_source = _map_mpp(stored, request.mpp)
    if kind == "labels":
        instances = None if request.instances is None else read_instances(request.instances)
        legend = label_legend(stored, axes, request.names, instances)
        maps = label_maps(stored, axes, mpp, legend.classes, legend.codes)
        settings = replace(settings, trace=replace(settings.trace, source="labels"))
    elif request.instances is not None:
        raise UsageError("--instances goes with a label map")
    else:
        legend = channel_legend(stored, axes, request.names)
        maps = probability_maps(stored, axes, mpp, legend.classes, legend.uncertainty)
    if not legend.classes:
        raise MapError(f"{stored.path}: holds no class; all of it is 0")
    slide = _slide(request, maps.size, mpp, stored)
    l0_per_map = mpp / require_mpp(slide)
    x, y = _offset_l0(request, stored, slide)
    frame = MapFrame(maps.mpp, maps.size, l0_per_map)
    return ForeignSource(
        slide=slide,
        frame=frame,
        card=_card(request, legend, maps.mpp),
        maps=maps,
        settings=settings,
        offset_map=(x / l0_per_map.x, y / l0_per_map.y),
        about=f"{_content(stored, kind, maps, mpp)} ({mpp_source}); {_place(request, slide, frame, (x, y))}",
    )


def _map_mpp(stored: StoredMap, asked: Scale | None) -> tuple[Scale, str]:
    if asked is not None:
        return _positive(asked, USER), USER
    if stored.mpp is None:
        raise MapError(
            f"{stored.path}: does not say its microns per pixel; give them with --mpp (such as 0.5)"
        )
    return stored.mpp, stored.mpp_source


def _positive(mpp: Scale, flag: str) -> Scale:
    if not all(math.isfinite(value) and value > 0 for value in (mpp.x, mpp.y)):
        raise UsageError(f"{flag} must be positive, got {mpp.x:g}, {mpp.y:g}")
    return mpp


def _slide(request: TraceRequest, size: Size, mpp: Scale, stored: StoredMap) -> SlideInfo:
    """Return the slide, or where there is none, one that the map fits on."""
    if request.slide is not None:
        with open_slide(request.slide, mpp=request.slide_mpp) as slide:
            return slide.info
    slide_mpp = mpp if request.slide_mpp is None else _positive(request.slide_mpp, "--slide-mpp")
    if request.offset == "bounds":
        raise UsageError("--offset bounds goes with --slide, whose bounds are meant")
    x, y = _offset_um(request, stored, slide_mpp)
    width, height = (
        max(1, math.ceil(offset + length * side - 1e-6))
        for offset, length, side in (
            (x / slide_mpp.x, size.width, mpp.x / slide_mpp.x),
            (y / slide_mpp.y, size.height, mpp.y / slide_mpp.y),
        )
    )
    name = request.path.name.removesuffix(request.path.suffix) or request.path.name
    known = f"{request.path.name}/{request.inner}/{size}/{mpp}/{slide_mpp}"
    return SlideInfo(
        path=str(request.path),
        name=name,
        reader="map",
        vendor="",
        size=Size(width, height),
        levels=(Level(Size(width, height), Scale(1, 1)),),
        mpp=slide_mpp,
        mpp_source="user" if request.slide_mpp is not None else "map",
        bounds=None,
        fingerprint=f"map-{hashlib.sha256(known.encode()).hexdigest()[:32]}",
    )


def _offset_um(request: TraceRequest, stored: StoredMap, slide_mpp: Scale) -> tuple[float, float]:
    if isinstance(request.offset, tuple):
        return request.offset[0] * slide_mpp.x, request.offset[1] * slide_mpp.y
    return stored.corner_um or (0.0, 0.0)


def _offset_l0(request: TraceRequest, stored: StoredMap, slide: SlideInfo) -> tuple[float, float]:
    """Return where the map's corner lies, x and y, in l0 pixels."""
    if request.offset == "bounds":
        bounds = slide.bounds
        return (0.0, 0.0) if bounds is None else (float(bounds.x0), float(bounds.y0))
    mpp = require_mpp(slide)
    x, y = _offset_um(request, stored, mpp)
    return x / mpp.x, y / mpp.y


def _card(request: TraceRequest, legend: Legend, mpp: float) -> ModelCard:
    """Return a card of classes, all of which are traced but those that never are by default."""
    names = [c.name for c in legend.classes]
    traced = tuple(name for name in names if canonical_name(name) not in NOT_TRACED)
    return ModelCard(
        name=request.path.name,
        version="",
        description=f"classes of the map {request.path.name}",
        format="",
        architecture="",
        encoder="",
        classes=tuple(CardClass(code=c.code, name=c.name, color=c.color) for c in legend.classes),
        groups=(),
        traced=traced or tuple(names),
        mpp=mpp,
    )


def _content(stored: StoredMap, kind: Kind, maps: ForeignMaps, mpp: Scale) -> str:
    classes = ", ".join(c.name for c in maps.classes[:NAMED]) + (", …" if len(maps.classes) > NAMED else "")
    return f"{stored.path}: {kind} of {classes}; {maps.size} px at {_text(mpp)} µm/px"


def _place(request: TraceRequest, slide: SlideInfo, frame: MapFrame, offset_l0: tuple[float, float]) -> str:
    mpp = _text(require_mpp(slide))
    corner = f"corner at {offset_l0[0]:.6g}, {offset_l0[1]:.6g} of level 0"
    if request.slide is None:
        return f"{corner}; no slide: positions are pixels of {mpp} µm"
    box = frame.to_l0(frame.box)
    covered = f"{box.x1 / slide.size.width:.1%} × {box.y1 / slide.size.height:.1%}"
    return f"{corner} of {slide.name} ({mpp} µm/px), as large as {covered} of it"


def _text(mpp: Scale) -> str:
    return f"{mpp.x:g}" if mpp.x == mpp.y else f"{mpp.x:g} × {mpp.y:g}"
