"""The overview picture: the slide at low power with the classes as a tint and the regions outlined.

Besides the frames of `geometry` there is one more here: `pic`, pixels of the picture of the slide.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image

from wsi_seg.core.classes import TissueClass
from wsi_seg.core.files import atomic_path
from wsi_seg.exporters.figure import ClassShare, GroupTotal, Sheet, compose, draw_outlines, save_png
from wsi_seg.maps.maps import Maps
from wsi_seg.maps.resampling import pixels_under
from wsi_seg.planning.map_layout import Kind
from wsi_seg.regions.group_outlines import GroupOutlines
from wsi_seg.slides.slide import MapFrame, Slide, read_thumbnail
from wsi_seg.slides.tolerant import TolerantPixels

# Longest side of the slide's picture in pixels.
MAX_SIDE = 2000

# How far outlines may be off, in pixels of the picture: not to be seen.
OUTLINE_TOLERANCE = 0.1

# Small slides are enlarged until the longer side has this many pixels, so that outlines and text are crisp.
LEAST_SIDE = 1200
MOST_ENLARGED = 4

# How much of the class color is mixed into the slide's.
TINT = 0.28

# The same of the colors of artifacts.
ARTIFACT_TINT = 0.6

# Gray of what no level shows.
UNREADABLE = 128


@dataclass(frozen=True, slots=True)
class Overview:
    """The picture of a slide with tint and outlines, without what stands around it."""

    image: Image.Image
    um_per_pic: float


@dataclass(frozen=True, slots=True)
class TintedSlide:
    """The slide at low power with a tint of the classes, and what is written next to it."""

    pixels: NDArray[np.uint8]
    """RGB (h, w, 3)."""
    map_per_pic: tuple[float, float]
    """Map pixels per picture pixel, x and y."""
    name: str
    facts: str
    mpp: float
    """Micrometers per map pixel."""
    classes: list[ClassShare]
    artifacts: list[ClassShare] | None
    """None: they were not looked for."""

    def save(self, path: Path) -> None:
        """Write it as a `.npz`, for `load`; OutputError where that is refused."""
        facts = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "pixels"}
        for name in ("classes", "artifacts"):
            facts[name] = facts[name] and [[one.name, one.color, float(one.share)] for one in facts[name]]
        with atomic_path(path, sync=True) as temporary, temporary.open("wb") as file:
            np.savez(file, pixels=self.pixels, facts=json.dumps(facts))

    @classmethod
    def load(cls, path: Path) -> TintedSlide:
        """Read what `save` has written."""
        with np.load(path) as saved:
            pixels, facts = saved["pixels"], json.loads(str(saved["facts"]))
        for name in ("classes", "artifacts"):
            facts[name] = facts[name] and [
                ClassShare(one, tuple(rgb), share) for one, rgb, share in facts[name]
            ]
        return cls(pixels, **{**facts, "map_per_pic": tuple(facts["map_per_pic"])})


def tinted_slide(
    slide: Slide, *, frame: MapFrame, maps: Maps, max_side: int = MAX_SIDE, name: str | None = None
) -> TintedSlide:
    """Return the slide at low power, at most `max_side` pixels a side, with a tint of the classes.

    Memory does not grow with the slide. It is titled with `name`, by default that of its file.

    Raises:
        SlideError: the slide cannot be read.
    """
    pixels, map_per_pic = _read_picture(slide, frame, max_side)
    labels = _labels_under(pixels.shape[:2], map_per_pic, maps, "classes")
    pixels = _tint(pixels, labels, maps.classes, TINT)
    artifacts = None
    if maps.layout.artifacts:
        codes = _labels_under(pixels.shape[:2], map_per_pic, maps, "artifacts")
        pixels = _tint(pixels, codes, maps.layout.artifacts, ARTIFACT_TINT)
        tissue = int(np.count_nonzero(labels | codes))
        artifacts = _shares(codes, maps.layout.artifacts, tissue)
    return TintedSlide(
        pixels,
        map_per_pic,
        slide.info.name if name is None else name,
        _facts(slide, frame),
        frame.mpp,
        _shares(labels, maps.classes, int(np.count_nonzero(labels))),
        artifacts,
    )


def write_overview(
    path: Path, tinted: TintedSlide, groups: Sequence[GroupOutlines], *, notice: str = ""
) -> Overview:
    """Write a PNG to show: slide, class tint, region outlines, scale bar, legend, and `notice` below.

    Each group, in map pixels, is outlined in its color and has a line in the legend.

    Returns:
        The picture alone, for other pages.

    Raises:
        OutputError: the file cannot be written.
    """
    pixels = tinted.pixels
    line_pic = max(1.5, max(pixels.shape[:2]) / 900)
    for found in groups:
        pixels = draw_outlines(pixels, _RingsPic(found, tinted), found.group.color, line_pic)
    sheet = Sheet(
        title=tinted.name,
        facts=tinted.facts,
        groups=[GroupTotal(g.group.qupath_name, g.group.color, g.count, g.area_um2) for g in groups],
        classes=tinted.classes,
        tint=TINT,
        artifacts=tinted.artifacts,
        notice=notice,
        um_per_pic=tinted.mpp * tinted.map_per_pic[0],
    )
    image = Image.fromarray(pixels)
    save_png(compose(image, sheet), path)
    return Overview(image, sheet.um_per_pic)


def _read_picture(
    slide: Slide, frame: MapFrame, max_side: int
) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """Return the slide at low power, RGB (h, w, 3), and the map pixels per picture pixel, x and y."""
    # A damaged slide still gets its picture; the manifest says which blocks failed.
    pixels, l0_per_pic = read_thumbnail(TolerantPixels(slide, UNREADABLE), max_side)
    side = max(pixels.shape[:2])
    enlarged = int(np.clip(min(LEAST_SIDE, max_side) // side, 1, MOST_ENLARGED))
    if enlarged > 1:
        size = (pixels.shape[1] * enlarged, pixels.shape[0] * enlarged)
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    map_per_pic = l0_per_pic / frame.l0_per_map
    return pixels, (map_per_pic.x / enlarged, map_per_pic.y / enlarged)


def _labels_under(
    shape_pic: tuple[int, ...], map_per_pic: tuple[float, float], maps: Maps, kind: Kind
) -> NDArray[np.uint8]:
    """Return for each picture pixel the label under its center, from the level that is just fine enough."""
    finer = [i for i in range(maps.level_count) if maps.layout.downsample(kind, i) <= min(map_per_pic)]
    level = max(finer, default=0)
    labels = np.asarray(maps.array(kind, level)[:])
    downsample = maps.layout.downsample(kind, level)
    cells = [
        pixels_under(0, shape_pic[axis], step / downsample, labels.shape[axis])
        for axis, step in enumerate(reversed(map_per_pic))
    ]
    under: NDArray[np.uint8] = labels[np.ix_(*cells)]
    return under


def _tint(
    pixels: NDArray[np.uint8], labels: NDArray[np.uint8], classes: Sequence[TissueClass], tint: float
) -> NDArray[np.uint8]:
    """Mix the class colors into the picture; what has no class stays as it is."""
    color = np.zeros((256, 3), np.uint16)
    weight = np.zeros((256, 1), np.uint16)
    for tissue_class in classes:
        color[tissue_class.code] = tissue_class.color
        weight[tissue_class.code] = round(tint * 256)
    strips = []
    for y in range(0, len(pixels), 256):  # in strips, to need no second picture of 16 bits
        part, codes = pixels[y : y + 256].astype(np.uint16), labels[y : y + 256]
        strips.append(((part * (256 - weight[codes]) + color[codes] * weight[codes]) >> 8).astype(np.uint8))
    return np.concatenate(strips)


@dataclass(frozen=True, slots=True)
class _RingsPic:
    """Outlines and holes as (n, 2) picture positions, without vertices that cannot be seen."""

    found: GroupOutlines
    picture: TintedSlide

    def __iter__(self) -> Iterator[NDArray[np.float64]]:
        """Yield them as they are drawn."""
        scale = np.array(self.picture.map_per_pic)
        for polygons in self.found.polygons():
            moved = shapely.transform(shapely.get_rings(polygons), lambda xy: xy / scale)
            xy, ring = shapely.get_coordinates(shapely.simplify(moved, OUTLINE_TOLERANCE), return_index=True)
            yield from np.split(xy, np.flatnonzero(np.diff(ring)) + 1)


def outline_tolerance(frame: MapFrame) -> float:
    """Return how far outlines may be off in a picture of at most `MAX_SIDE`, in map pixels."""
    return OUTLINE_TOLERANCE * max(frame.size.width, frame.size.height) / MAX_SIDE


def _shares(labels: NDArray[np.uint8], classes: Sequence[TissueClass], of: int) -> list[ClassShare]:
    """Return the share of each class in `of` pixels, largest first."""
    counts = np.bincount(labels.ravel(), minlength=256)
    shares = [ClassShare(c.name, c.color, counts[c.code] / max(1, of)) for c in classes if counts[c.code]]
    return sorted(shares, key=lambda share: -share.share)


def _facts(slide: Slide, frame: MapFrame) -> str:
    l0, mpp = slide.info.size, slide.info.mpp
    if mpp is None:
        return f"{l0.width} × {l0.height} px"
    return (
        f"{l0.width * mpp.x / 1000:.3g} × {l0.height * mpp.y / 1000:.3g} mm"
        f" · {mpp.x:.3g} µm/px · segmented at {frame.mpp:.3g} µm/px"
    )
