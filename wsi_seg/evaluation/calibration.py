"""Calibration: how far the probability of the predicted class is from how often it is right.

A network that was fitted to few patients is too sure on others. Dividing its logits by one number, the
temperature (Guo et al. 2017, arXiv:1706.04599), corrects that without changing a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.evaluation.metrics import NO_ROW, rounded
from wsi_seg.evaluation.rows import Rows
from wsi_seg.evaluation.tally import PredictedBlock

# Bins of equal width over the probability of the predicted class.
BINS = 15
# Of the pixels, every so many rows and columns are counted: neighbors say the same.
STEP = 4
# Temperatures among which the best is searched.
TEMPERATURES = tuple(np.geomspace(0.5, 8.0, 33).round(4).tolist())
# Floor of the true class's probability in the loss, which one sure mistake would make infinite otherwise.
LEAST = 1e-6

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Sums over pixels for each of some temperatures; sums of regions add up."""

    temperatures: tuple[float, ...]
    """(T,)"""
    bins: Floats
    """(T, BINS, 3): pixels, sum of the probability of the predicted class, pixels that it is right for."""
    loss: Floats
    """(T,): sum of -log p(true class)."""
    painted: NDArray[np.int64]
    """(C,): pixels by predicted channel."""

    def __add__(self, other: Reliability) -> Reliability:
        if self.temperatures != other.temperatures:
            raise ValueError(f"sums at {self.temperatures} and {other.temperatures} do not add up")
        return Reliability(
            self.temperatures,
            self.bins + other.bins,
            self.loss + other.loss,
            self.painted + other.painted,
        )

    @property
    def pixels(self) -> int:
        return int(self.bins[0, :, 0].sum())

    @property
    def expected_calibration_error(self) -> Floats:
        """(T,): mean over pixels of |accuracy - mean probability| of their bin; nan without a pixel."""
        if not self.pixels:
            return np.full(len(self.temperatures), np.nan)
        error: Floats = np.abs(self.bins[..., 2] - self.bins[..., 1]).sum(axis=1) / self.pixels
        return error

    @property
    def mean_loss(self) -> Floats:
        """(T,): nan without a pixel."""
        return self.loss / self.pixels if self.pixels else np.full(len(self.temperatures), np.nan)


class ReliabilityCounter:
    """Passes blocks on, and sums."""

    def __init__(self, rows: Rows, temperatures: Sequence[float]) -> None:
        """`temperatures` are relative to the one that the probabilities were made with."""
        self._rows = rows
        channels = 1 + max(channel for members in rows.channels for channel in members)
        shape = (len(temperatures), BINS, 3)
        self.total = Reliability(
            tuple(temperatures), np.zeros(shape), np.zeros(shape[0]), np.zeros(channels, np.int64)
        )

    def __call__(self, blocks: Iterable[PredictedBlock]) -> Iterator[PredictedBlock]:
        """Yield the blocks as they are."""
        for block in blocks:
            self.total += self._sums(block)
            yield block

    def _sums(self, block: PredictedBlock) -> Reliability:
        every = (slice(STEP // 2, None, STEP), slice(STEP // 2, None, STEP))
        truth = self._rows.of_targets(block.target[every])
        channels = block.channels[every]
        known = (truth != NO_ROW) & (channels != NO_ROW)
        truth, channels = truth[known].astype(np.intp), channels[known]
        with np.errstate(divide="ignore"):  # classes that are not assessed have probability 0 at any
            log_p = np.log(block.probabilities[(slice(None), *every)][:, known])
        sums = [self._at(log_p, truth, t) for t in self.total.temperatures]
        painted = np.bincount(channels, minlength=len(self.total.painted))
        return Reliability(
            self.total.temperatures, np.stack([s[0] for s in sums]), np.array([s[1] for s in sums]), painted
        )

    def _at(
        self, log_p: NDArray[np.float32], truth: NDArray[np.intp], temperature: float
    ) -> tuple[Floats, float]:
        """Return the bins (BINS, 3) and the loss of pixels (C, n) at one temperature."""
        scaled = np.exp((log_p - log_p.max(axis=0, initial=-np.inf)) / temperature)
        rows = self._rows.of_probabilities(scaled / scaled.sum(axis=0))
        best = rows.argmax(axis=0)
        confidence = rows.max(axis=0, initial=0.0).astype(np.float64)
        index = np.minimum((confidence * BINS).astype(np.intp), BINS - 1)
        sums = [np.bincount(index, weights, minlength=BINS) for weights in (None, confidence, best == truth)]
        of_truth = np.take_along_axis(rows, truth[None], axis=0)[0]
        return np.stack(sums, axis=1), float(-np.log(np.maximum(of_truth, LEAST)).sum())


def best_temperature(parts: Sequence[Reliability]) -> float:
    """Return the temperature of the least mean loss; each part, such as a patient, weighs the same.

    Raises:
        ValueError: no part holds a pixel.
    """
    losses = [part.mean_loss for part in parts if part.pixels]
    if not losses:
        raise ValueError("no pixel to fit a temperature to")
    return parts[0].temperatures[int(np.mean(losses, axis=0).argmin())]


def calibration_table(reliability: Reliability) -> dict[str, Any]:
    """Return the calibration of a data set as JSON values.

    Args:
        reliability: its first temperatures are 1 and the reciprocal of the model's: with the model's, and
            without.
    """
    after, before, *_ = reliability.expected_calibration_error.tolist()
    pixels, probability, right = reliability.bins[0].T
    return {
        "temperature": round(1 / reliability.temperatures[1], 6),
        "pixels": reliability.pixels,
        "step": STEP,
        "expected_calibration_error": rounded(after),
        "without_temperature": rounded(before),
        "bins": [
            {
                "pixels": int(pixels[i]),
                "probability": rounded(probability[i] / pixels[i]),
                "right": rounded(right[i] / pixels[i]),
            }
            for i in np.flatnonzero(pixels)
        ],
    }
