"""Artifacts made of clean tissue: cut-outs pasted onto it, tissue folded over itself, and blur.

Images are float32 RGB (h, w, 3), 0 … 255; alpha is float32 (h, w), 0 … 1, the share of an artifact in a
pixel. All chance comes from the generator that is passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from wsi_seg.core.errors import DataError
from wsi_seg.datasets.mask_files import MASK_DAMAGE

Floats = NDArray[np.float32]
Pasted = tuple[Floats, Floats]
"""The changed image, and the alpha of the artifact."""

# Brightness of glass, and from which on a smoothed pixel is glass.
GLASS = 243.0
GLASS_FROM = 218.0
# Width of folds, and the radius of blur (its standard deviation), in µm.
FOLD_UM = (20.0, 90.0)
BLUR_UM = (4.0, 16.0)
# An alpha below this cannot be seen.
LEAST_ALPHA = 0.15


@dataclass(frozen=True, slots=True, eq=False)
class CutOut:
    """A picture of an artifact without its ground."""

    image: Image.Image
    """RGBA."""
    ink: bool
    """It lets the tissue shine through, by its color relative to glass."""


def read_cut_out(path: Path, *, ink: bool) -> CutOut:
    """Read a cut-out: an RGBA image, or an RGB image with a mask `NAME_mask.png` next to it.

    Raises:
        DataError: the file is missing, damaged, or without alpha and mask; or nothing is marked.
    """
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGBA")
            transparent = opened.mode in ("RGBA", "LA", "PA")
        if not transparent:
            mask_path = path.with_name(f"{path.stem}_mask.png")
            if not mask_path.is_file():
                raise DataError(f"{path}: has neither transparency nor a mask; expected {mask_path}")
            with Image.open(mask_path) as opened:
                mask = opened.convert("L")
            if mask.size != image.size:
                raise DataError(f"{mask_path}: {mask.size} pixels, but {path.name} has {image.size}")
            image.putalpha(mask)
    except MASK_DAMAGE as error:
        raise DataError(f"{path}: the cut-out cannot be read ({' '.join(str(error).split())})") from error
    box = image.getchannel("A").getbbox()
    if box is None:
        raise DataError(f"{path}: nothing of the cut-out is opaque")
    return CutOut(image.crop(box), ink)


def paste(ground: Floats, cut_out: CutOut, longest: float, random: Generator) -> Pasted:
    """Paste a cut-out at a random place, turned and mirrored; some of it may lie outside.

    Args:
        ground: what it is pasted on.
        cut_out: the artifact.
        longest: its longer side in pixels.
        random: decides.
    """
    factor = longest / max(cut_out.image.size)
    width, height = (max(2, round(side * factor)) for side in cut_out.image.size)
    turned = cut_out.image.resize((width, height), Image.Resampling.BILINEAR)
    if random.random() < 0.5:
        turned = turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned = turned.rotate(float(random.uniform(0, 360)), Image.Resampling.BILINEAR, expand=True)
    # A point of the artifact that is opaque comes to lie on a point of the ground.
    opaque = np.argwhere(np.asarray(turned.getchannel("A")) > 255 * LEAST_ALPHA)
    at = opaque[random.integers(len(opaque))] if len(opaque) else (0, 0)
    y, x = (int(random.integers(side)) - int(offset) for side, offset in zip(ground.shape, at, strict=False))
    canvas = Image.new("RGBA", (ground.shape[1], ground.shape[0]))
    canvas.paste(turned, (x, y))
    pixels = np.asarray(canvas, np.float32)
    color, alpha = pixels[..., :3], pixels[..., 3] / np.float32(255)
    color = color * np.float32(random.uniform(0.85, 1.15))
    if cut_out.ink:
        color = ground * np.minimum(color[..., random.permutation(3)] / np.float32(GLASS), 1)
    return _blend(ground, np.clip(color, 0, 255), alpha), alpha


def fold(ground: Floats, mpp: float, random: Generator) -> Pasted:
    """Lay other tissue of the image over a winding band of it, as where a section is folded."""
    height, width = ground.shape[:2]
    angle = random.uniform(0, math.pi)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    across = (columns - random.uniform(0, width)) * math.cos(angle)
    across += (rows - random.uniform(0, height)) * math.sin(angle)
    across += _smooth(ground, 40 / mpp, random) * np.float32(30 / mpp)
    half = np.float32(random.uniform(*FOLD_UM) / mpp / 2) * (1 + 0.4 * _smooth(ground, 60 / mpp, random))
    alpha = np.clip(half - np.abs(across) + 0.5, 0, 1).astype(np.float32)
    over = np.roll(ground[::-1, ::-1], random.integers(0, (height, width)), (0, 1))
    double = ground * np.minimum(over / np.float32(GLASS), 1) * np.float32(random.uniform(0.75, 1.0))
    rim = np.abs(half - np.abs(across)) < 4 / mpp
    double[rim] *= np.float32(0.85)
    double = _blurred(double, random.uniform(0, 3) / mpp)
    return _blend(ground, double, alpha), alpha


def blur(ground: Floats, mpp: float, random: Generator) -> Pasted:
    """Blur a part with winding borders, as where a section is out of focus."""
    noise = _smooth(ground, random.uniform(60, 200) / mpp, random)
    alpha = (noise > np.quantile(noise, random.uniform(0.3, 0.85))).astype(np.float32)
    alpha = _filtered(alpha, 6 / mpp)
    return _blend(ground, _blurred(ground, random.uniform(*BLUR_UM) / mpp), alpha), alpha


def glass(image: Floats, mpp: float) -> NDArray[np.bool_]:
    """Return which pixels are bright and without color over some 10 µm, (h, w)."""
    smooth = _blurred(image, 5 / mpp)
    found: NDArray[np.bool_] = smooth.min(axis=2) >= GLASS_FROM
    return found


def _blend(ground: Floats, above: Floats, alpha: Floats) -> Floats:
    return np.asarray(ground + (above - ground) * alpha[..., None], np.float32)


def _smooth(image: Floats, sigma: float, random: Generator) -> Floats:
    """Return smooth noise (h, w) of mean 0 and standard deviation 1."""
    noise = _filtered(random.standard_normal(image.shape[:2]).astype(np.float32), sigma)
    return np.asarray((noise - noise.mean()) / max(float(noise.std()), 1e-6), np.float32)


def _blurred(image: Floats, sigma: float) -> Floats:
    return np.stack([_filtered(image[..., c], sigma) for c in range(3)], axis=-1)


def _filtered(values: Floats, sigma: float) -> Floats:
    return np.asarray(ndimage.gaussian_filter(values, sigma, mode="reflect", truncate=3), np.float32)
