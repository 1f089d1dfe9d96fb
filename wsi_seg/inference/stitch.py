"""Put tile predictions together into one block of labels and probabilities.

The code is written against the array API, so it runs where the prediction is: NumPy arrays, or torch
tensors on any device. Only what is stored (uint8 labels, quantized probabilities) leaves the device.
Every step works pixel by pixel in a fixed order, so the bytes of a map pixel do not depend on the block
that it was computed in.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from wsi_seg.core.errors import ModelError
from wsi_seg.core.geometry import Box
from wsi_seg.planning.grid import Tile
from wsi_seg.planning.stitch_settings import StitchSettings

# Standard deviation of the Gaussian window as a share of the tile side (Isensee et al. 2021, nnU-Net,
# doi:10.1038/s41592-020-01008-z), and the least weight, so that no sum of weights is 0.
GAUSSIAN_SHARE = 1 / 8
LEAST_WEIGHT = 1e-3

# Rows that are put together at a time on the host, so that what is made of them stays in the core's cache.
STRIP_ROWS = 16

# A stored value that stands for 1, of whole numbers.
FULL = 255

# Smaller probabilities count as this much, so that 0 log 0 is 0; far below what changes an entropy.
LEAST_PROBABILITY = 1e-30


class Transfer:
    """Copies of arrays to where the prediction is, and back; made at once, by the arrays' own library."""

    def to_device(self, array: NDArray[Any], like: Any, /) -> Any:
        """Return an array where the array `like` is, and of its library."""
        return array_namespace(like).asarray(array, device=device(like))

    def to_host(self, arrays: Sequence[Any], /) -> list[NDArray[Any]]:
        """Return arrays of one device as NumPy arrays, all at a time, once what makes them is done."""
        return [to_numpy(array) for array in arrays]


PLAIN_TRANSFER = Transfer()


class Stitcher(ABC):
    """Collects the predicted tiles of one block."""

    def __init__(self, out: _Output) -> None:
        self._out = out

    @abstractmethod
    def add(self, tile: Tile, probabilities: Any) -> None:
        """Add one tile without `StitchSettings.margin`: float32 (C, height, width) in any array library."""

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """Return channel indices + 1 (0: not analyzed) and probabilities of the whole block.

        Raises:
            ModelError: a probability is not a number; `add` may say so before.
        """
        return self._out.cut()


def new_stitcher(
    settings: StitchSettings,
    box_map: Box,
    analyzed: NDArray[np.bool_],
    channels: int,
    transfer: Transfer = PLAIN_TRANSFER,
) -> Stitcher:
    """Return the stitcher for one block.

    Args:
        settings: grid and blending.
        box_map: the block's pixels; its top left is a multiple of `probability_downsample`.
        analyzed: bool (box.height, box.width), True where there is tissue.
        channels: number of network outputs C.
        transfer: moves arrays between the host and where the prediction is.

    `finish` returns uint8 (h, w), the most probable channel + 1 or 0 where not analyzed, and (C, ⌈h/d⌉,
    ⌈w/d⌉), with uncertainty (C + 1, …): the mean over the analyzed pixels of each d × d cell, 0 where there
    are none; uint8 is ⌊255 p + ½⌋.
    """
    maker = _CropStitcher if settings.blend == "crop" else _BlendStitcher
    return maker(_Output(settings, box_map, analyzed, channels, transfer))


def blend_window(settings: StitchSettings) -> NDArray[np.float32]:
    """Return the float32 (height, width) weights of `gaussian` and `mean` blending, all positive."""
    size, margin = settings.grid.input_size, settings.margin
    height, width = size.height - 2 * margin, size.width - 2 * margin
    if settings.blend != "gaussian":
        return np.ones((height, width), np.float32)
    rows, columns = _gaussian(height), _gaussian(width)
    return np.maximum(np.outer(rows, columns), LEAST_WEIGHT).astype(np.float32)


def _gaussian(side: int) -> NDArray[np.float64]:
    offset = np.arange(side) + 0.5 - side / 2
    line: NDArray[np.float64] = np.exp(-0.5 * (offset / (side * GAUSSIAN_SHARE)) ** 2)
    return line


def normalized_entropy(probabilities: Any, assessed: int | None = None) -> Any:
    """Return the uncertainty of each pixel: Shannon entropy of its class probabilities over its maximum.

    0 where one class has probability 1, 1 where all are equally probable, 0 for a single class. Shannon
    1948, doi:10.1002/j.1538-7305.1948.tb01338.x.

    Args:
        probabilities: float32 (C, h, w) of any array library; the C of a pixel add up to 1.
        assessed: number of classes that can have a probability, so that log of it is the maximum; None: C.

    Returns:
        float32 (h, w), 0 … 1, of the same library.
    """
    xp = array_namespace(probabilities)
    channels = probabilities.shape[0]
    entropy = xp.zeros_like(probabilities[0])
    for channel in range(channels):  # one by one: little memory, and always the same order
        p = probabilities[channel]
        entropy = entropy - p * xp.log(xp.clip(p, min=LEAST_PROBABILITY))
    # Rounding, or what does not quite add up to 1, may lead a little beyond both ends.
    return xp.clip(entropy / math.log(max(assessed or channels, 2)), min=0.0, max=1.0)


