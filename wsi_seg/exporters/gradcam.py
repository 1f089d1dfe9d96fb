"""The picture of a Grad-CAM: the image with the predicted class outlined, and next to it the heat map.

`pic` are pixels of one of the two pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from wsi_seg.core.classes import RGB
from wsi_seg.exporters.figure import (
    ENTRY,
    FACTS,
    HEAD,
    INK,
    MARGIN,
    PAPER,
    RULE,
    SMALL,
    SMALL_LINE,
    TITLE,
    draw_outlines,
    draw_scale_bar,
    save_png,
    shorten,
    wrap,
    write,
)
from wsi_seg.regions.contours import trace_contours

# Pictures are brought to this longer side, unless that enlarges them too much.
SIDE = 900
MOST_ENLARGED = 16
CAPTION = 52
BAR_WIDTH = 26
BAR_ROOM = 110
LEAST_WIDTH = 900

# Heat from none to most, by its share of the largest: yellow over orange to dark red, on gray tissue.
HEAT = np.array([(255, 247, 188), (254, 196, 79), (240, 110, 30), (200, 25, 40), (115, 0, 45)], np.float64)
OPACITY = 0.8
METHOD = (
    "Grad-CAM (Selvaraju et al. 2017; for segmentation, Vinogradova et al. 2020): where the features of this "
    "layer raise the class's score, relative to the largest value in this picture. It shows what the network "
    "responds to, not whether that is right."
)


@dataclass(frozen=True, slots=True)
class GradCamSheet:
    """Text around the pictures."""

    slide: str
    facts: str
    """One line under the title."""
    name: str
    """The class or group explained."""
    color: RGB
    share: float
    """Of the pixels predicted as the class, 0 … 1."""
    silent: bool
    """The heat is 0 everywhere."""
    notice: str
    um_per_map: float


def write_gradcam(
    path: Path,
    pixels: NDArray[np.uint8],
    heat: NDArray[np.float32],
    predicted: NDArray[np.bool_],
    sheet: GradCamSheet,
) -> None:
    """Write a PNG: image with outlines and scale bar, heat map with color bar, title and notes.

    Args:
        path: the file to write; replaced when it exists.
        pixels: uint8 RGB (h, w, 3).
        heat: (h, w), 0 or more.
        predicted: (h, w), to be outlined.
        sheet: texts and color.

    Raises:
        OutputError: the file cannot be written.
    """
    most = float(heat.max())
    share = heat / most if most > 0 else heat
    factor = min(MOST_ENLARGED, SIDE / max(heat.shape))  # pic pixels per map pixel
    image, gray = _sized(pixels, factor), _sized(_grayed(pixels), factor)
    warm = Image.fromarray(share).resize(image.size, Image.Resampling.BILINEAR)
    left = Image.fromarray(draw_outlines(np.asarray(image), _rings(predicted, factor), sheet.color, 2.5))
    draw_scale_bar(left, sheet.um_per_map / factor)
    right = Image.fromarray(heated(np.asarray(gray), np.asarray(warm)))
    save_png(_compose(left, right, sheet), path)


def heated(pixels: NDArray[np.uint8], share: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Lay the colors of `share` (h, w), 0 … 1, over RGB pixels (h, w, 3); where it is 0 they stay."""
    stops = np.linspace(0, 1, len(HEAT))
    colors = np.stack([np.interp(share, stops, HEAT[:, i]) for i in range(3)], axis=-1)
    opacity = OPACITY * np.sqrt(np.clip(share, 0, 1))[..., None]  # low values are to be seen too
    return np.rint(pixels * (1 - opacity) + colors * opacity).astype(np.uint8)


def _grayed(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return light gray RGB, so that color means heat."""
    gray = np.asarray(Image.fromarray(pixels).convert("L"))
    return np.repeat((85 + gray.astype(np.uint16) * 2 // 3).astype(np.uint8)[..., None], 3, axis=-1)


def _sized(pixels: NDArray[np.uint8], factor: float) -> Image.Image:
    height, width = (max(1, round(side * factor)) for side in pixels.shape[:2])
    way = Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.BOX
    return Image.fromarray(pixels).resize((width, height), way)


def _rings(predicted: NDArray[np.bool_], factor: float) -> list[NDArray[np.float64]]:
    """Return the outlines as (n, 2) positions in the picture."""
    polygons = trace_contours(predicted.astype(np.uint8), 1)
    rings = shapely.get_rings(np.asarray(polygons, dtype=object))
    return [shapely.get_coordinates(ring) * factor for ring in rings]


def _compose(left: Image.Image, right: Image.Image, sheet: GradCamSheet) -> Image.Image:
    inner = max(LEAST_WIDTH, left.width + MARGIN + right.width + BAR_ROOM)
    notes = [line for text in (METHOD, sheet.notice) for line in wrap(text, SMALL, inner)]
    top = MARGIN + HEAD + CAPTION
    bottom = top + left.height + MARGIN
    page = Image.new("RGB", (MARGIN + inner + MARGIN, bottom + len(notes) * SMALL_LINE + MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    title = f"What speaks for {sheet.name}: {sheet.slide}"
    write(draw, (MARGIN, MARGIN + 30), shorten(title, TITLE, inner), TITLE)
    write(draw, (MARGIN, MARGIN + 74), shorten(sheet.facts, FACTS, inner), FACTS)
    for index, line in enumerate(notes):
        write(draw, (MARGIN, bottom + 8 + SMALL_LINE * index), line, SMALL)
    said = f"Predicted as {sheet.name}: {sheet.share:.1%}" if sheet.share else f"Not predicted: {sheet.name}"
    draw.rectangle((MARGIN, top - 36, MARGIN + 18, top - 18), outline=sheet.color, width=4)
    write(draw, (MARGIN + 30, top - 18), shorten(said, ENTRY, left.width - 30), ENTRY)
    page.paste(left, (MARGIN, top))
    x = MARGIN + left.width + MARGIN
    caption = "Grad-CAM: nothing speaks for it" if sheet.silent else "Grad-CAM"
    write(draw, (x, top - 18), shorten(caption, ENTRY, right.width), ENTRY)
    page.paste(right, (x, top))
    for edge in (MARGIN, x):
        draw.rectangle((edge - 1, top - 1, edge + left.width, top + left.height), outline=RULE)
    _draw_bar(page, (x + right.width + MARGIN // 2, top), right.height)
    return page


def _draw_bar(page: Image.Image, corner: tuple[int, int], height: int) -> None:
    """Draw the color bar: 1 above, 0 below, the colors as they look on light tissue."""
    share = np.repeat(np.linspace(1, 0, height, dtype=np.float32)[:, None], BAR_WIDTH, axis=1)
    ground = np.full((height, BAR_WIDTH, 3), 225, np.uint8)
    page.paste(Image.fromarray(heated(ground, share)), corner)
    draw = ImageDraw.Draw(page)
    draw.rectangle((corner[0], corner[1], corner[0] + BAR_WIDTH - 1, corner[1] + height - 1), outline=INK)
    for text, y in (("most", corner[1] + 20), ("none", corner[1] + height - 4)):
        write(draw, (corner[0] + BAR_WIDTH + 8, y), text, SMALL)
