"""Stored levels of maps at any resolution: the code under a pixel's center, and probabilities between them.

Besides the frames of `geometry` there is one more here: `pic`, pixels of a picture of the whole map from its
pixel (0, 0) on, each `map_per_pic` map pixels wide and high.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_seg.core.errors import UsageError
from wsi_seg.core.geometry import Box, RealBox, Scale
from wsi_seg.maps.fields import ChannelSum
from wsi_seg.maps.maps import Maps
from wsi_seg.planning.map_layout import Kind, MapLayout
from wsi_seg.slides.slide import LEVEL_TOLERANCE, MapFrame, SlideInfo, map_frame, require_mpp

# Rows of a picture that are computed at a time.
STRIP = 512


def frame_at(slide: SlideInfo, maps: Maps, mpp: float) -> MapFrame:
    """Return the frame of a picture of the whole map at `mpp` microns per pixel.

    Raises:
        UsageError: it would be finer than the slide or coarser than all of it, or `mpp` is no number.
        MppMissingError: the slide has no mpp.
    """
    check_picture_mpp(slide, maps.mpp, mpp)
    return map_frame(slide, mpp)


def check_picture_mpp(slide: SlideInfo, map_mpp: float, mpp: float) -> None:
    """Refuse a resolution that `frame_at` has no picture of, for maps of `map_mpp`; raises as that does."""
    slide_mpp = require_mpp(slide)
    finest = min(slide_mpp.x, slide_mpp.y, map_mpp)
    if not (math.isfinite(mpp) and mpp >= finest * (1 - LEVEL_TOLERANCE)):
        raise UsageError(f"mpp {mpp:g}: finer than the slide; use {finest:g} µm/px or more")
    side = max(slide.size.width * slide_mpp.x, slide.size.height * slide_mpp.y, map_mpp)
    if mpp > side:
        raise UsageError(f"mpp {mpp:g}: a pixel would be larger than the slide; use {side:g} µm/px or less")


def pick_level(layout: MapLayout, kind: Kind, map_per_pic: float) -> int:
    """Return the coarsest stored level that is as fine as the picture (1 % tolerance), else the finest."""
    most = map_per_pic * (1 + LEVEL_TOLERANCE)
    return max((i for i in range(layout.level_count) if layout.downsample(kind, i) <= most), default=0)


def label_reader(maps: Maps, kind: Kind, map_per_pic: float) -> Callable[[Box], NDArray[np.uint8]]:
    """Return a function from a box of the picture to its codes, uint8 (box.height, box.width).

    A pixel is the code at its center, in the level of `pick_level`; codes are never mixed. The picture's last
    column and row may reach beyond the map by part of a pixel, and no box may reach further.

    The function raises OutputError where the maps are damaged.
    """
    level = pick_level(maps.layout, kind, map_per_pic)
    array = maps.array(kind, level)
    step = map_per_pic / maps.layout.downsample(kind, level)

    def read(box_pic: Box) -> NDArray[np.uint8]:
        rows = pixels_under(box_pic.y0, box_pic.y1, step, array.shape[0])
        columns = pixels_under(box_pic.x0, box_pic.x1, step, array.shape[1])
        part = array[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        found: NDArray[np.uint8] = part[np.ix_(rows - rows[0], columns - columns[0])]
        return found

    return read


def probability_reader(
    maps: Maps, channels: tuple[int, ...], map_per_pic: float
) -> Callable[[Box], NDArray[np.float32]]:
    """Return a function from a box of the picture to a sum of channels.

    It returns float32 (box.height, box.width), 0 … 1: interpolated linearly in the level of `pick_level`, and
    averaged where that is finer than the picture. No box may reach further beyond the map than part of a
    pixel.

    The function raises OutputError where the maps are damaged.
    """
    level = pick_level(maps.layout, "probabilities", map_per_pic)
    downsample = maps.layout.downsample("probabilities", level)
    field = ChannelSum(maps.array("probabilities", level), channels, downsample)
    step = map_per_pic / downsample
    margin = math.ceil(max(1.0, step)) + 1

    def read(box_pic: Box) -> NDArray[np.float32]:
        exact_level = box_pic.scaled(Scale(step, step))
        wanted_level = exact_level.outward(margin)
        inside_level = wanted_level.intersect(Box(0, 0, field.shape[1], field.shape[0]))
        stored = field[inside_level.slices].astype(np.float32)
        around = (
            (inside_level.y0 - wanted_level.y0, wanted_level.y1 - inside_level.y1),
            (inside_level.x0 - wanted_level.x0, wanted_level.x1 - inside_level.x1),
        )
        # Beyond the map its border repeats, so that nothing fades there.
        padded = np.pad(stored, around, mode="edge")
        resized = interpolated(padded, exact_level, wanted_level, box_pic)
        return np.asarray(resized / np.float32(field.full), np.float32)

    return read


def pixels_under(start: int, stop: int, step: float, length: int) -> NDArray[np.intp]:
    """Return the stored column or row, below `length`, under the center of each pixel start … stop - 1."""
    centers = (np.arange(start, stop) + 0.5) * step
    under: NDArray[np.intp] = np.minimum(centers.astype(np.intp), length - 1)
    return under


def interpolated(values: NDArray[Any], exact_level: RealBox, crop_level: Box, box_pic: Box) -> NDArray[Any]:
    """Return the values of `exact_level` as an array of the size of `box_pic`, of the same type.

    Args:
        values: uint8 or float32 (h, w), the pixels of `crop_level`.
        exact_level: lies in `crop_level`, with room for the interpolation.
        crop_level: pixels of a stored level.
        box_pic: pixels to make of it.
    """
    x0, y0 = exact_level.x0 - crop_level.x0, exact_level.y0 - crop_level.y0
    x1, y1 = exact_level.x1 - crop_level.x0, exact_level.y1 - crop_level.y0
    image = Image.fromarray(np.ascontiguousarray(values))
    size = box_pic.width, box_pic.height
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=(x0, y0, x1, y1)))


def read_strips(read: Callable[[Box], NDArray[Any]], box_pic: Box, out: NDArray[Any]) -> None:
    """Fill `out`, (box.height, box.width), strip by strip, so that little more than it is in memory."""
    for y in range(box_pic.y0, box_pic.y1, STRIP):
        part = Box(box_pic.x0, y, box_pic.x1, min(y + STRIP, box_pic.y1))
        out[part.within(box_pic)] = read(part)
