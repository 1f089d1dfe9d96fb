"""Preprocessing as other libraries describe it, a chain of steps, turned into a card's normalization."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Step = tuple[Any, Any]
"""Gain and offset of x -> gain * x + offset, each a number, or one per channel."""


def normalization_of(steps: Iterable[Step | None]) -> dict[str, Any] | None:
    """Return the normalization that does what a chain of steps does to RGB of 0 … 255.

    Args:
        steps: in their order; None: a step that is not linear, or that depends on the whole image.

    Returns:
        fields of `Normalization`; None where no normalization does that.
    """
    gain: npt.NDArray[np.float64] = np.ones(3)
    offset: npt.NDArray[np.float64] = np.zeros(3)
    for step in steps:
        if step is None:
            return None
        factor, added = (np.asarray(value, np.float64) for value in step)
        if {factor.shape, added.shape} - {(), (3,), (1,)}:
            return None
        gain, offset = gain * factor, offset * factor + added
    if not (np.isfinite(gain).all() and np.isfinite(offset).all() and (gain > 0).all()):
        return None
    std = 1 / (255 * gain)
    return {"scale": 255, "mean": (-offset * std).tolist(), "std": std.tolist()}


def rescaling(low: Any, high: Any, to_low: Any, to_high: Any) -> Step:
    """Return the step that maps an interval onto another.

    Raises:
        ArithmeticError, TypeError, ValueError: a bound is no number, or the interval is empty.
    """
    gain = (float(to_high) - float(to_low)) / (float(high) - float(low))
    return gain, float(to_low) - float(low) * gain
