"""Losses for targets that may be complete, partial or unknown (see `datasets`)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def partial_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean of -log p(what is known) over the pixels of which something is known.

    For a pixel of class c this is the cross-entropy, -log p(c). For one of which only is known that it
    is not c, it is -log(1 - p(c)), with 1 - p(c) = the sum of the other probabilities, taken as
    logsumexp of the other logits so that it stays exact where p(c) is close to 1.

    Args:
        logits: float (N, C, H, W).
        target: int64 (N, H, W): channel, IGNORED (-1), or -2 - channel for "not this channel".

    Returns:
        A scalar; 0 where nothing is known.
    """
    logits = logits.float()
    complete = functional.cross_entropy(logits, target.clamp(min=-1), ignore_index=-1, reduction="sum")
    partial = target <= -2
    excluded = (-2 - target).clamp(min=0)
    total = complete
    if bool(partial.any()):
        pixels = logits.permute(0, 2, 3, 1)[partial]
        others = pixels.scatter(1, excluded[partial][:, None], float("-inf"))
        total = total + (pixels.logsumexp(1) - others.logsumexp(1)).sum()
    return total / (target != -1).sum().clamp(min=1)


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
    for channel in torch.unique(target[target >= 0]).tolist():
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
