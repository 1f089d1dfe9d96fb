"""Segmentation metrics, counts first: confusion counts add up over slides, scores come from the sum."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_seg.classes import ClassGroup

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """Confusion counts in pixels."""

    names: tuple[str, ...]
    """One name per row."""
    matrix: NDArray[np.uint64]
    """(K, K + 1): truth by row, prediction by column; the last column counts predictions that are
    none of the K, such as pixels left unanalysed."""

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
        return self._scores(2 * self.true_positive, self.support + self.predicted)

    @property
    def iou(self) -> Scores:
        """TP / (TP + FP + FN) per class; nan where the truth has none of it."""
        return self._scores(self.true_positive, self.support + self.predicted - self.true_positive)

    @property
    def precision(self) -> Scores:
        """TP / (TP + FP) per class; nan where the truth has none of it or nothing was predicted as it."""
        return self._scores(self.true_positive, self.predicted)

    @property
    def recall(self) -> Scores:
        """TP / (TP + FN) per class; nan where the truth has none of it."""
        return self._scores(self.true_positive, self.support)

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

    def grouped(self, groups: Iterable[ClassGroup], codes: tuple[int, ...]) -> Counts:
        """Return the counts of groups of classes; row i of these counts is class code `codes[i]`.

        Truth of a class that is in no group is dropped; a prediction of it counts as none of the groups.
        """
        groups = tuple(groups)
        member = np.array([[code in g.codes for code in codes] for g in groups], np.uint64)
        columns = np.vstack([member.T, np.zeros((1, len(groups)), np.uint64)])
        loose = np.append(member.sum(axis=0) == 0, True).astype(np.uint64)
        columns = np.hstack([columns, loose[:, None]])
        return Counts(tuple(g.name for g in groups), member @ self.matrix @ columns)

    def _scores(self, top: Scores, bottom: Scores) -> Scores:
        known = (self.support > 0) & (bottom > 0)
        out = np.full(len(self.names), np.nan)
        np.divide(top, bottom, out=out, where=known)
        return out


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


def mean_score(scores: Scores) -> float:
    """Return the mean over the classes that have a score; nan when none has."""
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if known.size else float("nan")


def rounded(value: float, digits: int = 4) -> float | None:
    """Return `value` for JSON: rounded, None instead of nan."""
    return None if np.isnan(value) else round(float(value), digits)
