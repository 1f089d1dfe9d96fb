"""The slide: the protocol of every reader, the level policy, and exact reading.

Readers give whole pixels of one level (`Slide.read_level`). Everything fractional happens once, in
`read_region`: it takes a box in the map frame, covers it with whole pixels of the best level, and
resamples that a single time with the exact fractional box.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, runtime_checkable
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_seg.core.errors import MppMissingError, SlideError
from wsi_seg.core.geometry import Box, RealBox, Scale, Size
from wsi_seg.slides.dicomweb import parse_series

WHITE = 255

# A level counts as "at or finer than" the asked resolution within this tolerance.
LEVEL_TOLERANCE = 0.01

# Resampling works on cells of at most this many map pixels, anchored at map (0, 0), so that a map pixel has
# the same bytes whatever box it was read with. Where one map pixel spans many level pixels the cells are
# smaller, so that a cell never needs much more than SOURCE_SIDE² of them.
CELL = 128
SOURCE_SIDE = 2048

# Level pixels per map pixel this close to a whole number, relatively, are meant to be whole: TIFF tags hold
# resolutions in single precision. Over 100,000 pixels this moves nothing by more than 0.02 of one.
WHOLE_FACTOR_TOLERANCE = 2e-7

# A map pixel that would hold less of the slide than this is left out: stated resolutions are rounded numbers.
SLIVER = 0.01


class UnreadableError(SlideError):
    """Stored pixels of a slide cannot be read; others still can, by the same open slide."""

    def __init__(self, message: str, box_level: Box, tile: Size | None = None) -> None:
        super().__init__(message)
        self.box_level = box_level
        """The smallest box that the reader knows to hold what cannot be read, in pixels of the level."""
        self.tile = tile
        """Size of the level's stored tiles, from (0, 0) on, where damage ends at their edges."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the pyramid."""

    size: Size
    downsample: Scale
    """l0 pixels per pixel of this level."""


@dataclass(frozen=True, slots=True)
class SlideInfo:
    """Facts about a slide; plain data that can be compared, hashed and written as JSON."""

    path: str
    name: str
    """File name without its ending; names the results folder."""
    reader: str
    vendor: str
    size: Size
    """Size of level 0 in l0 pixels."""
    levels: tuple[Level, ...]
    """Level 0 first, each coarser than the one before."""
    mpp: Scale | None
    """Microns per l0 pixel; None when the file does not say and nothing was given."""
    mpp_source: str
    """`user`, `ome-xml`, `openslide`, `tiffslide`, `dicom`, `tiff-resolution`, `imagej`,
    `objective-power (estimated)` or `missing`; see `wsi_seg.slides.mpp.resolve_mpp`."""
    bounds: Box | None
    """Non-empty region in l0 pixels, only when the slide has all four `openslide.bounds-*` properties."""
    fingerprint: str
    """Hash that tells this slide from another; equal for the same pixels on another path."""
    series: int = 0
    """Number of the image in its file, counted from 0; 0 where a format has one slide a file."""
    left_out: tuple[str, ...] = ()
    """Images of the file that are not read: other images, and levels of another shape than the slide."""
    assumed: tuple[str, ...] = ()
    """Facts that the file should state and does not, and that are taken to be so, a line each."""

    @property
    def mpp_estimated(self) -> bool:
        return "estimated" in self.mpp_source


