"""Fields (y, x) of the maps, read on demand: sums of channels, and class codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.classes import NOT_ANALYZED, TissueClass

FULL = 255


@dataclass(frozen=True, slots=True)
class ChannelSum:
    """Sum (y, x) of some channels of a map, read on demand: the probability of a group, or the uncertainty.

    uint8 (value / 255) from uint8 channels, else float; never above full scale, though sums of rounded
    channels can be.
    """

    probabilities: Any
    """(c, y, x) array, NumPy or Zarr."""
    channels: tuple[int, ...]
    downsample: int
    """Map pixels per pixel."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.probabilities.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self.probabilities.dtype)
        return dtype

    @property
    def full(self) -> int:
        """Value that stands for probability one."""
        return FULL if self.dtype == np.uint8 else 1

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        key = key if isinstance(key, tuple) else (key,)
        wide = np.dtype(np.uint16) if self.dtype == np.uint8 else self.dtype
        parts = [np.asarray(self.probabilities[(channel, *key)]) for channel in self.channels]
        total = np.add.reduce(parts, axis=0, dtype=wide)
        return np.asarray(np.minimum(total, self.full), self.dtype)


@dataclass(frozen=True, slots=True)
class Unknown:
    """Probabilities (c, y, x) that nobody knows: NaN everywhere, so that no mean of them is written."""

    shape: tuple[int, int, int]

    @property
    def dtype(self) -> np.dtype[np.float32]:
        return np.dtype(np.float32)

    def __getitem__(self, key: tuple[int, slice, slice], /) -> NDArray[np.float32]:
        sides = [len(range(length)[part]) for part, length in zip(key[1:], self.shape[1:], strict=True)]
        return np.full(sides, np.nan, np.float32)


@dataclass(frozen=True, slots=True)
class LabelField:
    """Class codes of a map, read on demand, and their positions in `classes`."""

    labels: Any
    """uint8 (y, x) array, NumPy or Zarr; 0 = not analyzed."""
    classes: tuple[TissueClass, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.labels.shape)

    @property
    def columns(self) -> int:
        """Positions: one for each class, one for other codes, one for pixels that were not analyzed."""
        return len(self.classes) + 2

    def column(self, codes: NDArray[np.uint8]) -> NDArray[np.intp]:
        """Return the position of each code."""
        position = np.full(256, len(self.classes), np.intp)
        position[[c.code for c in self.classes]] = np.arange(len(self.classes))
        position[NOT_ANALYZED] = len(self.classes) + 1
        return position[codes]

    def __getitem__(self, key: tuple[slice, slice], /) -> NDArray[np.uint8]:
        return np.asarray(self.labels[key])

    def shares(self, counts: NDArray[np.int64]) -> dict[str, float]:
        """Return the share of each class among analyzed pixels; classes without pixels are left out."""
        analyzed = int(counts[:-1].sum())
        pairs = zip(self.classes, counts.tolist(), strict=False)
        return {c.name: count / analyzed for c, count in pairs if count}
