"""An array of a map file, with what the file says of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wsi_seg.core.classes import RGB
from wsi_seg.core.errors import MapError
from wsi_seg.core.geometry import Scale

# Largest map that is taken, in pixels of one channel: 185,000 a side. What claims more is damaged.
MOST_PIXELS = 2**35

# Largest piece that has to be decoded at once, in bytes; memory is bounded by a few of these.
MOST_CHUNK_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class ValueName:
    """Name and color of a label value or of a channel, as far as the file states them."""

    name: str | None = None
    color: RGB | None = None


@dataclass(frozen=True, slots=True)
class StoredMap:
    """An array of a map file; nothing of it has been read."""

    path: str
    """File and place in it, as messages name it."""
    array: Any
    """Anything with `shape`, `dtype` and boxes by a tuple of slices, one for each axis."""
    chunks: tuple[int, ...]
    """Shape of what is decoded at once."""
    axes: str | None
    """One letter for each axis: y, x, c (classes), others; None where the file does not say."""
    mpp: Scale | None = None
    """Microns per pixel, where the file says."""
    mpp_source: str = "missing"
    """As of `SlideInfo.mpp_source`, or `ome-zarr`."""
    corner_um: tuple[float, float] | None = None
    """x and y of the outer corner of the first pixel, µm from the corner of level 0; None where the file does
    not say."""
    values: dict[int, ValueName] = field(default_factory=dict)
    """Names and colors of label values, as far as they are known."""
    channels: dict[int, ValueName] = field(default_factory=dict)
    """The same of channels, counted from 0."""
    errors: tuple[type[Exception], ...] = (OSError, ValueError)
    """Raised by reading it where it is damaged."""

    def check(self) -> None:
        """Refuse what is no map or cannot be read in bounded memory, from the header alone; MapError."""
        shape = tuple(self.array.shape)
        size = " × ".join(map(str, shape))
        dtype = np.dtype(self.array.dtype)
        if dtype.kind not in "buif":
            raise MapError(f"{self.path}: holds values of type {dtype}; maps hold integers or floats")
        if len(shape) < 2 or min(shape) < 1:
            raise MapError(f"{self.path}: is an array of {size or 'no'} values; maps have rows and columns")
        pixels = 1
        for length in sorted(shape)[-2:]:
            pixels *= length
        if pixels > MOST_PIXELS:
            raise MapError(
                f"{self.path}: claims {size} pixels; maps of up to {MOST_PIXELS:,} pixels are traced"
            )
        stored = dtype.itemsize
        for length, chunk in zip(shape, self.chunks, strict=True):
            stored *= min(length, chunk)
        if stored > MOST_CHUNK_BYTES:
            raise MapError(
                f"{self.path}: its chunks of {' × '.join(map(str, self.chunks))} values are "
                f"{stored / 2**20:,.0f} MiB each; write it in chunks or tiles of at most "
                f"{MOST_CHUNK_BYTES // 2**20} MiB"
            )