class Pixels(Protocol):
    """The part of a slide that `read_region` needs."""

    @property
    def info(self) -> SlideInfo: ...

    def read_level(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Read whole pixels of one level.

        Args:
            level: index into `info.levels`.
            box: pixels of that level; may reach beyond it on any side.

        Returns:
            uint8 RGB of shape (box.height, box.width, 3); white outside the slide and where it is empty.

        Raises:
            UnreadableError: stored pixels cannot be read; the slide stays usable.
            SlideError: the slide was closed, or has no such level.
        """


ReadPixels = Callable[[Pixels, "MapFrame", Box, int], NDArray[np.uint8]]
"""As `read_region`."""


@runtime_checkable
class Slide(Pixels, Protocol):
    """An open slide, as a reader offers it. One object serves one thread; open another for another thread."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


def level_downsample(base: Size, level: Size) -> Scale:
    """Return l0 pixels per level pixel, with the rounding of the level's size taken out.

    A level of 555 columns under 2220 + 3 was made with a factor of 4, not 4.0054; where a whole factor
    explains the size within one pixel, that factor is meant.
    """

    def factor(full: int, part: int) -> float:
        ratio = full / part
        whole = max(1, round(ratio))
        return float(whole) if abs(full / whole - part) <= 1 else ratio

    return Scale(factor(base.width, level.width), factor(base.height, level.height))


def require_mpp(info: SlideInfo) -> Scale:
    """Return the slide's microns per pixel.

    Raises:
        MppMissingError: neither the file nor the user gave them.
    """
    if info.mpp is None:
        raise MppMissingError(
            f"{info.path}: the slide does not say its microns per pixel; give them with --mpp (such as 0.25)"
        )
    return info.mpp


@dataclass(frozen=True, slots=True)
class MapFrame:
    """The map frame of one slide at one resolution."""

    mpp: float
    """Microns per map pixel, the same on both axes."""
    size: Size
    l0_per_map: Scale
    """l0 pixels per map pixel."""

    @property
    def box(self) -> Box:
        """All map pixels."""
        return Box(0, 0, self.size.width, self.size.height)

    def to_l0(self, box_map: Box) -> RealBox:
        """Return a box of map pixels in l0 pixels."""
        return box_map.scaled(self.l0_per_map)

    def to_map(self, box_l0: Box | RealBox) -> Box:
        """Return the smallest box of map pixels that covers a box in l0 pixels."""
        x, y = self.l0_per_map.x, self.l0_per_map.y
        return RealBox(box_l0.x0 / x, box_l0.y0 / y, box_l0.x1 / x, box_l0.y1 / y).outward()


def map_frame(info: SlideInfo, mpp: float) -> MapFrame:
    """Return the map frame of `info` at `mpp` microns per map pixel.

    Raises:
        MppMissingError: the slide has no mpp.
    """
    slide_mpp = require_mpp(info)
    l0_per_map = Scale(mpp / slide_mpp.x, mpp / slide_mpp.y)
    size = Size(
        max(1, math.ceil(info.size.width / l0_per_map.x - SLIVER)),
        max(1, math.ceil(info.size.height / l0_per_map.y - SLIVER)),
    )
    return MapFrame(mpp, size, l0_per_map)


def pick_level(info: SlideInfo, frame: MapFrame) -> int:
    """Return the most downsampled level that is at or finer than the map on both axes (1 % tolerance).

    Level 0 is returned when even that is coarser; `upsampling` tells by how much.
    """
    best = 0
    for index, level in enumerate(info.levels):
        x = level.downsample.x / frame.l0_per_map.x
        y = level.downsample.y / frame.l0_per_map.y
        if max(x, y) <= 1 + LEVEL_TOLERANCE:
            best = index
    return best


def upsampling(frame: MapFrame) -> float:
    """Return how many map pixels one l0 pixel is stretched over; 1 or less means none."""
    return 1 / min(frame.l0_per_map.x, frame.l0_per_map.y)


def source_box(info: SlideInfo, frame: MapFrame, level: int, box_map: Box) -> RealBox:
    """Return the exact box in pixels of `level` that `box_map` stands for."""
    scale = frame.l0_per_map / info.levels[level].downsample
    return box_map.scaled(scale)


def is_exact(info: SlideInfo, frame: MapFrame, level: int) -> bool:
    """Return whether map pixels are means of whole pixels of the level, so that none is resampled."""
    exact = frame.l0_per_map / info.levels[level].downsample
    return _whole_if_close(exact.x).is_integer() and _whole_if_close(exact.y).is_integer()


def read_region(slide: Pixels, frame: MapFrame, box_map: Box, level: int | None = None) -> NDArray[np.uint8]:
    """Read a box of map pixels with its exact fractional position.

    Args:
        slide: an open slide.
        frame: its map frame.
        box_map: map pixels; may reach beyond the map.
        level: level to read from; by default `pick_level`.

    Returns:
        uint8 RGB of shape (box_map.height, box_map.width, 3), white outside the slide. A pixel has the
        same bytes whatever box it is read with.

    Raises:
        SlideError: the pixels cannot be read.
    """
    level = pick_level(slide.info, frame) if level is None else level
    exact = frame.l0_per_map / slide.info.levels[level].downsample
    scale = Scale(_whole_if_close(exact.x), _whole_if_close(exact.y))
    if scale == Scale(1, 1):
        return slide.read_level(level, box_map)
    longest = max(scale.x, scale.y, 1.0)
    side = min(CELL, 2 ** max(0, math.floor(math.log2(SOURCE_SIDE / longest))))
    panel_side = max(1, math.floor(2 * SOURCE_SIDE / longest) // side) * side
    if scale.x.is_integer() and scale.y.is_integer():
        return _read_means(slide, level, (int(scale.x), int(scale.y)), box_map, panel_side)
    margin = math.ceil(longest) + 1
    out = np.empty((box_map.height, box_map.width, 3), np.uint8)
    for panel_map in _cover(box_map, panel_side):
        # Only the cells that are asked for: a panel is there to bound memory.
        wanted_map = panel_map.intersect(box_map).aligned(side)
        source_level = wanted_map.scaled(scale).outward(margin)
        source = slide.read_level(level, source_level)
        for cell_map in _cover(wanted_map, side):
            cell_level = cell_map.scaled(scale)
            crop_level = cell_level.outward(margin)
            crop = Image.fromarray(np.ascontiguousarray(source[crop_level.within(source_level)]))
            cell = _resample(crop, cell_level, crop_level, side)
            part = cell_map.intersect(box_map)
            out[part.within(box_map)] = cell[part.within(cell_map)]
    return out


def _read_means(
    slide: Pixels, level: int, factors: tuple[int, int], box_map: Box, panel_side: int
) -> NDArray[np.uint8]:
    """Read map pixels that are each the mean of a whole number of level pixels, and no others.

    It pays to read no margin: on both sides of a region one more row of stored tiles may hang on it.
    """
    x, y = factors
    out = np.empty((box_map.height, box_map.width, 3), np.uint8)
    for panel_map in _cover(box_map, panel_side):
        part_map = panel_map.intersect(box_map)
        part_level = Box(part_map.x0 * x, part_map.y0 * y, part_map.x1 * x, part_map.y1 * y)
        source = Image.fromarray(slide.read_level(level, part_level))
        out[part_map.within(box_map)] = np.asarray(source.reduce(factors))
    return out


def _cover(box: Box, side: int) -> Iterator[Box]:
    """Yield the cells of `side` pixels, anchored at (0, 0), that cover `box`."""
    whole = box.aligned(side)
    for y in range(whole.y0, whole.y1, side):
        for x in range(whole.x0, whole.x1, side):
            yield Box.at(x, y, side, side)


def _whole_if_close(factor: float) -> float:
    whole = round(factor)
    return float(whole) if abs(factor - whole) <= WHOLE_FACTOR_TOLERANCE * factor else factor


def _resample(crop: Image.Image, cell_level: RealBox, crop_level: Box, side: int) -> NDArray[np.uint8]:
    """Resample the cell that lies inside `crop` to side × side pixels.

    The crop depends on the cell alone, and so do the bytes.
    """
    x0, y0 = cell_level.x0 - crop_level.x0, cell_level.y0 - crop_level.y0
    x1, y1 = cell_level.x1 - crop_level.x0, cell_level.y1 - crop_level.y0
    # BOX would snap to whole source pixels; HAMMING weighs them by distance and keeps positions exact.
    resized = crop.resize((side, side), Image.Resampling.HAMMING, box=(x0, y0, x1, y1))
    return np.asarray(resized)


def read_thumbnail(
    slide: Pixels, max_side: int, *, read: ReadPixels | None = None
) -> tuple[NDArray[np.uint8], Scale]:
    """Read the whole slide at low power, strip by strip, so that memory does not grow with the slide.

    Args:
        slide: an open slide.
        max_side: longest side of the thumbnail in pixels.
        read: reads a box of thumbnail pixels, in place of `read_region`.

    Returns:
        uint8 RGB whose longer side is at most `max_side`, and the l0 pixels per thumbnail pixel (exact:
        pixel (i, j) covers l0 [i * scale.x, (i + 1) * scale.x) × …).

    Raises:
        SlideError: a part cannot be read; `faults.TolerantPixels` reads around it.
    """
    info = slide.info
    if max_side < 1:
        raise SlideError(f"{info.path}: a thumbnail needs a side of at least one pixel")
    factor = max(1.0, max(info.size.width, info.size.height) / max_side)
    width = max(1, min(max_side, round(info.size.width / factor)))
    height = max(1, min(max_side, round(info.size.height / factor)))
    scale = Scale(info.size.width / width, info.size.height / height)
    frame = MapFrame(mpp=1.0, size=Size(width, height), l0_per_map=scale)
    level = pick_level(info, frame)
    out = np.empty((height, width, 3), np.uint8)
    for y in range(0, height, CELL):
        for x in range(0, width, CELL):
            cell = Box.at(x, y, CELL, CELL).intersect(frame.box)
            out[cell.within(frame.box)] = (read or read_region)(slide, frame, cell, level)
    return out, scale


def default_name(path: str) -> str:
    """Return the name of a slide's results: its file's without the ending, or a DICOMweb series' UID."""
    if (address := parse_series(path)) is not None:
        return address.series
    if path.startswith(("http://", "https://")):
        path = unquote(urlsplit(path).path)
    name = Path(path.rstrip("/").rsplit("/", 1)[-1])
    return name.stem or name.name
