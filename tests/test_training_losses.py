"""Losses, each against a slow and obvious reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from wsi_seg.datasets.region import IGNORED, not_class
from wsi_seg.training.depthwise import depthwise_in_float32
from wsi_seg.training.losses import (
    cross_entropy,
    focal_loss,
    known_log_probability,
    losses_by_temperature,
    soft_dice_loss,
    squared_difference,
)


def partial_cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return cross_entropy(known_log_probability(logits, target), target)


CHANNELS = 4
TARGETS = st.sampled_from([0, 1, 2, 3, IGNORED, not_class(0), not_class(3)])
cases = st.tuples(
    arrays(np.float64, (2, CHANNELS, 2, 3), elements=st.floats(-20, 20)),
    arrays(np.int64, (2, 2, 3), elements=TARGETS),
)


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def pixels(logits: np.ndarray, target: np.ndarray):
    """Yield (probabilities, target) of every pixel."""
    for n, y, x in np.ndindex(target.shape):
        yield softmax(logits[n, :, y, x]), int(target[n, y, x])


@given(cases)
def test_partial_cross_entropy_equals_its_definition(case):
    logits, target = case
    losses = []
    for p, t in pixels(logits, target):
        if t >= 0:
            losses.append(-math.log(p[t]))
        elif t <= -2:
            losses.append(-math.log(sum(v for i, v in enumerate(p) if i != -2 - t)))
    expected = np.mean(losses) if losses else 0.0
    loss = partial_cross_entropy(torch.from_numpy(logits), torch.from_numpy(target))
    assert float(loss) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@given(cases, st.floats(0, 4), st.lists(st.floats(0.1, 9), min_size=CHANNELS, max_size=CHANNELS))
def test_weighted_focal_loss_equals_its_definition(case, gamma, by_class):
    logits, target = case
    total = weight = 0.0
    for p, t in pixels(logits, target):
        if t == IGNORED:
            continue
        known = p[t] if t >= 0 else sum(v for i, v in enumerate(p) if i != -2 - t)
        w = by_class[t] if t >= 0 else 1.0
        total -= w * max(0.0, 1 - known) ** gamma * math.log(known)
        weight += w
    log_p = known_log_probability(torch.from_numpy(logits), torch.from_numpy(target))
    loss = focal_loss(log_p, torch.from_numpy(target), gamma, torch.tensor(by_class))
    assert float(loss) == pytest.approx(total / weight if weight else 0.0, rel=1e-3, abs=1e-5)
    plain = focal_loss(log_p, torch.from_numpy(target), 0.0)
    assert float(plain) == pytest.approx(float(cross_entropy(log_p, torch.from_numpy(target))), abs=1e-6)


@given(cases)
def test_soft_dice_equals_its_definition(case):
    logits, target = case
    scores = []
    for channel in sorted({int(t) for t in target.ravel() if t >= 0}):
        overlap = mass = support = 0.0
        for p, t in pixels(logits, target):
            if t >= 0 or t == not_class(channel):
                overlap += p[channel] * (t == channel)
                mass += p[channel]
                support += t == channel
        scores.append(1 - (2 * overlap + 1) / (mass + support + 1))
    loss = soft_dice_loss(torch.from_numpy(logits), torch.from_numpy(target))
    assert float(loss) == pytest.approx(np.mean(scores) if scores else 0.0, abs=1e-5)


@pytest.mark.parametrize("loss", [partial_cross_entropy, soft_dice_loss])
def test_ignored_pixels_get_no_gradient(loss):
    logits = torch.randn(1, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.tensor([[[0, 1, IGNORED, not_class(1)]] * 4])
    loss(logits, target).backward()
    gradient = logits.grad.abs().sum(dim=1)[0]
    assert bool((gradient[:, 2] == 0).all()) and bool((gradient[:, [0, 1, 3]] > 0).all())


@pytest.mark.parametrize("loss", [partial_cross_entropy, soft_dice_loss])
def test_a_batch_of_unknown_pixels_costs_nothing(loss):
    logits = torch.randn(1, CHANNELS, 4, 4).requires_grad_()
    value = loss(logits, torch.full((1, 4, 4), IGNORED))
    value.backward()
    assert value.item() == 0 and not bool(logits.grad.any())


def test_not_this_class_lowers_this_class_alone():
    logits = torch.zeros(1, CHANNELS, 1, 1, requires_grad=True)
    partial_cross_entropy(logits, torch.tensor([[[not_class(2)]]])).backward()
    assert logits.grad[0, :, 0, 0].sign().tolist() == [-1, -1, 1, -1]


def test_a_sure_mistake_has_a_finite_loss_and_gradient():
    logits = torch.zeros(1, CHANNELS, 1, 1)
    logits[0, 2] = 100
    logits.requires_grad_()
    loss = partial_cross_entropy(logits, torch.tensor([[[not_class(2)]]]))
    loss.backward()
    assert loss.item() == pytest.approx(100 - math.log(3), rel=1e-5)
    assert bool(torch.isfinite(logits.grad).all()) and float(logits.grad[0, 2, 0, 0]) == pytest.approx(
        1, rel=1e-4
    )


def test_squared_difference_compares_the_halves_of_a_batch():
    same = torch.randn(2, 3, 4, 4)
    assert float(squared_difference(torch.cat([same, same]))) == 0
    sure = torch.zeros(2, 3, 1, 1)
    sure[0, 0], sure[1, 1] = 100, 100
    assert float(squared_difference(sure)) == pytest.approx(2)


def test_depthwise_convolutions_leave_autocast():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1))
    names = list(network.state_dict())
    inputs = torch.randn(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        before = network(inputs)
        assert depthwise_in_float32(network) == 1
        middle = network[:2](inputs)
        after = network(inputs)
    assert middle.dtype == torch.float32 and before.dtype == after.dtype == torch.bfloat16
    assert torch.allclose(before, after, atol=0.02) and list(network.state_dict()) == names


def test_losses_by_temperature_are_those_of_divided_logits():
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 16, 16, generator=random)
    target = torch.randint(-2, 3, (2, 16, 16), generator=random)
    found = losses_by_temperature(logits, target, (1.0, 2.0), 1)
    for loss, temperature in zip(found, (1.0, 2.0), strict=True):
        assert loss == pytest.approx(float(-known_log_probability(logits / temperature, target).sum()))
    sampled = losses_by_temperature(logits, target, (1.0,), 4)
    expected = -known_log_probability(logits[..., 2::4, 2::4], target[:, 2::4, 2::4]).sum()
    assert float(sampled) == pytest.approx(float(expected))
