"""Counts of a region; tallies of regions add up to those of patients, slides and data sets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.errors import ModelError
from wsi_seg.core.geometry import Box
from wsi_seg.datasets.region import Targets
from wsi_seg.evaluation.metrics import NO_ROW, Counts, ScoreCounts, count_classes, count_scores
from wsi_seg.evaluation.rows import Rows


@dataclass(frozen=True, eq=False)
class PredictedBlock:
    """Part of a region with its truth and prediction; all arrays cover `box`."""

    box: Box
    """Pixels of the region."""
    target: Targets
    """int16 (h, w), see `datasets.region`."""
    channels: NDArray[np.uint8]
    """(h, w): the most probable channel; NO_ROW where nothing was predicted."""
    probabilities: NDArray[np.float32]
    """(C, h, w)"""


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of labels and of probabilities for one choice of rows."""

    counts: Counts
    scores: ScoreCounts

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.counts + other.counts, self.scores + other.scores)


def tally_block(block: PredictedBlock, rows: Rows) -> Tally:
    """Count a block.

    A group's label is that of the most probable class, as in the maps; its probability is the sum over its
    classes. One class against everything else is called at a probability of 0.5, as its regions are traced:
    the most probable of many classes may be far less probable than all others together.

    Raises:
        ModelError: a probability is not a number.
    """
    if np.isnan(block.probabilities).any():
        raise ModelError("the model's probabilities are not numbers; its weights are damaged or diverged")
    truth = rows.of_targets(block.target)
    indices = tuple(range(len(rows.names)))
    probabilities = rows.of_probabilities(block.probabilities)
    predicted = rows.of_channels(block.channels)
    if rows.rest_of is not None:
        called = np.where(probabilities[0] >= 0.5, 0, 1).astype(np.uint8)
        predicted = np.where(predicted == NO_ROW, predicted, called)
    counts = count_classes(truth, predicted, indices, rows.names)
    return Tally(counts, count_scores(truth, probabilities, rows.names))


def empty_tally(rows: Rows) -> Tally:
    """Return the tally of nothing."""
    nothing = np.empty((0, 0), np.uint8)
    scores = np.empty((len(rows.names), 0, 0), np.float32)
    counts = count_classes(nothing, nothing, tuple(range(len(rows.names))), rows.names)
    return Tally(counts, count_scores(nothing, scores, rows.names))
