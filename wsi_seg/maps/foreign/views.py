"""Others' maps as `regions` traces them: class codes, and the probability of each class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.classes import NOT_ANALYZED, ClassGroup, TissueClass
from wsi_seg.core.errors import MapError
from wsi_seg.core.geometry import Scale, Size
from wsi_seg.maps.fields import FULL, ChannelSum, Unknown
from wsi_seg.maps.foreign.pixels import Pixels
from wsi_seg.maps.foreign.stored import StoredMap

# Label pixels that are of none of the classes.
OTHER = 255

# Floats may be above 1 by rounding.
SLACK = 1e-3

# Label pixels a side of one unknown probability: nothing is read of them.
UNKNOWN_DOWNSAMPLE = 64

Box = tuple[slice, slice]


class LabelCodes:
    """uint8 (y, x) class codes; 0 = not analyzed, `OTHER` = none of the classes."""

    dtype = np.dtype(np.uint8)

    def __init__(self, stored: StoredMap, axes: str, codes: Mapping[int, int]) -> None:
        """Make a view; nothing is read.

        Args:
            stored: an array of integers.
            axes: as of `Pixels`.
            codes: from label values ≥ 0 to codes. Other values become `OTHER`, 0 and what is below it 0.
        """
        top = max(codes, default=0)
        table = np.full(top + 3, OTHER, np.uint8)  # values -1, 0, …, top, top + 1
        table[:2] = NOT_ANALYZED
        for value, code in codes.items():
            table[value + 1] = code

        def convert(values: NDArray[Any]) -> NDArray[np.uint8]:
            if values.dtype == bool:
                values = values.view(np.uint8)
            values = np.minimum(values, min(top + 1, int(np.iinfo(values.dtype).max)))
            if values.dtype.kind == "i":
                values = np.maximum(values, -1)
            found: NDArray[np.uint8] = table[values.astype(np.intp) + 1]
            return found

        self._pixels = Pixels(stored, axes, np.uint8, convert)
        self.shape = self._pixels.shape[1:]

    def __getitem__(self, key: Box, /) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = self._pixels[(slice(0, 1), *key)][0]
        return found


class Probabilities:
    """Probabilities (c, y, x): uint8 (value / 255), or float32 with 0 in place of NaN."""

    def __init__(self, stored: StoredMap, axes: str) -> None:
        """Make a view of uint8 or floats; nothing is read."""
        dtype = np.uint8 if stored.array.dtype == np.uint8 else np.float32

        def convert(values: NDArray[Any]) -> NDArray[Any]:
            if values.dtype == np.uint8:
                return values
            found = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=np.inf, neginf=-np.inf)
            low, high = float(found.min()), float(found.max())
            if low < -SLACK or high > 1 + SLACK:
                raise MapError(
                    f"{stored.path}: holds {low if low < -SLACK else high:g}; probabilities are uint8 "
                    "(value / 255) or floats, 0 to 1"
                )
            return np.asarray(np.clip(found, 0, 1), np.float32)

        self._pixels = Pixels(stored, axes, dtype, convert)
        self.shape, self.dtype = self._pixels.shape, self._pixels.dtype

    def __getitem__(self, key: tuple[int, slice, slice], /) -> NDArray[Any]:
        """Return a box of one channel."""
        channel, *box = key
        found: NDArray[Any] = self._pixels[slice(channel, channel + 1), box[0], box[1]][0]
        return found


@dataclass(frozen=True, slots=True)
class MostProbable:
    """uint8 (y, x) code of the most probable class; 0 where all channels are 0.

    `OTHER` where it is likelier that it is none of them, as at 0.4 of a single class.
    """

    probabilities: Probabilities
    channels: tuple[int, ...]
    codes: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int]:
        return self.probabilities.shape[1:]

    def __getitem__(self, key: Box, /) -> NDArray[np.uint8]:
        full = FULL if self.probabilities.dtype == np.uint8 else 1
        first, *others = zip(self.channels, self.codes, strict=True)
        best = self._read(first[0], key)
        total, found = best.copy(), np.full(best.shape, first[1], np.uint8)
        for channel, code in others:
            values = self._read(channel, key)
            found[values > best] = code
            np.maximum(best, values, out=best)
            total += values
        found[full - total > best] = OTHER
        found[best == 0] = NOT_ANALYZED
        return found

    def _read(self, channel: int, key: Box) -> NDArray[np.float32]:
        return self.probabilities[channel, key[0], key[1]].astype(np.float32)


@dataclass(frozen=True, slots=True)
class ForeignMaps:
    """A map as `regions.group_fields.MapArrays` has it."""

    mpp: float
    classes: tuple[TissueClass, ...]
    labels: Any
    probabilities: Any
    probability_downsample: int
    uncertainty: ChannelSum | None

    @property
    def channels(self) -> tuple[ClassGroup, ...]:
        """One for each class."""
        return tuple(c.alone for c in self.classes)

    @property
    def size(self) -> Size:
        """Size in map pixels."""
        height, width = self.labels.shape
        return Size(width, height)


def label_maps(
    stored: StoredMap, axes: str, mpp: Scale, classes: tuple[TissueClass, ...], codes: Mapping[int, int]
) -> ForeignMaps:
    """Return a label map whose values `codes` maps to codes of `classes`; probabilities are unknown."""
    labels = LabelCodes(stored, axes, codes)
    coarse = [-(-length // UNKNOWN_DOWNSAMPLE) for length in labels.shape]
    unknown = Unknown((len(classes), coarse[0], coarse[1]))
    return ForeignMaps(mean_mpp(mpp), classes, labels, unknown, UNKNOWN_DOWNSAMPLE, None)


def probability_maps(
    stored: StoredMap,
    axes: str,
    mpp: Scale,
    classes: tuple[TissueClass, ...],
    uncertainty: int | None = None,
) -> ForeignMaps:
    """Return a probability map; labels are the most probable class of each pixel.

    Args:
        stored: uint8 or floats.
        axes: as of `Pixels`.
        mpp: microns per pixel.
        classes: of the first channels, in their order.
        uncertainty: number of the channel behind them that holds the uncertainty.
    """
    found = Probabilities(stored, axes)
    labels = MostProbable(found, tuple(range(len(classes))), tuple(c.code for c in classes))
    extra = None if uncertainty is None else ChannelSum(found, (uncertainty,), 1)
    return ForeignMaps(mean_mpp(mpp), classes, labels, found, 1, extra)


def mean_mpp(mpp: Scale) -> float:
    """Return the microns per pixel that give the right area where those of x and y differ."""
    return math.sqrt(mpp.x * mpp.y) if mpp.x != mpp.y else mpp.x
