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
from wsi_seg.viewer.palette import scale_table
from wsi_seg.viewer.sources import CLASSES, Channels, MapSource, pick_downsample

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
    table, alpha = np.zeros((256, 3), np.uint8), np.zeros(256, np.uint8)
    for label, color in colors.items():
        table[label], alpha[label] = color, 255
    return png(_labels_under(source, what, map_per_pixel, box), table, alpha)


def value_tile(source: MapSource, what: Channels, map_per_pixel: Scale, box: Box) -> bytes:
    """Return a probability or uncertainty as PNG in the colors of `scale_table`; linear between centers.

    The sum of the channels `what` is drawn; frames are those of `label_tile`. What was not analyzed is
    transparent, and does not pull the values next to it down.
    """
    downsample = pick_downsample(source, what.kind, min(map_per_pixel.x, map_per_pixel.y))
    level = Scale(downsample, downsample)
    exact = box.scaled(map_per_pixel / level)
    around = exact.outward(MARGIN)
    size = source.layout.map_size
    inside = around.intersect(Box(0, 0, -(-size.width // downsample), -(-size.height // downsample)))
    shown = np.zeros((box.height, box.width), np.uint8)
    if not inside.empty:
        stored = as_bytes(source.read(what, downsample, inside))
        analyzed = (_labels_under(source, CLASSES, level, inside) > 0) | (stored > 0)
        values, weights = (
            interpolated(_padded(one, inside, around), exact, around, box)
            for one in (stored.astype(np.float32), analyzed.astype(np.float32))
        )
        whole = np.rint(values / np.maximum(weights, 0.5)).clip(1, 255)
        shown = np.where(weights >= 0.5, whole, 0).astype(np.uint8)
    # 0 stands for what is not shown; the color of 1 is as good as that of 0.
    alpha = np.full(256, 255, np.uint8)
    alpha[0] = 0
    return png(shown, scale_table(), alpha)


def _labels_under(source: MapSource, what: Channels, map_per_pixel: Scale, box: Box) -> NDArray[np.uint8]:
    """Return the label under the center of each pixel of a box; frames are those of `label_tile`."""
    downsample = pick_downsample(source, what.kind, min(map_per_pixel.x, map_per_pixel.y))
    columns = _under(box.x0, box.x1, map_per_pixel.x / downsample)
    rows = _under(box.y0, box.y1, map_per_pixel.y / downsample)
    box_level = Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    labels = source.read(what, downsample, box_level)
    picked: NDArray[np.uint8] = labels[np.ix_(rows - box_level.y0, columns - box_level.x0)]
    return picked


def _under(start: int, stop: int, step: float) -> NDArray[np.int64]:
    """Return the level pixel under the center of each pixel start … stop - 1."""
    under: NDArray[np.int64] = np.floor((np.arange(start, stop) + 0.5) * step).astype(np.int64)
    return under


def _padded(values: NDArray[np.float32], inside: Box, box: Box) -> NDArray[np.float32]:
    """Return the values of a box, of which `values` are what lies inside the map; its border repeats."""
    around = ((inside.y0 - box.y0, box.y1 - inside.y1), (inside.x0 - box.x0, box.x1 - inside.x1))
    return np.pad(values, around, mode="edge")


def as_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return probabilities of either stored type as uint8, value / 255."""
    if values.dtype == np.uint8:
        return values
    scaled = np.nan_to_num(values, nan=0.0) * 255
    whole: NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return whole


def png(values: NDArray[np.uint8], table: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> bytes:
    """Return uint8 (h, w) as a PNG whose palette gives each value a color (256, 3) and an opacity (256,)."""
    image = Image.fromarray(np.ascontiguousarray(values)).convert("L")
    image.putpalette(table.tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1, transparency=alpha.tobytes())
    return file.getvalue()
