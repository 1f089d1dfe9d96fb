"""Metrics against definitions written out pixel by pixel, and against scikit-learn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from wsi_seg.evaluation.metrics import (
    NO_ROW,
    SCORE_BINS,
    Counts,
    count_classes,
    count_scores,
    mean_score,
    rank_scores,
    rounded,
)

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


def test_pixels_left_unanalyzed_count_as_missed():
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


# --- scikit-learn as the oracle ---------------------------------------------------------------------------

UNIVERSE = (1, 2, 3, 7)
LETTERS = ("a", "b", "c", "g")


def known_labels(truth: Any, predicted: Any) -> tuple[Any, Any]:
    known = np.isin(truth, UNIVERSE)
    return truth[known], predicted[known]


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
@given(pairs)
def test_scores_equal_scikit_learn_with_ignored_pixels(maps):
    truth, predicted = maps
    counts = count_classes(truth, predicted, UNIVERSE, LETTERS)
    t, p = known_labels(truth, predicted)
    assume(t.size)
    matrix = sk.confusion_matrix(t, p, labels=[*UNIVERSE, 0, 255])[:4]
    assert np.array_equal(counts.matrix[:, :4], matrix[:, :4])
    assert np.array_equal(counts.matrix[:, 4], matrix[:, 4:].sum(axis=1))
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        t, p, labels=UNIVERSE, zero_division=np.nan
    )
    assert counts.support.tolist() == support.tolist()
    has = support > 0
    iou = sk.jaccard_score(t, p, labels=UNIVERSE, average=None, zero_division=0)
    for name, expected in {"precision": precision, "recall": recall, "dice": f1, "iou": iou}.items():
        ours = getattr(counts, name)
        assert np.isnan(ours[~has]).all(), name
        np.testing.assert_allclose(ours[has], expected[has], atol=1e-12, err_msg=name)
    for row in np.flatnonzero(has):
        code = UNIVERSE[row]
        specificity = sk.recall_score(t != code, p != code, zero_division=np.nan)
        assert counts.specificity[row] == pytest.approx(specificity, nan_ok=True)
        if not math.isnan(counts.mcc[row]):
            assert counts.mcc[row] == pytest.approx(sk.matthews_corrcoef(t == code, p == code), abs=1e-9)
    assert counts.accuracy == pytest.approx(sk.accuracy_score(t, p))
    assert mean_score(counts.recall) == pytest.approx(sk.balanced_accuracy_score(t, p))
    assert mean_score(counts.dice) == pytest.approx(f1[has].mean())
    micro = sk.precision_recall_fscore_support(t, p, labels=UNIVERSE, average="micro", zero_division=np.nan)[
        :3
    ]
    ours = [counts.micro[name] for name in ("precision", "recall", "dice")]
    assert ours == pytest.approx(list(micro), nan_ok=True)
    jaccard = sk.jaccard_score(t, p, labels=UNIVERSE, average="micro", zero_division=0)
    assert counts.micro["iou"] == pytest.approx(jaccard)
    rest = np.mean([sk.accuracy_score(t == code, p == code) for code in UNIVERSE])
    assert counts.one_against_rest_accuracy == pytest.approx(rest)


def test_the_one_against_rest_accuracy_looks_high():
    """At 21 classes a pixel accuracy of 0.55 shows as 0.957."""
    truth = np.repeat(np.arange(1, 22, dtype=np.uint8), 100)
    predicted = np.where(np.arange(2100) % 100 < 55, truth, truth % 21 + 1).astype(np.uint8)
    counts = count_classes(truth, predicted, tuple(range(1, 22)), tuple("abcdefghijklmnopqrstu"))
    assert counts.accuracy == pytest.approx(0.55)
    assert counts.one_against_rest_accuracy == pytest.approx(1 - 2 * 0.45 / 21)
    assert round(counts.one_against_rest_accuracy, 3) == 0.957


steps = st.integers(0, SCORE_BINS - 1)
scored = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        arrays(np.uint8, n, elements=st.sampled_from([0, 1, 2, NO_ROW])),
        arrays(np.int64, (3, n), elements=steps),
    )
)


@given(scored)
def test_areas_equal_scikit_learn_on_quantized_scores(case):
    truth, index = case
    scores = ((index + 0.5) / SCORE_BINS).astype(np.float32)
    counts = count_scores(truth, scores, ("x", "y", "z"))
    exact = rank_scores(truth[truth != NO_ROW], scores[:, truth != NO_ROW], ("x", "y", "z"))
    for row in range(3):
        is_row, score = (truth == row)[truth != NO_ROW], scores[row][truth != NO_ROW]
        auc = sk.roc_auc_score(is_row, score) if 0 < is_row.sum() < is_row.size else math.nan
        ap = sk.average_precision_score(is_row, score) if is_row.any() else math.nan
        for ours in (counts, exact):
            assert ours.roc_auc[row] == pytest.approx(auc, nan_ok=True)
            assert ours.average_precision[row] == pytest.approx(ap, nan_ok=True)
        if math.isnan(auc):
            continue
        false, true = counts.roc_curve(row)
        assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
        assert np.trapezoid(true, false) == pytest.approx(auc)
        precision, recall = counts.precision_recall_curve(row)
        gained = np.diff(recall, prepend=0)
        assert (precision * gained).sum() == pytest.approx(ap)


@given(scored, st.integers(0, 40))
def test_score_counts_add_up(case, cut):
    truth, index = case
    scores = (index / SCORE_BINS).astype(np.float32)
    whole = count_scores(truth, scores, ("x", "y", "z"))
    parts = [count_scores(truth[s], scores[:, s], ("x", "y", "z")) for s in (slice(cut), slice(cut, None))]
    both = parts[0] + parts[1]
    assert np.array_equal(both.positives, whole.positives) and np.array_equal(both.negatives, whole.negatives)
    with pytest.raises(ValueError, match="different classes"):
        parts[0] + count_scores(truth, scores, ("x", "y", "other"))


def test_eight_bit_probabilities_stay_apart():
    scores = (np.arange(256) / np.float32(255)).astype(np.float32)[None]
    counts = count_scores(np.zeros(256, np.uint8), scores, ("x",))
    assert counts.positives.max() == 1 and counts.positives.sum() == 256


def test_one_class_called_at_half() -> None:
    random = np.random.default_rng(4)
    truth = random.integers(0, 3, 500).astype(np.uint8)
    truth[:40] = NO_ROW
    scores = random.random((3, 500)).astype(np.float32)
    scores[:, :100] = 0.5  # is called
    counts = count_scores(truth, scores, ("a", "b", "c"))
    for row in range(3):
        known = truth != NO_ROW
        tn, fp, fn, tp = sk.confusion_matrix(truth[known] == row, scores[row][known] >= 0.5).ravel()
        half = counts.at_half(row)
        assert half.matrix.tolist() == [[tp, fn, 0], [fp, tn, 0]]
        assert half.names == ("abc"[row], f"not {'abc'[row]}")
