"""Tiles as files: the slide as JPEG, layers as PNG with a palette, both on the slide's Deep Zoom grid."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_seg.core.classes import RGB
from wsi_seg.core.geometry import Box, Scale
from wsi_seg.maps.resampling import interpolated
from wsi_seg.slides.slide import MapFrame, Pixels, pick_level, read_region, read_thumbnail
from wsi_seg.viewer.sources import Channels, MapSource, pick_downsample

JPEG_QUALITY = 85
THUMBNAIL_SIDE = 384
# Level pixels around a box, so that interpolation sees its neighbors.
MARGIN = 2


def slide_tile(slide: Pixels, frame: MapFrame, box: Box) -> bytes:
    """Return a box of a Deep Zoom level of a slide as JPEG, white where nothing was scanned.

    Raises:
        SlideError: it cannot be read.
    """
    return jpeg(read_region(slide, frame, box, pick_level(slide.info, frame)))


def thumbnail(slide: Pixels) -> bytes:
    """Return the whole slide as a small JPEG.

    Raises:
        SlideError: it cannot be read.
    """
    return jpeg(read_thumbnail(slide, THUMBNAIL_SIDE)[0])


def jpeg(pixels: NDArray[np.uint8] | Image.Image) -> bytes:
    """Return uint8 RGB (h, w, 3) as a JPEG file."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    # Color at full resolution: thin stained structures keep theirs.
    image.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return file.getvalue()


def label_tile(
    source: MapSource, what: Channels, map_per_pixel: Scale, box: Box, colors: Mapping[int, RGB]
) -> bytes:
    """Return labels as PNG: for each pixel the label under its center; what has no color is transparent.

    Args:
        source: of the maps.
        what: labels or tissue.
        map_per_pixel: map pixels per pixel of the tile.
        box: pixels to draw, in the frame of their Deep Zoom level.
        colors: of the labels that are shown.
    """
    downsample = pick_downsample(source, what.kind, min(map_per_pixel.x, map_per_pixel.y))
    columns = _under(box.x0, box.x1, map_per_pixel.x / downsample)
    rows = _under(box.y0, box.y1, map_per_pixel.y / downsample)
    box_level = Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    values = source.read(what, downsample, box_level)
    picked = values[np.ix_(rows - box_level.y0, columns - box_level.x0)]
    alpha = np.zeros(256, np.uint8)
    alpha[list(colors)] = 255
    return png(picked, colors, alpha)


def value_tile(source: MapSource, what: Channels, map_per_pixel: Scale, box: Box, color: RGB) -> bytes:
    """Return a probability as PNG: one color, as opaque as the value is high; linear between centers.

    The sum of the channels `what` is drawn; frames are those of `label_tile`.
    """
    downsample = pick_downsample(source, what.kind, min(map_per_pixel.x, map_per_pixel.y))
    exact = box.scaled(map_per_pixel / Scale(downsample, downsample))
    values = as_bytes(_read_padded(source, what, downsample, exact.outward(MARGIN)))
    resized = interpolated(values, exact, exact.outward(MARGIN), box)
    return png(resized, dict.fromkeys(range(256), color), np.arange(256, dtype=np.uint8))


def _under(start: int, stop: int, step: float) -> NDArray[np.int64]:
    """Return the level pixel under the center of each pixel start … stop - 1."""
    under: NDArray[np.int64] = np.floor((np.arange(start, stop) + 0.5) * step).astype(np.int64)
    return under


def _read_padded(source: MapSource, what: Channels, downsample: int, box: Box) -> NDArray[Any]:
    """Read a box; beyond the map its border repeats, so that it does not fade there."""
    size = source.layout.map_size
    whole = Box(0, 0, -(-size.width // downsample), -(-size.height // downsample))
    inside = box.intersect(whole)
    if inside.empty:
        return source.read(what, downsample, box)
    values = source.read(what, downsample, inside)
    around = ((inside.y0 - box.y0, box.y1 - inside.y1), (inside.x0 - box.x0, box.x1 - inside.x1))
    return np.pad(values, around, mode="edge")


def as_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return probabilities of either stored type as uint8, value / 255."""
    if values.dtype == np.uint8:
        return values
    scaled = np.nan_to_num(values, nan=0.0) * 255
    whole: NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return whole


def png(values: NDArray[np.uint8], colors: Mapping[int, RGB], alpha: NDArray[np.uint8]) -> bytes:
    """Return uint8 (h, w) as a PNG whose palette gives each value a color and an opacity (256,)."""
    table = np.zeros((256, 3), np.uint8)
    for value, color in colors.items():
        table[value] = color
    image = Image.fromarray(np.ascontiguousarray(values)).convert("L")
    image.putpalette(table.tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1, transparency=alpha.tobytes())
    return file.getvalue()
