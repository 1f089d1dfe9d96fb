"""Calibration against slow counting, and temperatures that are found again."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_seg.core.classes import BCSS
from wsi_seg.core.geometry import Box
from wsi_seg.datasets.region import IGNORED, not_class
from wsi_seg.evaluation.calibration import (
    BINS,
    STEP,
    TEMPERATURES,
    Reliability,
    ReliabilityCounter,
    best_temperature,
    calibration_table,
)
from wsi_seg.evaluation.rows import Rows
from wsi_seg.evaluation.tally import PredictedBlock

CLASSES = BCSS[:4]
ROWS = Rows.of_classes(CLASSES)


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=0))
    return e / e.sum(axis=0)


def made_block(
    seed: int, side: int = 64, temperature: float = 1.0, absent: tuple[int, ...] = ()
) -> PredictedBlock:
    """Return a block whose truth is drawn from the probabilities at this temperature."""
    random = np.random.default_rng(seed)
    logits = 3 * random.standard_normal((len(CLASSES), side, side))
    logits[list(absent)] = -np.inf
    cumulated = softmax(logits / temperature).cumsum(axis=0)
    target = (random.random((side, side)) > cumulated).sum(axis=0).astype(np.int16)
    target[:4] = IGNORED
    probabilities = softmax(logits).astype(np.float32)
    channels = probabilities.argmax(0).astype(np.uint8)
    return PredictedBlock(Box(0, 0, side, side), target, channels, probabilities)


def counted(blocks: list[PredictedBlock], rows: Rows, temperatures: tuple[float, ...]) -> Reliability:
    counter = ReliabilityCounter(rows, temperatures)
    assert list(counter(blocks)) == blocks
    return counter.total


def test_sums_equal_slow_counting() -> None:
    blocks = [made_block(0), made_block(1)]
    found = counted(blocks, ROWS, (1.0, 2.0))
    for t, temperature in enumerate((1.0, 2.0)):
        confidences, hits, loss = [], [], 0.0
        for block in blocks:
            for y in range(STEP // 2, 64, STEP):
                for x in range(STEP // 2, 64, STEP):
                    truth = block.target[y, x]
                    if truth == IGNORED:
                        continue
                    p = softmax(np.log(block.probabilities[:, y, x].astype(np.float64)) / temperature)
                    confidences.append(p.max())
                    hits.append(p.argmax() == truth)
                    loss -= np.log(p[truth])
        index = np.minimum((np.array(confidences) * BINS).astype(int), BINS - 1)
        error = sum(
            abs(np.mean(np.array(hits)[index == b]) - np.mean(np.array(confidences)[index == b]))
            * np.mean(index == b)
            for b in np.unique(index)
        )
        assert found.pixels == len(hits)
        assert found.expected_calibration_error[t] == pytest.approx(error, abs=1e-5)
        assert found.mean_loss[t] == pytest.approx(loss / len(hits), rel=1e-4)
    assert found.painted.sum() == found.pixels


def test_the_temperature_of_made_truth_is_found() -> None:
    for true in (0.7071, 2.0):
        found = counted([made_block(3, 512, true)], ROWS, TEMPERATURES)
        assert best_temperature([found]) == pytest.approx(true, rel=0.1)
        errors = dict(zip(TEMPERATURES, found.expected_calibration_error, strict=True))
        assert errors[best_temperature([found])] < 0.02 < errors[1.0]


def test_every_part_weighs_the_same_in_a_temperature() -> None:
    many, few = (
        counted([made_block(3, 256)], ROWS, TEMPERATURES),
        counted([made_block(4, 128, 4.0)], ROWS, TEMPERATURES),
    )
    nothing = counted([], ROWS, TEMPERATURES)
    assert 1 < best_temperature([many, few, nothing]) == best_temperature([few, many]) < 4
    with pytest.raises(ValueError, match="no pixel"):
        best_temperature([nothing])
    with pytest.raises(ValueError, match="do not add up"):
        many + counted([], ROWS, (1.0,))


def test_classes_without_probability_get_none_at_any_temperature() -> None:
    block = made_block(5, absent=(2, 3))
    found = counted([block], ROWS, (8.0,))
    two = Rows.of_classes(CLASSES[:2])
    small = PredictedBlock(block.box, block.target, block.channels, block.probabilities[:2])
    assert np.allclose(found.bins, counted([small], two, (8.0,)).bins)


def test_one_class_against_the_rest_sums_probabilities() -> None:
    block = made_block(6)
    partial = np.where(block.target == 0, 0, np.where(block.target > 0, not_class(0), IGNORED))
    block = PredictedBlock(block.box, partial.astype(np.int16), block.channels, block.probabilities)
    found = counted([block], Rows.of_one_class(CLASSES, 0), (1.0,))
    every = (slice(STEP // 2, None, STEP),) * 2
    known = partial[every] != IGNORED
    p = block.probabilities[0][every][known]
    assert found.bins[0, :, 1].sum() == pytest.approx(np.maximum(p, 1 - p).sum(), rel=1e-5)
    assert found.bins[0, :, 2].sum() == ((p >= 0.5) == (partial[every][known] == 0)).sum()


def test_the_table_gives_both_errors() -> None:
    found = counted([made_block(7, 256, 2.0)], ROWS, (1.0, 0.5, *TEMPERATURES))
    table = calibration_table(found)
    assert table["temperature"] == 2 and table["pixels"] == sum(b["pixels"] for b in table["bins"])
    assert table["expected_calibration_error"] == pytest.approx(found.expected_calibration_error[0], abs=1e-4)
    assert table["without_temperature"] == pytest.approx(found.expected_calibration_error[1], abs=1e-4)
    assert calibration_table(counted([], ROWS, (1.0, 1.0)))["expected_calibration_error"] is None
