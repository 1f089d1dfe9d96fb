"""Augmentation and losses, each against a slow and obvious reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsi_seg.training.augment import STAINS, Augmentation
from wsi_seg.training.config import AugmentationConfig
from wsi_seg.training.datasets import IGNORED, not_class
from wsi_seg.training.losses import partial_cross_entropy, soft_dice_loss, squared_difference

# --- augmentation -------------------------------------------------------------------------------------

OFF = AugmentationConfig(scale=0, stain=0, color=0, blur=0, chroma=0, jpeg=0, blank=0)


def batch(n: int = 3, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    images = torch.rand(n, 3, side, side, generator=random) * 0.9 + 0.05
    return images, torch.randint(0, 3, (n, side, side), generator=random)


def test_no_augmentation_changes_nothing():
    images, targets = batch()
    out, labels = Augmentation(OFF, IGNORED, 0)(images, targets)
    assert torch.equal(out, images) and torch.equal(labels, targets)


@pytest.mark.parametrize("name", ["stain", "color", "blur", "chroma", "jpeg", "blank"])
def test_each_augmentation_is_bounded_repeatable_and_keeps_its_input(name):
    config = OFF.model_copy(update={name: 0.9})
    images, targets = batch()
    before = images.clone(), targets.clone()
    out, labels = Augmentation(config, -5, 3)(images, targets)
    again, labels_again = Augmentation(config, -5, 3)(images, targets)
    assert torch.equal(out, again) and torch.equal(labels, labels_again)
    assert not torch.equal(out, images)
    assert out.shape == images.shape and float(out.min()) >= 0 and float(out.max()) <= 1
    assert torch.equal(images, before[0]) and torch.equal(targets, before[1])
    if name != "blank":
        assert torch.equal(labels, targets)


def test_coarse_colour_keeps_the_luma():
    images, targets = batch()
    images = images * 0.4 + 0.3  # far from black and white, so that nothing is clipped
    out, _ = Augmentation(OFF.model_copy(update={"chroma": 1.0}), IGNORED, 3)(images, targets)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    assert torch.allclose((out * weights).sum(1), (images * weights).sum(1), atol=1e-5)
    assert float((out - out.mean(1, keepdim=True)).var()) < float(
        (images - images.mean(1, keepdim=True)).var()
    )


def test_blank_ground_is_white_and_labelled_so():
    images, targets = batch(8)
    out, labels = Augmentation(OFF.model_copy(update={"blank": 1.0}), -5, 0)(images, targets)
    blank = labels == -5
    share = blank.float().mean(dim=(1, 2))
    assert bool((share > 0).all()) and bool((share <= 0.6).all())
    assert float(out.permute(0, 2, 3, 1)[blank].min()) > 0.8
    assert torch.equal(out.permute(0, 2, 3, 1)[~blank], images.permute(0, 2, 3, 1)[~blank])
    assert torch.equal(labels[~blank], targets[~blank])


def test_stains_are_scaled_in_optical_density():
    images, targets = batch(1, 4)
    made = Augmentation(OFF.model_copy(update={"stain": 0.4}), IGNORED, 7)
    out, _ = made(images, targets)
    draw = Augmentation(OFF, IGNORED, 7)
    gain = (1 + 0.4 * (2 * draw._uniform(1, 3) - 1))[0].double().numpy()
    offset = (0.04 * (2 * draw._uniform(1, 3) - 1))[0].double().numpy()
    stains = np.array(STAINS)
    for y in range(4):
        for x in range(4):
            density = -np.log(images[0, :, y, x].double().numpy())
            amounts = np.linalg.solve(stains.T, density) * gain + offset
            expected = np.clip(np.exp(-np.clip(stains.T @ amounts, 0, None)), 0, 1)
            assert out[0, :, y, x].numpy() == pytest.approx(expected, abs=1e-5)


# --- losses -------------------------------------------------------------------------------------------

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
    assert bool(torch.isfinite(logits.grad).all()) and float(logits.grad[0, 2, 0, 0]) == pytest.approx(1)


def test_squared_difference_compares_the_halves_of_a_batch():
    same = torch.randn(2, 3, 4, 4)
    assert float(squared_difference(torch.cat([same, same]))) == 0
    sure = torch.zeros(2, 3, 1, 1)
    sure[0, 0], sure[1, 1] = 100, 100
    assert float(squared_difference(sure)) == pytest.approx(2)
