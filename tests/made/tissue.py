"""A made texture of stained tissue: nuclei, fibers, fat and empty glass, in changing density.

The packaged sample is scanned at 0.5 µm/px, so a made slide at 0.25 shows it blurred: its tiles have a
quarter of the bytes of scanned ones, and decode faster. This texture is made at the resolution that is asked
for, and its tiles compress as those of scanned slides do. It is drawn as optical density of hematoxylin and
of eosin, and colored by their absorption (Ruifrok and Johnston 2001). It looks like tissue to a codec and to
a tissue detector, and to nobody else.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RGB = NDArray[np.uint8]
Field = NDArray[np.float32]

GLASS = 245  # gray of empty glass
HEMATOXYLIN = np.array((0.65, 0.70, 0.29), np.float32)
EOSIN = np.array((0.07, 0.99, 0.11), np.float32)
DARKNESS = 1.7  # of a section: its optical density in the units below
GRAIN = 0.14  # standard deviation of a pixel's density, as a share of the mean of its three colors
GLASS_GRAIN = 0.006  # and where there is nothing
# Nuclei for each square millimeter, with the half axes of the largest and smallest in micrometers.
CROWDED, SPARSE = 7000.0, 1300.0
STAMPS = 48  # different nuclei
STRIP = 256  # rows that are colored at a time


def tissue_texture(side: int, mpp: float, seed: int = 0) -> RGB:
    """Return tissue at `mpp` micrometers per pixel, uint8 (side, side, 3), the same for the same seed."""
    rng = np.random.default_rng(seed)

    def field(micrometers: float, along: float | None = None) -> Field:
        return lumps(rng, side, micrometers / mpp, (along or micrometers) / mpp)

    crowded = above(field(110), 0.1, 0.5)  # epithelium; the rest is stroma
    fat = above(field(150), 1.0, 0.15) * (1 - crowded)
    empty = above(field(90), 1.5, 0.1)
    walls = 1 - above(np.abs(field(30)), 0.1, 0.08)  # of fat cells
    fibers = bent(field(2.5, 40), field(60), 25 / mpp)
    hematoxylin = 0.06 + 0.16 * crowded + 0.03 * field(4)
    eosin = 0.16 + 0.1 * crowded + (1 - crowded) * (0.12 + 0.09 * fibers) + 0.04 * field(3)
    nuclei = drawn_nuclei(rng, crowded * (1 - fat) * (1 - empty), mpp)
    hematoxylin += nuclei
    solid = (1 - fat * (1 - walls)) * (1 - empty)
    return colored(np.maximum(hematoxylin, 0) * solid, np.maximum(eosin, 0) * solid, rng)


def lumps(rng: np.random.Generator, side: int, height: float, width: float) -> Field:
    """Return smooth noise with lumps of so many pixels, of mean 0 and deviation about 1, (side, side)."""
    cells = [max(2, round(side / size)) for size in (height, width)]
    coarse = rng.standard_normal((cells[0] + 4, cells[1] + 4), dtype=np.float32)
    box = (2, 2, 2 + cells[1], 2 + cells[0])
    fine = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC, box=box))
    return (fine - fine.mean()) / (fine.std() or 1)


def above(field: Field, threshold: float, width: float) -> Field:
    """Return 0 where a field is below the threshold, 1 where it is above, and a ramp of `width` between."""
    return np.clip((field - threshold) / width + 0.5, 0, 1)


def bent(field: Field, by: Field, pixels: float) -> Field:
    """Return a field whose rows are shifted up and down by so many pixels times another field."""
    rows = np.arange(len(field))[:, None] + (by * pixels).astype(np.int32)
    return field[rows % len(field), np.arange(field.shape[1])]


def drawn_nuclei(rng: np.random.Generator, crowded: Field, mpp: float) -> Field:
    """Return the density of nuclei: many round ones where `crowded` is 1, few long ones where it is 0."""
    side = len(crowded)
    reach = int(np.ceil(4.5 / mpp))  # half the side of a stamp
    stamps = [nucleus(rng, reach, mpp, long=number % 2 == 1) for number in range(STAMPS)]
    canvas = np.zeros((side + 2 * reach + 1, side + 2 * reach + 1), np.float32)
    for y, x in rng.integers(0, side, (round(CROWDED * (side * mpp / 1000) ** 2), 2)):
        share = crowded[y, x]
        if rng.random() > SPARSE / CROWDED + share:
            continue
        stamp = stamps[2 * int(rng.integers(STAMPS // 2)) + (rng.random() > share)]
        place = canvas[y : y + len(stamp), x : x + len(stamp)]
        np.maximum(place, stamp, out=place)
    return canvas[reach : reach + side, reach : reach + side]


def nucleus(rng: np.random.Generator, reach: int, mpp: float, *, long: bool) -> Field:
    """Return the density of one nucleus with grains of chromatin, (2 × reach + 1, 2 × reach + 1)."""
    axes = (rng.uniform(1.0, 1.5), rng.uniform(3.5, 4.5)) if long else rng.uniform(2.2, 3.6, 2)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32) * np.float32(mpp)
    angle = rng.uniform(0, np.pi)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    inside = above(np.sqrt((u / axes[0]) ** 2 + (v / axes[1]) ** 2) * -1, -1, 0.25)
    grains = lumps(rng, len(y), 0.9 / mpp, 0.9 / mpp)
    dark: Field = inside * np.float32(rng.uniform(0.45, 0.9)) * (1 + 0.25 * grains)
    return np.maximum(dark, 0).astype(np.float32)


def colored(hematoxylin: Field, eosin: Field, rng: np.random.Generator) -> RGB:
    """Return what light is left behind tissue of such densities, with the grain of a camera."""
    image = np.empty((*hematoxylin.shape, 3), np.uint8)
    for start in range(0, len(image), STRIP):
        rows = slice(start, start + STRIP)
        density = hematoxylin[rows, :, None] * HEMATOXYLIN + eosin[rows, :, None] * EOSIN
        density *= DARKNESS
        grain = rng.standard_normal((*density.shape[:2], 1), dtype=np.float32)
        density += grain * (GLASS_GRAIN + GRAIN * density.mean(axis=2, keepdims=True))
        image[rows] = np.clip(GLASS * np.exp(-density), 0, 255).astype(np.uint8)
    return image
