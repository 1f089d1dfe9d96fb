"""Losses for targets that may be complete, partial or unknown (see `wsi_seg.datasets.region`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def known_log_probability(logits: Tensor, target: Tensor) -> Tensor:
    """Return log p(what is known) of every pixel, 0 where nothing is known.

    For a pixel of class c this is log p(c). For one of which only is known that it is not c, it is
    log(1 - p(c)), with 1 - p(c) = the sum of the other probabilities, taken as logsumexp of the other logits
    so that it stays exact where p(c) is close to 1.

    Args:
        logits: float (N, C, H, W).
        target: int64 (N, H, W): channel, IGNORED (-1), or -2 - channel for "not this channel".

    Returns:
        float32 (N, H, W).
    """
    logits = logits.float()
    log_p = logits.log_softmax(1)
    known = log_p.gather(1, target.clamp(min=0)[:, None])[:, 0]
    known = torch.where(target >= 0, known, torch.zeros_like(known))
    partial = target <= -2
    if bool(partial.any()):
        pixels = log_p.permute(0, 2, 3, 1)[partial]
        others = pixels.scatter(1, (-2 - target)[partial][:, None], float("-inf"))
        known = known.masked_scatter(partial, others.logsumexp(1))
    return known


def weighted_mean(values: Tensor, target: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return the mean of pixel values (N, H, W) where something is known; 0 where nothing is.

    Args:
        values: float (N, H, W).
        target: as above.
        class_weights: (C,) weight of a pixel by its class; a partly known pixel weighs 1.
    """
    weight = (target != -1).float()
    if class_weights is not None:
        by_class = class_weights.to(weight)[target.clamp(min=0)]
        weight = torch.where(target >= 0, by_class, weight)
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)


def cross_entropy(log_probability: Tensor, target: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Mean of -log p(what is known), from `known_log_probability`."""
    return weighted_mean(-log_probability, target, class_weights)


def focal_loss(
    log_probability: Tensor, target: Tensor, gamma: float, class_weights: Tensor | None = None
) -> Tensor:
    """Mean of -(1 - p)^gamma log p (Lin et al. 2017, doi:10.1109/ICCV.2017.324), p of what is known."""
    doubt = (1 - log_probability.exp()).clamp(min=0) ** gamma
    return weighted_mean(-doubt * log_probability, target, class_weights)


def soft_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - mean soft Dice over the classes that occur in the batch.

    A class is scored over the pixels where it is known whether they belong to it: all pixels of a known
    class, and those known not to be this class.

    Args:
        logits: float (N, C, H, W).
        target: int64 (N, H, W) as above.
    """
    probability = logits.float().softmax(1)
    losses = []
    for channel in torch.bincount(target[target >= 0]).nonzero().flatten().tolist():
        known = (target >= 0) | (target == -2 - channel)
        truth = (target == channel).float()
        p = probability[:, channel] * known
        losses.append(1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1))
    return torch.stack(losses).mean() if losses else logits.sum() * 0


def squared_difference(logits: Tensor) -> Tensor:
    """Mean over pixels of the squared difference of probabilities, first half of the batch against second.

    Args:
        logits: float (2 N, C, H, W); items i and i + N show the same place.

    Returns:
        A scalar in 0 … 2.
    """
    one, other = logits.float().softmax(1).chunk(2)
    return (one - other).square().sum(1).mean()


def losses_by_temperature(logits: Tensor, target: Tensor, temperatures: Sequence[float], step: int) -> Tensor:
    """Return the sums (T,) of -log p(what is known) where the logits are divided by each temperature.

    Args:
        logits: float (N, C, H, W).
        target: int64 (N, H, W) as above.
        temperatures: T of them.
        step: every so many rows and columns are looked at.
    """
    every = (..., slice(step // 2, None, step), slice(step // 2, None, step))
    logits, target = logits[every].float(), target[every]
    return torch.stack([-known_log_probability(logits / t, target).sum() for t in temperatures])
