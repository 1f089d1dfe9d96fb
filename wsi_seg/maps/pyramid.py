"""Halving of label maps and probabilities, in exact arithmetic. The last two axes of arrays are (y, x)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.maps.shards import planes_in_use
from wsi_seg.planning.map_layout import Kind


def halve(kind: Kind, values: NDArray[Any]) -> NDArray[Any]:
    """Return values of a map at half the resolution, see `halve_probabilities` and `halve_labels`."""
    return halve_probabilities(values) if kind == "probabilities" else halve_labels(values)


def halve_probabilities(values: NDArray[Any]) -> NDArray[Any]:
    """Return the area mean of each 2 × 2 pixels; at an odd edge, of the pixels that exist.

    Args:
        values: uint8 or float32, (…, h, w).

    Returns:
        (…, ceil(h / 2), ceil(w / 2)) of the same type; uint8 is rounded, one half up.
    """
    if values.ndim == 3:
        used = planes_in_use(values)
        if len(used) < len(values):  # the mean of nothing but 0 is 0
            height, width = values.shape[1:]
            result = np.zeros((len(values), -(-height // 2), -(-width // 2)), values.dtype)
            if len(used):
                result[used] = halve_probabilities(values[used])
            return result
    values = _of_even_sides(values)
    if values.dtype == np.uint8:
        pairs = values[..., ::2, :].astype(np.uint16)  # rows first, as they lie in memory
        pairs += values[..., 1::2, :]
        total = pairs[..., ::2] + pairs[..., 1::2]
        total += 2
        total >>= 2
        return total.astype(np.uint8)
    # Pairs in a fixed order, so that the result does not depend on the machine.
    a, b, c, d = _quarters(values)
    mean: NDArray[Any] = ((a + b) + (c + d)) * np.float32(0.25)
    return mean


def halve_labels(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return for each 2 × 2 pixels the label that stands for them.

    0 (not analyzed, background) stands for four pixels of which two or more are 0, so the covered area does
    not grow from level to level, and class labels and tissue keep covering the same pixels. Otherwise it is
    the most frequent label that is not 0; of equally frequent ones, the first in reading order.

    Args:
        values: uint8, (h, w).

    Returns:
        uint8, (ceil(h / 2), ceil(w / 2)).
    """
    values = np.ascontiguousarray(_of_even_sides(values))
    # Two labels of a row at a time, as one number.
    pairs, others = values[::2].view(np.uint16), values[1::2].view(np.uint16)
    result = pairs.astype(np.uint8)
    # Four labels that are the same, as nearly everywhere, need no vote.
    mixed = np.flatnonzero((pairs != others) | (pairs >> 8 != result))
    place = np.divmod(mixed, result.shape[1])
    result[place] = _most_frequent(tuple(quarter[place] for quarter in _quarters(values)))
    return result


def _most_frequent(quarters: tuple[NDArray[np.uint8], ...]) -> NDArray[np.uint8]:
    """Return what stands for four labels each, see `halve_labels`."""
    best = quarters[0].copy()
    best_votes = _votes(best, quarters)
    for candidate in quarters[1:]:
        votes = _votes(candidate, quarters)
        better = votes > best_votes
        best[better] = candidate[better]
        best_votes[better] = votes[better]
    covered = sum((q != 0).astype(np.uint8) for q in quarters)
    best[covered <= 2] = 0
    return best


def _votes(candidate: NDArray[np.uint8], quarters: tuple[NDArray[np.uint8], ...]) -> NDArray[np.uint8]:
    votes = np.zeros(candidate.shape, np.uint8)
    for quarter in quarters:
        votes += candidate == quarter
    votes[candidate == 0] = 0
    return votes


def _of_even_sides(values: NDArray[Any]) -> NDArray[Any]:
    """Repeat the last row or column of an odd side.

    This weighs the pixels that exist just as leaving the missing ones out would.
    """
    height, width = values.shape[-2:]
    if height % 2 or width % 2:
        leading = [(0, 0)] * (values.ndim - 2)
        values = np.pad(values, (*leading, (0, height % 2), (0, width % 2)), mode="edge")
    return values


def _quarters(values: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Return the four pixels of each 2 × 2 of even sides, in reading order."""
    rows, others = values[..., ::2, :], values[..., 1::2, :]
    return rows[..., ::2], rows[..., 1::2], others[..., ::2], others[..., 1::2]
