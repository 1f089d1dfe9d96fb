"""Scores of tallies, and how sure they are: bootstrap over patients, not over pixels.

Pixels of one patient are alike, so the sample is the patient (the `group` of a region): whole groups are
drawn with replacement, their counts summed and the scores taken from the sums (percentile bootstrap, Efron &
Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13; of clusters, Field & Welsh 2007,
doi:10.1111/j.1467-9868.2007.00593.x). For few groups percentiles are further apart, see `expanded_level`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from wsi_seg.evaluation.metrics import (
    COUNT_SCORES,
    RANK_SCORES,
    SCORES,
    Counts,
    ScoreCounts,
    Scores,
    mean_score,
)
from wsi_seg.evaluation.tally import Tally

# With fewer groups than this the spread between them cannot be told.
LEAST_GROUPS = 3
LEVEL = 0.95
RESAMPLES = 1000
SEED = 0


def single_row(counts: Counts) -> int | None:
    """Return the row that all known pixels are of; None where there are several rows, or no pixels."""
    present = np.flatnonzero(counts.support)
    return int(present[0]) if len(present) == 1 else None


def class_scores(tally: Tally, assessed: NDArray[np.bool_] | None = None) -> dict[str, Scores]:
    """Return (K,) values for each score of a row; nan where it is not defined or the truth has none of it.

    All are nan where the truth has a single row: a model that calls everything that would look perfect.

    Args:
        tally: what was counted.
        assessed: the rows (K,) that the model predicts; others are nan. None: it predicts all.
    """
    counts = tally.counts
    if single_row(counts) is not None:
        return dict.fromkeys(SCORES, np.full(len(counts.names), np.nan))
    scores = {
        **{name: getattr(counts, name) for name in COUNT_SCORES},
        **{name: getattr(tally.scores, name) for name in RANK_SCORES},
    }
    return scores if assessed is None else {n: np.where(assessed, v, np.nan) for n, v in scores.items()}


def overall_scores(counts: Counts, assessed: NDArray[np.bool_] | None = None) -> dict[str, float]:
    """Return the scores that stand for all rows together; macro means are over rows that have a value.

    Args:
        counts: of all rows.
        assessed: the rows (K,) that means are over, None: all. The accuracies are over all pixels.
    """
    rows = np.ones(len(counts.names), bool) if assessed is None else assessed
    micro = counts.micro_of(rows)
    return {
        "pixel_accuracy": counts.accuracy,
        "one_against_rest_accuracy": counts.one_against_rest_accuracy,
        **{f"macro_{name}": mean_score(getattr(counts, name)[rows]) for name in micro},
        **{f"micro_{name}": value for name, value in micro.items()},
    }


@dataclass(frozen=True, slots=True)
class Intervals:
    """Lower and upper limits; nan where none can be given."""

    classes: dict[str, NDArray[np.float64]]
    """(K, 2) by score."""
    overall: dict[str, NDArray[np.float64]]
    """(2,) by score."""


def bootstrap(
    groups: Sequence[Tally],
    resamples: int = RESAMPLES,
    seed: int = SEED,
    assessed: NDArray[np.bool_] | None = None,
) -> Intervals | None:
    """Return 95 % intervals of the tallies of patients; `assessed` as for `class_scores`.

    The interval of a class is as wide as for the groups that have it; in fewer than three it gets none.
    Resamples without a class are left out of its intervals.

    Returns:
        None when there are fewer than three groups: no interval can be given.
    """
    if len(groups) < LEAST_GROUPS:
        return None
    draws = draw_groups(len(groups), resamples, seed)
    stacked = StackedTallies(groups)
    drawn = [stacked.weighted(weights.astype(np.float64)) for weights in draws]
    by_class = [class_scores(tally, assessed) for tally in drawn]
    overall = [overall_scores(tally.counts, assessed) for tally in drawn]
    having = np.sum([tally.counts.support > 0 for tally in groups], axis=0)
    limits = {name: np.full((len(having), 2), np.nan) for name in by_class[0]}
    for row in np.flatnonzero(having >= LEAST_GROUPS):
        level = expanded_level(int(having[row]))
        for name, values in limits.items():
            values[row] = percentile_limits(np.array([scores[name][row] for scores in by_class]), level)
    level = expanded_level(len(groups))
    return Intervals(
        limits,
        {
            name: percentile_limits(np.array([scores[name] for scores in overall]), level)
            for name in overall[0]
        },
    )


def draw_groups(groups: int, resamples: int = RESAMPLES, seed: int = SEED) -> NDArray[np.int64]:
    """Return how often each group is drawn in each resample, (resamples, groups)."""
    return np.random.default_rng(seed).multinomial(groups, [1 / groups] * groups, resamples)


def expanded_level(groups: int) -> float:
    """Return the level at which percentiles of a mean over so few groups cover it in `LEVEL` of the cases.

    Plain percentiles are too narrow: they lack the factor of the sample's variance, and of Student's t
    (Hesterberg 2015, "expanded percentile interval", doi:10.1080/00031305.2015.1089789).
    """
    reach = math.sqrt(groups / (groups - 1)) * stdtrit(groups - 1, (1 + LEVEL) / 2)
    return float(1 - 2 * ndtr(-reach))


def percentile_limits(values: NDArray[np.float64], level: float = LEVEL) -> NDArray[np.float64]:
    """Return (…, 2) limits at a level: percentiles over the first axis, nan values left out."""
    tail = 100 * (1 - level) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of scores that are nan in every resample
        return np.moveaxis(np.nanpercentile(values, [tail, 100 - tail], axis=0), 0, -1)


class StackedTallies:
    """The counts of all groups as arrays, so that a resample is one product with the weights."""

    def __init__(self, groups: Sequence[Tally]) -> None:
        self._names = groups[0].counts.names
        self._matrix = np.stack([g.counts.matrix for g in groups]).astype(np.float64)
        self._positives = np.stack([g.scores.positives for g in groups]).astype(np.float64)
        self._negatives = np.stack([g.scores.negatives for g in groups]).astype(np.float64)

    def weighted(self, weights: NDArray[np.float64]) -> Tally:
        """Return the sum of the groups, each as often as its weight says."""
        matrix, positives, negatives = (
            np.tensordot(weights, part, axes=1).astype(np.uint64)
            for part in (self._matrix, self._positives, self._negatives)
        )
        return Tally(Counts(self._names, matrix), ScoreCounts(self._names, positives, negatives))
