"""Segmentation metrics, counts first: confusion counts add up over slides, scores come from the sum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]

# Scores of a class in the order of all tables: those of `Counts`, and those of `ScoreCounts`.
COUNT_SCORES = ("dice", "iou", "precision", "recall", "specificity", "mcc")
RANK_SCORES = ("roc_auc", "average_precision")
SCORES = (*COUNT_SCORES, *RANK_SCORES)
# Of these, the ones shown for each patient, slide, image and baseline.
BRIEF_SCORES = ("dice", "iou", "precision", "recall", "mcc", "roc_auc")

# Steps in which probabilities are counted; eight-bit probabilities stay apart.
SCORE_BINS = 512
# A row that stands for no class in maps of rows.
NO_ROW = 255


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """Confusion counts in pixels."""

    names: tuple[str, ...]
    """One name per row."""
    matrix: NDArray[np.uint64]
    """(K, K + 1): truth by row, prediction by column; the last column counts predictions that are
    none of the K, such as pixels left unanalyzed."""

    def __post_init__(self) -> None:
        if self.matrix.shape != (len(self.names), len(self.names) + 1):
            raise ValueError(f"{len(self.names)} names but a matrix of shape {self.matrix.shape}")

    def __add__(self, other: Counts) -> Counts:
        if self.names != other.names:
            raise ValueError(f"counts of different classes: {self.names} and {other.names}")
        return Counts(self.names, self.matrix + other.matrix)

    @property
    def true_positive(self) -> Scores:
        return self.matrix.diagonal().astype(np.float64)

    @property
    def support(self) -> Scores:
        """Pixels of each class in the truth."""
        return np.asarray(self.matrix.sum(axis=1), np.float64)

    @property
    def predicted(self) -> Scores:
        """Pixels predicted as each class, where the truth is known."""
        return np.asarray(self.matrix[:, :-1].sum(axis=0), np.float64)

    @property
    def total(self) -> float:
        return float(self.matrix.sum())

    @property
    def dice(self) -> Scores:
        """2 TP / (2 TP + FP + FN) per class; nan where the truth has none of it."""
        return self._scores(*self._fractions["dice"])

    @property
    def iou(self) -> Scores:
        """TP / (TP + FP + FN) per class; nan where the truth has none of it."""
        return self._scores(*self._fractions["iou"])

    @property
    def precision(self) -> Scores:
        """TP / (TP + FP) per class; nan where the truth has none of it or nothing was predicted as it."""
        return self._scores(*self._fractions["precision"])

    @property
    def recall(self) -> Scores:
        """TP / (TP + FN) per class; nan where the truth has none of it."""
        return self._scores(*self._fractions["recall"])

    @property
    def true_negative(self) -> Scores:
        """Pixels of other classes that were not predicted as this one."""
        return self.total - self.support - self.predicted + self.true_positive

    @property
    def specificity(self) -> Scores:
        """TN / (TN + FP) per class; nan where the truth has none of it or nothing else."""
        return self._scores(self.true_negative, self.total - self.support)

    @property
    def mcc(self) -> Scores:
        """Matthews correlation of each class against the rest; nan where a margin is empty."""
        tp, n = self.true_positive, self.total
        t, p = self.support, self.predicted
        return self._scores(tp * n - t * p, np.sqrt(t * p * (n - t) * (n - p)))

    @property
    def accuracy(self) -> float:
        """Share of pixels predicted as their own class; nan without any pixel."""
        return float(self.true_positive.sum() / self.total) if self.total else float("nan")

    @property
    def one_against_rest_accuracy(self) -> float:
        """Mean over all classes of (TP + TN) / N; nan without any pixel.

        With K classes and every pixel predicted as one of them it is 1 - 2 (1 - accuracy) / K: each wrong
        pixel is wrong for two classes and right for all others.
        """
        if not self.total:
            return float("nan")
        return float(((self.true_positive + self.true_negative) / self.total).mean())

    @property
    def micro(self) -> dict[str, float]:
        """Scores of TP, FP and FN summed over the classes; nan where the denominator is 0.

        Recall is the accuracy; so are precision and Dice, unless some pixels were predicted as no class.
        """
        return self.micro_of(np.ones(len(self.names), bool))

    def micro_of(self, rows: NDArray[np.bool_]) -> dict[str, float]:
        """Return `micro` over some of the rows, (K,)."""
        fractions = {
            name: (top[rows].sum(), bottom[rows].sum()) for name, (top, bottom) in self._fractions.items()
        }
        return {
            name: float(top / bottom) if bottom else float("nan") for name, (top, bottom) in fractions.items()
        }

    @property
    def _fractions(self) -> dict[str, tuple[Scores, Scores]]:
        """Numerator and denominator of the scores that need no true negatives."""
        right, known, predicted = self.true_positive, self.support, self.predicted
        return {
            "dice": (2 * right, known + predicted),
            "iou": (right, known + predicted - right),
            "precision": (right, predicted),
            "recall": (right, known),
        }

    def _scores(self, top: Scores, bottom: Scores) -> Scores:
        return np.where(self.support > 0, _ratio(top, bottom), np.nan)


def count_classes(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8], codes: tuple[int, ...], names: tuple[str, ...]
) -> Counts:
    """Count pixels by true and predicted class.

    Args:
        truth: uint8 class codes, any shape; pixels whose code is not in `codes` are left out, so
            ignored codes are those that are not given.
        predicted: uint8 class codes of the same shape.
        codes: distinct codes, one for each row.
        names: their names.

    Raises:
        ValueError: the shapes differ.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth is {truth.shape} but the prediction is {predicted.shape}")
    size = len(codes)
    row = np.full(256, -1, np.int64)
    row[list(codes)] = np.arange(size)
    rows = row[truth]
    columns = np.where(row < 0, size, row)[predicted]
    known = rows >= 0
    flat = np.bincount(rows[known] * (size + 1) + columns[known], minlength=size * (size + 1))
    return Counts(names, flat.reshape(size, size + 1).astype(np.uint64))


