"""Pixels in memory as a slide of one level: what is cut from a data set is predicted like any slide."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.geometry import Box, Scale
from wsi_seg.slides.readers.base import LevelReader, make_levels
from wsi_seg.slides.slide import SlideInfo


class ArraySlide(LevelReader):
    """A slide over uint8 RGB pixels (H, W, 3) at `mpp` microns per pixel; its name opens nothing."""

    def __init__(self, pixels: NDArray[np.uint8], mpp: float, name: str) -> None:
        self._pixels = pixels
        levels = make_levels([(pixels.shape[1], pixels.shape[0])]).levels
        super().__init__(
            SlideInfo(
                path=name,
                name=name,
                reader="array",
                vendor="array",
                size=levels[0].size,
                levels=levels,
                mpp=Scale(mpp, mpp),
                mpp_source="user",
                bounds=None,
                fingerprint=hashlib.sha256(pixels.tobytes()).hexdigest(),
            )
        )

    def _read_inside(self, level: int, box: Box) -> NDArray[np.uint8]:
        return self._pixels[box.y0 : box.y1, box.x0 : box.x1].copy()

    def _release(self) -> None:
        return None
