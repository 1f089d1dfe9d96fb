"""Slides that live in memory, for tests of everything that takes a slide."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.errors import SlideError
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.slides.slide import WHITE, Level, SlideInfo


class ArraySlide:
    """A NumPy array as a slide. It satisfies the `Slide` protocol and pickles."""

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        mpp: float | Scale | None = 0.5,
        *,
        bounds: Box | None = None,
        downsamples: Sequence[int] = (1,),
        name: str = "array",
    ) -> None:
        """Make a slide.

        Args:
            pixels: level 0, uint8 RGB (h, w, 3).
            mpp: microns per l0 pixel.
            bounds: l0 box given as `openslide.bounds-*`.
            downsamples: whole factors of the levels, 1 first; coarser levels are area means.
            name: of the slide.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"pixels must be uint8 (h, w, 3), not {pixels.dtype} {pixels.shape}")
        self.levels = [area_mean(pixels, downsample) for downsample in downsamples]
        scale = Scale(mpp, mpp) if isinstance(mpp, int | float) else mpp
        self._info = SlideInfo(
            path=f"{name}.array",
            name=name,
            reader="array",
            vendor="array",
            size=Size(pixels.shape[1], pixels.shape[0]),
            levels=tuple(
                Level(Size(level.shape[1], level.shape[0]), Scale(float(d), float(d)))
                for level, d in zip(self.levels, downsamples, strict=True)
            ),
            mpp=scale,
            mpp_source="missing" if scale is None else "user",
            bounds=bounds,
            fingerprint=hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest(),
        )

    @property
    def info(self) -> SlideInfo:
        return self._info

    def read_level(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Read whole pixels of one level; white outside."""
        if not 0 <= level < len(self.levels):
            raise SlideError(f"{self._info.path}: no level {level}")
        pixels = self.levels[level]
        out = np.full((box.height, box.width, 3), WHITE, np.uint8)
        inside = Box(0, 0, pixels.shape[1], pixels.shape[0]).intersect(box)
        if not inside.empty:
            out[inside.within(box)] = pixels[inside.y0 : inside.y1, inside.x0 : inside.x1]
        return out

    def close(self) -> None:
        """Do nothing: there is no file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def area_mean(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Return the mean of each factor × factor pixels, rounded half up; at an edge, of those that exist.

    Args:
        pixels: uint8 (h, w, c).
        factor: whole number ≥ 1.

    Returns:
        uint8 (ceil(h / factor), ceil(w / factor), c).
    """
    if factor == 1:
        return pixels
    height, width = pixels.shape[:2]
    rows, columns = np.arange(0, height, factor), np.arange(0, width, factor)
    total = np.add.reduceat(np.add.reduceat(pixels.astype(np.uint32), rows, axis=0), columns, axis=1)
    counts = np.outer(np.minimum(factor, height - rows), np.minimum(factor, width - columns))[..., None]
    mean: NDArray[np.uint8] = ((total + counts // 2) // counts).astype(np.uint8)
    return mean