@dataclass(frozen=True, slots=True, eq=False)
class ScoreCounts:
    """Histograms of the probability of each class, of its own pixels and of all others; they add up."""

    names: tuple[str, ...]
    """One name per row."""
    positives: NDArray[np.uint64]
    """(K, bins): pixels of the class by the probability that they were given for it, lowest bin first."""
    negatives: NDArray[np.uint64]
    """(K, bins): pixels of known other classes by the same."""

    def __add__(self, other: ScoreCounts) -> ScoreCounts:
        if self.names != other.names:
            raise ValueError(f"scores of different classes: {self.names} and {other.names}")
        return ScoreCounts(self.names, self.positives + other.positives, self.negatives + other.negatives)

    @property
    def roc_auc(self) -> Scores:
        """Area under the ROC curve per class; nan where its pixels or all others are missing.

        The share of pairs of a pixel of the class and another one in which the former has the higher
        probability; equal ones count half (Hanley & McNeil 1982, doi:10.1148/radiology.143.1.7063747).
        """
        above = _from_above(self.positives)
        won = (self.negatives * (above - self.positives / 2)).sum(axis=1)
        pairs = above[:, 0] * self.negatives.sum(axis=1)
        return _ratio(won, pairs)

    @property
    def average_precision(self) -> Scores:
        """Sum over thresholds of precision × gain in recall per class; nan without pixels of the class."""
        true = _from_above(self.positives)
        called = true + _from_above(self.negatives)
        precision = np.divide(true, called, out=np.zeros_like(true), where=called > 0)
        total = true[:, 0]
        gained = (self.positives * precision).sum(axis=1)
        return _ratio(gained, total)

    def at_half(self, row: int) -> Counts:
        """Return the counts of one class against the rest where it is called at a probability of 0.5."""
        middle = (self.positives.shape[1] + 1) // 2
        (fn, tp), (tn, fp) = (
            (int(counts[:middle].sum()), int(counts[middle:].sum()))
            for counts in (self.positives[row], self.negatives[row])
        )
        names = (self.names[row], f"not {self.names[row]}")
        return Counts(names, np.array([[tp, fn, 0], [fp, tn, 0]], np.uint64))

    def roc_curve(self, row: int) -> tuple[Scores, Scores]:
        """Return false and true positive rates from the highest threshold to the lowest, (0, 0) first."""
        return _rising(self.negatives[row]), _rising(self.positives[row])

    def precision_recall_curve(self, row: int) -> tuple[Scores, Scores]:
        """Return precision and recall at the thresholds that call any pixel, the highest first."""
        true, false = np.cumsum(self.positives[row, ::-1]), np.cumsum(self.negatives[row, ::-1])
        called = true + false > 0
        true, false = true[called].astype(np.float64), false[called].astype(np.float64)
        return true / (true + false), true / true[-1]


def _ratio(top: Scores, bottom: Scores) -> Scores:
    out = np.full(len(bottom), np.nan)
    np.divide(top, bottom, out=out, where=bottom > 0)
    return out


def _from_above(counts: NDArray[np.uint64]) -> Scores:
    """Return how many counts lie in each bin or above it."""
    return np.cumsum(counts[:, ::-1], axis=1)[:, ::-1].astype(np.float64)


def _rising(counts: NDArray[np.uint64]) -> Scores:
    rate = np.cumsum(counts[::-1]) / counts.sum()
    return np.concatenate([[0.0], rate])


def count_scores(
    truth: NDArray[np.uint8], scores: NDArray[np.float32], names: tuple[str, ...], bins: int = SCORE_BINS
) -> ScoreCounts:
    """Count the probabilities of each class, in steps of 1 / bins, where the truth is known.

    Args:
        truth: uint8 rows, any shape; pixels of NO_ROW are left out.
        scores: (K, *truth.shape) probabilities 0 … 1.
        names: of the K rows.
        bins: steps.
    """
    known = truth != NO_ROW
    index = np.minimum(scores[:, known] * bins, bins - 1).astype(np.intp)
    return _score_counts(truth[known], index, names, bins)


def rank_scores(truth: NDArray[np.uint8], scores: NDArray[np.float32], names: tuple[str, ...]) -> ScoreCounts:
    """Count scores as they are, one bin for each distinct value: exact, for a few thousand at most.

    Args:
        truth: uint8 (n,) rows.
        scores: (K, n).
        names: of the K rows.
    """
    values, index = np.unique(scores, return_inverse=True)
    return _score_counts(truth, index.reshape(scores.shape), names, max(1, len(values)))


def _score_counts(
    truth: NDArray[np.uint8], index: NDArray[np.intp], names: tuple[str, ...], bins: int
) -> ScoreCounts:
    # Negatives and positives of a class side by side, so that one count serves both.
    both = np.stack(
        [np.bincount(row + bins * (truth == k), minlength=2 * bins) for k, row in enumerate(index)]
    ).astype(np.uint64)
    return ScoreCounts(names, positives=both[:, bins:], negatives=both[:, :bins])


def mean_score(scores: Scores) -> float:
    """Return the mean over the classes that have a score; nan when none has."""
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if known.size else float("nan")


def rounded(value: float, digits: int = 4) -> float | None:
    """Return `value` for JSON: rounded, None instead of nan."""
    return None if np.isnan(value) else round(float(value), digits)
