"""Metrics against definitions written out pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from wsi_seg.classes import ClassGroup
from wsi_seg.metrics import Counts, count_classes, mean_score, rounded

CODES = (3, 1, 7)
NAMES = ("c", "a", "g")
IN_MAPS = st.sampled_from([0, 1, 2, 3, 7, 255])

pairs = array_shapes(min_dims=2, max_dims=2, max_side=8).flatmap(
    lambda shape: st.tuples(*[arrays(np.uint8, shape, elements=IN_MAPS)] * 2)
)


def brute(truth, predicted, members: tuple[int, ...], universe: tuple[int, ...]) -> dict[str, float]:
    """TP, FP, FN, TN of one class (or group) counted one pixel at a time, and the scores from them."""
    tp = fp = fn = tn = 0
    for t, p in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        if t not in universe:
            continue
        tp += t in members and p in members
        fn += t in members and p not in members
        fp += t not in members and p in members
        tn += t not in members and p not in members

    def ratio(top: float, bottom: float) -> float:
        return top / bottom if bottom and tp + fn else math.nan

    return {
        "dice": ratio(2 * tp, 2 * tp + fp + fn),
        "iou": ratio(tp, tp + fp + fn),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "mcc": ratio(tp * tn - fp * fn, math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))),
    }


def assert_scores(counts: Counts, row: int, expected: dict[str, float]) -> None:
    for name, value in expected.items():
        assert getattr(counts, name)[row] == pytest.approx(value, abs=1e-12, nan_ok=True), name


@given(pairs)
def test_scores_equal_their_definitions(maps):
    truth, predicted = maps
    counts = count_classes(truth, predicted, CODES, NAMES)
    for row, code in enumerate(CODES):
        assert_scores(counts, row, brute(truth, predicted, (code,), CODES))
    known = np.isin(truth, CODES)
    assert counts.total == known.sum()
    right = (truth == predicted)[known]
    assert counts.accuracy == pytest.approx(right.mean() if right.size else math.nan, nan_ok=True)


@given(pairs)
def test_groups_equal_counting_the_groups(maps):
    truth, predicted = maps
    groups = (ClassGroup("x", (1, 7), (0, 0, 0)), ClassGroup("y", (2,), (0, 0, 0)))
    codes = (1, 2, 3, 7)
    counts = count_classes(truth, predicted, codes, ("a", "b", "c", "g")).grouped(groups, codes)
    assert counts.names == ("x", "y")
    for row, group in enumerate(groups):
        assert_scores(counts, row, brute(truth, predicted, group.codes, (1, 2, 7)))


@given(pairs, st.integers(0, 8))
def test_counts_add_up_over_parts(maps, cut):
    truth, predicted = maps
    parts = [
        count_classes(truth[rows], predicted[rows], CODES, NAMES) for rows in (slice(cut), slice(cut, None))
    ]
    whole = count_classes(truth, predicted, CODES, NAMES)
    assert np.array_equal((parts[0] + parts[1]).matrix, whole.matrix)


def test_ignored_truth_has_no_weight():
    truth = np.array([[1, 0, 0, 7]], np.uint8)
    predicted = np.array([[1, 1, 2, 1]], np.uint8)
    counts = count_classes(truth, predicted, (1, 2), ("a", "b"))
    assert counts.total == 1 and counts.dice[0] == 1 and math.isnan(counts.dice[1])


def test_pixels_left_unanalysed_count_as_missed():
    truth = np.array([[1, 1, 2, 2]], np.uint8)
    predicted = np.array([[1, 0, 0, 2]], np.uint8)
    counts = count_classes(truth, predicted, (1, 2), ("a", "b"))
    assert counts.recall.tolist() == [0.5, 0.5]
    assert counts.precision.tolist() == [1, 1]
    assert counts.accuracy == 0.5


def test_perfect_and_opposite():
    truth = np.array([[1, 1, 2]], np.uint8)
    perfect = count_classes(truth, truth, (1, 2), ("a", "b"))
    assert perfect.mcc.tolist() == [1, 1] and perfect.dice.tolist() == [1, 1]
    opposite = count_classes(truth, np.array([[2, 2, 1]], np.uint8), (1, 2), ("a", "b"))
    assert opposite.mcc.tolist() == [-1, -1] and opposite.iou.tolist() == [0, 0]


def test_a_slide_of_pixels_does_not_overflow():
    side = 100_000
    matrix = np.array([[side * side // 2, 0, 0], [side, side * side // 2, 0]], np.uint64)
    mcc = Counts(("a", "b"), matrix).mcc
    assert mcc[0] == pytest.approx(1, abs=1e-4)


def test_wrong_shapes_and_names():
    one = count_classes(np.ones((2, 2), np.uint8), np.ones((2, 2), np.uint8), (1,), ("a",))
    other = count_classes(np.ones((2, 2), np.uint8), np.ones((2, 2), np.uint8), (1,), ("b",))
    with pytest.raises(ValueError, match="different classes"):
        one + other
    with pytest.raises(ValueError, match=r"\(2, 2\) but the prediction is \(2, 3\)"):
        count_classes(np.ones((2, 2), np.uint8), np.ones((2, 3), np.uint8), (1,), ("a",))
    with pytest.raises(ValueError, match="1 names"):
        Counts(("a",), np.zeros((2, 3), np.uint64))


def test_mean_and_rounding():
    assert mean_score(np.array([0.5, np.nan, 1.0])) == 0.75
    assert math.isnan(mean_score(np.array([np.nan])))
    assert rounded(0.123456) == 0.1235 and rounded(float("nan")) is None