def most_probable(probabilities: Any) -> Any:
    """Return which channel is the largest at each pixel, the first of equal ones.

    Args:
        probabilities: (C, h, w) of any array library; C at most 255.

    Returns:
        uint8 (h, w), of the same library.
    """
    if not isinstance(probabilities, np.ndarray):
        xp = array_namespace(probabilities)
        return xp.astype(xp.argmax(probabilities, axis=0), xp.uint8)
    # Whole planes at a time, which takes an eighth of what `argmax` takes to go from plane to plane. The
    # index of a channel with the largest value is kept, any other becomes 255.
    other = (probabilities != probabilities.max(axis=0)).view(np.uint8)
    index = np.arange(len(probabilities), dtype=np.uint8)[:, None, None]
    return (np.negative(other, out=other) | index).min(axis=0)


class _Output:
    """The block's arrays, padded so that both sides are multiples of the downsampling.

    What a device computes is fetched in the end, all at once: to wait for it part by part would keep both
    sides waiting for each other.
    """

    def __init__(
        self,
        settings: StitchSettings,
        box_map: Box,
        analyzed: NDArray[np.bool_],
        channels: int,
        transfer: Transfer,
    ) -> None:
        d = settings.probability_downsample
        self.settings = settings
        # Outputs of which means are needed, and where those of each stored probability are among them.
        self._sums = settings.stored
        self._needed = list(range(channels))
        if self._sums is not None:
            self._needed = sorted({i for members in self._sums for i in members})
            self._sums = tuple(tuple(map(self._needed.index, members)) for members in self._sums)
        self.shape = (box_map.height, box_map.width)
        rows, columns = -(-box_map.height // d), -(-box_map.width // d)
        self.box = Box.at(box_map.x0, box_map.y0, columns * d, rows * d)
        self.analyzed = np.zeros((rows * d, columns * d), bool)
        self.analyzed[: box_map.height, : box_map.width] = analyzed
        self.labels = np.zeros((rows * d, columns * d), np.uint8)
        stored = (channels if settings.stored is None else len(settings.stored)) + settings.uncertainty
        self.probabilities = np.zeros((stored, rows, columns), settings.probability_dtype)
        self._transfer = transfer
        self._elsewhere: list[tuple[Box, Any, Any, Any]] = []

    def put(self, part_map: Box, probabilities: Any) -> None:
        """Store float32 (C, h, w) probabilities of a part whose sides are multiples of d."""
        if str(device(probabilities)) != "cpu":
            self._put(part_map, probabilities)
            return
        # NumPy keeps to this thread, while other cores predict.
        probabilities = np.asarray(probabilities)
        d = self.settings.probability_downsample
        step = -(-STRIP_ROWS // d) * d
        for y in range(0, part_map.height, step):
            rows = min(step, part_map.height - y)
            strip = Box.at(part_map.x0, part_map.y0 + y, part_map.width, rows)
            self._put(strip, probabilities[:, y : y + rows])

    def _put(self, part_map: Box, probabilities: Any) -> None:
        rows, columns = part_map.within(self.box)
        mask = self.analyzed[rows, columns]
        if not mask.any():
            return
        best = most_probable(probabilities)
        weight = None if mask.all() else self._transfer.to_device(mask.astype(np.float32), probabilities)
        xp = array_namespace(probabilities)
        # Not a number where any of its values is not; all classes of a pixel are numbers, or none is.
        total = xp.reshape(xp.sum(probabilities[0]), (1,))
        if isinstance(total, np.ndarray):
            _check_number(part_map, total)
        small = self._small(probabilities, weight)
        if isinstance(best, np.ndarray):
            self._store(part_map, best, small)
        else:
            self._elsewhere.append((part_map, best, small, total))

    def _small(self, probabilities: Any, weight: Any) -> Any:
        """Return what is stored of (C, h, w): means over cells and their sums, as the stored type."""
        settings, xp = self.settings, array_namespace(probabilities)
        parts = []
        if self._needed:
            every = len(self._needed) == len(probabilities)
            chosen = probabilities if every else xp.stack([probabilities[i] for i in self._needed])
            means = self._quantized(_area_mean(chosen, weight, settings.probability_downsample))
            parts.append(means if self._sums is None else _clipped_sums(means, self._sums))
        if settings.uncertainty:
            unsure = normalized_entropy(probabilities, settings.assessed)
            parts.append(self._quantized(_area_mean(unsure[None], weight, settings.probability_downsample)))
        if not parts:
            d = settings.probability_downsample
            return xp.astype(probabilities[:0, ::d, ::d], xp.uint8)  # no view, which would keep them all
        return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)

    def _quantized(self, small: Any) -> Any:
        if self.settings.probability_dtype == "float32":
            return small
        xp = array_namespace(small)
        return xp.astype(xp.floor(small * FULL + 0.5), xp.uint8)

    def _store(self, part_map: Box, best: NDArray[np.uint8], small: NDArray[Any]) -> None:
        d = self.settings.probability_downsample
        rows, columns = part_map.within(self.box)
        np.multiply(best + np.uint8(1), self.analyzed[rows, columns], out=self.labels[rows, columns])
        self.probabilities[:, rows.start // d : rows.stop // d, columns.start // d : columns.stop // d] = (
            small
        )

    def cut(self) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        here = self._transfer.to_host([array for _, *arrays in self._elsewhere for array in arrays])
        for (part_map, *_), best, small, total in zip(
            self._elsewhere, here[::3], here[1::3], here[2::3], strict=True
        ):
            _check_number(part_map, total)
            self._store(part_map, best, small)
        self._elsewhere.clear()
        return self.labels[: self.shape[0], : self.shape[1]], self.probabilities


class _CropStitcher(Stitcher):
    """Each pixel comes from the one tile whose core holds it; nothing is accumulated."""

    def add(self, tile: Tile, probabilities: Any) -> None:
        part = tile.core.intersect(self._out.box)
        if not part.empty:
            rows, columns = part.within(tile.input.grown(-self._out.settings.margin))
            self._out.put(part, probabilities[:, rows, columns])


class _BlendStitcher(Stitcher):
    """Weighted mean of all tiles over a pixel, added up tile by tile in the order of the grid."""

    def __init__(self, out: _Output) -> None:
        super().__init__(out)
        self._sum: Any = None
        self._weight: Any = None
        self._window: Any = None

    def add(self, tile: Tile, probabilities: Any) -> None:
        xp = array_namespace(probabilities)
        if self._sum is None:
            where = device(probabilities)
            shape = self._out.labels.shape
            self._sum = xp.zeros((probabilities.shape[0], *shape), dtype=xp.float32, device=where)
            self._weight = xp.zeros(shape, dtype=xp.float32, device=where)
            self._window = xp.asarray(blend_window(self._out.settings), device=where)
        part = tile.predicted.intersect(self._out.box)
        rows, columns = part.within(tile.predicted)
        to_rows, to_columns = part.within(self._out.box)
        window = self._window[rows, columns]
        self._sum[:, to_rows, to_columns] += probabilities[:, rows, columns] * window
        self._weight[to_rows, to_columns] += window

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        if self._sum is not None:
            xp = array_namespace(self._sum)
            # Where no tile was predicted there is no tissue, and `put` masks it.
            weight = xp.where(self._weight > 0, self._weight, xp.ones_like(self._weight))
            self._out.put(self._out.box, self._sum / weight)
        return super().finish()


def _clipped_sums(means: Any, sums: tuple[tuple[int, ...], ...]) -> Any:
    """Return sums of some of (C, h, w) each, of their type, at most full scale, as `ChannelSum` has them."""
    xp = array_namespace(means)
    whole = means.dtype == xp.uint8
    wide = xp.astype(means, xp.int16) if whole else means
    totals = []
    for members in sums:
        total = wide[members[0]]
        for member in members[1:]:
            total = total + wide[member]
        totals.append(total)
    return xp.astype(xp.clip(xp.stack(totals), max=FULL if whole else 1.0), means.dtype)


def _check_number(part_map: Box, total: NDArray[Any]) -> None:
    if np.isnan(total[0]):
        raise ModelError(
            f"the model's probabilities are not numbers near map pixel ({part_map.x0}, {part_map.y0}): its "
            "weights are damaged or diverged, or too large for few digits, where --precision float32 helps"
        )


def _area_mean(probabilities: Any, weight: Any, d: int) -> Any:
    """Return the mean of (C, h, w) over each d × d cell: (C, h/d, w/d).

    `weight` is float32 (h, w), 1 for pixels that count, 0 for others; None where all do.
    """
    if weight is None:
        return probabilities if d == 1 else _cell_sum(probabilities, d) / (d * d)
    xp = array_namespace(probabilities)
    weight = weight[None]
    count = _cell_sum(weight, d)
    return _cell_sum(probabilities * weight, d) / xp.where(count > 0, count, xp.ones_like(count))


def _cell_sum(values: Any, d: int) -> Any:
    """Sum each d × d cell by additions in a fixed order (a library's own reduction may vary with shape)."""
    rows = values[:, 0::d, :]
    for offset in range(1, d):
        rows = rows + values[:, offset::d, :]
    cells = rows[:, :, 0::d]
    for offset in range(1, d):
        cells = cells + rows[:, :, offset::d]
    return cells


def to_numpy(array: Any) -> NDArray[Any]:
    """Return a NumPy copy or view of an array of any library, on the host."""
    return np.asarray(array.cpu() if hasattr(array, "cpu") else array)
