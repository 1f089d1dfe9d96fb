"""Tissue in a low-power picture of an H&E slide, found by its color.

Glass, dust, shadows and scanner-black are without color; stained tissue is not. The signal is the color
in optical density, max - min over R, G, B of log10(glass / value), which neither the brightness nor the
tint of the glass changes. Its threshold is Otsu's (1979, IEEE Trans. Syst. Man Cybern. 9:62-66, doi:
10.1109/TSMC.1979.4310076), held within absolute limits, because Otsu always splits: in a blank slide it
would split noise, and in a slide full of tissue it would split tissue.

Ink is recognized by the colors it absorbs. Hematoxylin and eosin both absorb green the most; blue and green
ink do not. Red ink lets all red through while it absorbs the others; blood at this power does not. Ink mixed
from the stain's own colors (purple) cannot be distinguished.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Optical density of hematoxylin, eosin and DAB in R, G, B, one stain per row: Ruifrok & Johnston,
# "Quantification of histochemical staining by color deconvolution", Anal Quant Cytol Histol 23:291-299, 2001.
STAINS = ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (0.268, 0.570, 0.776))

# Otsu's threshold is held within these limits of the signal (optical density).
LEAST_SIGNAL = 0.035
MOST_SIGNAL = 0.06

# What counts as glass: bright, nearly without color, but not the pure white that readers paint where a slide
# holds nothing.
GLASS_VALUE = 190
GLASS_COLOR = 26
PAINTED_WHITE = 254
GLASS_SHARE = 0.002
DEFAULT_GLASS = 243.0
# Glass with color (old mounting medium is yellow, some scanners are blue) differs from stained tissue in two
# ways: neighboring pixels are nearly equal, and it lets green pass. Of the difference between the most
# and the least absorbed channel stains have more than half in green (the least: Masson's blue, 0.53).
TINTED_VALUE = 120
TINTED_STEP = 8
TINTED_GREEN = 0.45
TINTED_SHARE = 0.02
# Pixels that are looked at for glass, at most.
GLASS_SAMPLE = 2**20

# Rows that are measured at a time.
STRIP = 256

# Sizes in µm and µm².
CLOSING_UM = 24.0
SPECK_UM2 = 5_000.0
HOLE_UM2 = 100_000.0
MARGIN_UM = 8.0
INK_EDGE_UM = 48.0

# In a picture that is itself only a speck, a part this large is no speck.
SPECK_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Signals:
    """Measurements at each pixel, (h, w)."""

    color: NDArray[np.float32]
    """Largest minus smallest optical density over R, G, B."""
    ink: NDArray[np.bool_]
    """Absorbs as strong blue, green or red ink does."""
    pale_ink: NDArray[np.bool_]
    """May be ink mixed with glass, when next to strong ink."""


def detect_tissue(pixels: NDArray[np.uint8], cell_um: float) -> NDArray[np.bool_]:
    """Return which pixels hold tissue.

    Lumina and fat cells inside tissue are filled, specks are dropped, and a small margin is added.

    Args:
        pixels: uint8 RGB (h, w, 3), best at about 8 µm a pixel.
        cell_um: side of a pixel in µm.

    Returns:
        bool (h, w).
    """
    signals = measure(pixels)
    excluded = find_ink(signals, cell_um) | _find_black(pixels)
    color = signals.color
    color[excluded] = 0
    ndimage.gaussian_filter(color, 1.0, output=color)
    threshold = float(np.clip(otsu_threshold(color[~excluded]), LEAST_SIGNAL, MOST_SIGNAL))
    tissue = (color > threshold) & ~excluded
    tissue = _close(tissue, max(1, round(CLOSING_UM / cell_um)))
    speck = min(SPECK_UM2 / cell_um**2, SPECK_SHARE * color.size)
    tissue = _drop_small(tissue, speck)
    tissue = _fill_holes(tissue, HOLE_UM2 / cell_um**2)
    tissue = ndimage.binary_dilation(tissue, iterations=max(1, round(MARGIN_UM / cell_um)))
    return _drop_small(tissue & ~excluded, speck)


def otsu_threshold(values: NDArray[np.float32]) -> float:
    """Return the value that splits values into two classes of least variance (Otsu 1979); 0 without any."""
    if values.size == 0:
        return 0.0
    counts, edges = np.histogram(values, bins=256)
    centers = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts).astype(np.float64)
    above = below[-1] - below
    sums = np.cumsum(counts * centers)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + int(np.nanargmax(np.where(above > 0, between, 0)))])


def measure(pixels: NDArray[np.uint8]) -> Signals:
    """Measure the color of each pixel of a uint8 RGB picture (h, w, 3)."""
    glass = _glass(pixels)
    # Below 10 the noise of the camera, not the tissue, decides.
    tables = [np.maximum(np.log10(g / np.maximum(np.arange(256), 10)), 0).astype(np.float32) for g in glass]
    shape = pixels.shape[:2]
    signals = Signals(np.empty(shape, np.float32), np.empty(shape, bool), np.empty(shape, bool))
    for start in range(0, shape[0], STRIP):  # in strips, which keeps memory low
        rows = slice(start, start + STRIP)
        red, green, blue = (table[pixels[rows, :, c]] for c, table in enumerate(tables))
        most, least = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
        signals.color[rows] = most - least
        blue_ink = (red - green > 0.12) & (red - blue > 0.2)
        green_ink = np.minimum(red, blue) - green > 0.06
        red_ink = (green > 0.6) & (red < 0.1 * green) & (blue > 0.65 * green)
        signals.ink[rows] = blue_ink | green_ink | red_ink
        signals.pale_ink[rows] = (red > green) | (blue > 0.6 * green)
    return signals


def find_ink(signals: Signals, cell_um: float) -> NDArray[np.bool_]:
    """Return the pixels of pen strokes with their pale edges, (h, w); `cell_um` is a pixel's side in µm."""
    strong = ndimage.binary_opening(signals.ink, np.ones((2, 2), bool))
    if not strong.any():
        return strong
    steps = max(1, round(INK_EDGE_UM / cell_um))
    ink: NDArray[np.bool_] = ndimage.binary_dilation(strong, iterations=steps, mask=signals.pale_ink | strong)
    return ndimage.binary_dilation(ink)


