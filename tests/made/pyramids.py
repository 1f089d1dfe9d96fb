"""Small lossless pyramids with known pixels, as the ground truth of tests about positions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_seg.core.geometry import Box, Scale, Size

RGB = NDArray[np.uint8]


def make_landmark_slide(
    path: str | Path, size: Size, mpp: Scale, landmarks: Sequence[Box], factors: Sequence[int] = (1, 2, 4)
) -> Path:
    """Write a lossless generic pyramid: black boxes at known places on white.

    Args:
        path: file to write, such as `marks.tiff`.
        size: size of level 0 in l0 pixels.
        mpp: microns per l0 pixel on each axis, written as TIFF resolution tags.
        landmarks: boxes to fill, in l0 pixels.
        factors: whole downsampling factors of the levels, the first being 1. A level pixel is the area
            mean of its l0 pixels; columns and rows that do not fill one are left out, as scanners do.
    """
    image = np.full((size.height, size.width, 3), 255, np.uint8)
    whole = Box(0, 0, size.width, size.height)
    for box in landmarks:
        image[box.intersect(whole).within(whole)] = 0
    write_pyramid(path, image, mpp, factors)
    return Path(path)


def write_pyramid(path: str | Path, image: RGB, mpp: Scale, factors: Sequence[int] = (1, 2, 4)) -> Path:
    """Write uint8 (h, w, 3) as a lossless generic tiled pyramid whose levels are area means."""
    with tifffile.TiffWriter(path) as writer:
        for factor in factors:
            writer.write(
                area_mean(image, factor),
                tile=(64, 64),
                photometric="rgb",
                compression="deflate",
                resolution=(1e4 / (mpp.x * factor), 1e4 / (mpp.y * factor)),
                resolutionunit="CENTIMETER",
                subfiletype=1 if factor > 1 else 0,
                metadata=None,
                software=False,
            )
    return Path(path)


def area_mean(image: RGB, factor: int) -> RGB:
    """Return the mean over factor × factor pixels, rounded half up; incomplete ones are left out."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    mean: RGB = np.floor(blocks.mean(axis=(1, 3)) + 0.5).astype(np.uint8)
    return mean