def _glass(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return R, G, B of empty glass: the median of the brighter part of what can be glass."""
    step = max(1, math.isqrt(pixels.shape[0] * pixels.shape[1] // GLASS_SAMPLE))
    here = pixels[::step, ::step]
    low, high = here.min(axis=2), here.max(axis=2)
    neutral = (low >= GLASS_VALUE) & (high - low <= GLASS_COLOR) & (low < PAINTED_WHITE)
    tinted = (low >= TINTED_VALUE) & (high >= GLASS_VALUE) & (high - low > GLASS_COLOR)
    tinted &= _is_smooth(pixels, step)
    tinted[tinted] = _spares_green(here[tinted])
    if np.count_nonzero(tinted) > TINTED_SHARE * low.size:
        neutral |= tinted
    candidates = here[neutral]
    if len(candidates) <= GLASS_SHARE * low.size:
        return np.full(3, DEFAULT_GLASS)
    brightness = candidates.sum(axis=1, dtype=np.int32)
    brighter = candidates[brightness >= np.quantile(brightness, 0.75)]
    return np.asarray(np.median(brighter, axis=0), np.float64)


def _is_smooth(pixels: NDArray[np.uint8], step: int) -> NDArray[np.bool_]:
    """Return for each `step`-th row and column whether the pixels to the right and below are alike."""
    padded = np.pad(pixels, ((0, 1), (0, 1), (0, 0)), "edge")
    height, width = pixels.shape[:2]
    here = pixels[::step, ::step].astype(np.int16)
    right = np.abs(padded[0:height:step, 1 : width + 1 : step] - here)
    below = np.abs(padded[1 : height + 1 : step, 0:width:step] - here)
    smooth: NDArray[np.bool_] = np.maximum(right, below).max(axis=2) <= TINTED_STEP
    return smooth


def _spares_green(colors: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which R, G, B colors (n, 3), none gray, absorb green less than stains do."""
    density = -np.log10(colors.astype(np.float64))
    least = density.min(axis=1)
    spares: NDArray[np.bool_] = density[:, 1] - least <= TINTED_GREEN * (density.max(axis=1) - least)
    return spares


def _find_black(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return scanner-black borders and black ink, with the pixel next to them that mixes with glass."""
    low, high = pixels.min(axis=2), pixels.max(axis=2)
    black = (high < 40) | ((high < 110) & (high - low < 20))
    opened = ndimage.binary_opening(black, np.ones((2, 2), bool))
    return ndimage.binary_dilation(opened)


def _close(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """Close gaps; a mask that reaches the border keeps reaching it."""
    grown = ndimage.binary_dilation(mask, iterations=steps)
    return ndimage.binary_erosion(grown, iterations=steps, border_value=1) | mask


def _fill_holes(mask: NDArray[np.bool_], most_pixels: float) -> NDArray[np.bool_]:
    """Fill enclosed gaps of fewer pixels; what is open to the border is no hole."""
    parts, _ = ndimage.label(~mask)
    fill = np.bincount(parts.ravel()) < most_pixels
    for border in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        fill[border] = False
    fill[0] = False
    return mask | fill[parts]


def _drop_small(mask: NDArray[np.bool_], least_pixels: float) -> NDArray[np.bool_]:
    """Drop connected parts of fewer pixels."""
    parts, _ = ndimage.label(mask)
    keep = np.bincount(parts.ravel()) >= least_pixels
    keep[0] = False
    kept: NDArray[np.bool_] = keep[parts]
    return kept
