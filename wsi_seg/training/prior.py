"""Prior shift: from the shares of classes in training crops to those in the tissue that a model is for.

Crops are drawn evenly over classes, so a network expects rare classes too often. With p the network's
probabilities, those for other shares are p · prior / share, scaled to add up to 1 (Saerens, Latinne and
Decaestecker 2002, doi:10.1162/089976602753284446). For a softmax that adds log(prior / share) to the logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wsi_seg.inference.models.network import HEAD
from wsi_seg.training.config import TrainConfig
from wsi_seg.training.crops import TrainingCrops
from wsi_seg.training.sampling import CropSource

IS_NOT = -2  # target of a pixel that is not of channel 0; one less for each channel more
CROPS = 256  # looked at to find the shares: those that the first epoch begins with


@dataclass(frozen=True, slots=True)
class PriorShift:
    """Shift from the shares of classes in crops to the prior of a run."""

    crop_shares: dict[str, float]
    """By class name; classes without a pixel are left out."""
    added: NDArray[np.float64]
    """Numbers (C,) that are added to the logits."""


def prior_shift(source: CropSource, config: TrainConfig, channels: tuple[int, ...] | None) -> PriorShift:
    """Return the shift to `config.prior`, from `config.crop_shares` where they are given.

    Args:
        source: of the crops.
        config: of the run.
        channels: output channels that take part; None: all.
    """
    names = [c.name for c in config.model.classes]
    if config.crop_shares is not None:
        shares = np.array([config.crop_shares.get(name, 0.0) for name in names])
    else:
        shares = crop_shares(source, config, channels)
    told = {name: round(share, 4) for name, share in zip(names, shares.tolist(), strict=True) if share}
    return PriorShift(told, log_ratios(shares, config))


def crop_shares(
    source: CropSource, config: TrainConfig, channels: tuple[int, ...] | None
) -> NDArray[np.float64]:
    """Return the share (C,) of each class in the pixels of training crops about which something is known.

    A pixel that is only known not to be of a class (`known_class` of a data set) counts for the others, in
    proportion to their known pixels: without it the one class would seem far too frequent.

    Args:
        source: of the crops.
        config: of the run.
        channels: output channels that take part; None: all. Others have a share of 0.
    """
    is_class, is_not = np.zeros((2, len(config.model.classes)))
    crops = TrainingCrops(source, config)
    for index in range(CROPS):
        targets = crops[0, index].targets[0].numpy()
        is_class += np.bincount(targets[targets >= 0], minlength=len(is_class))
        is_not += np.bincount(IS_NOT - targets[targets <= IS_NOT], minlength=len(is_not))
    if channels is not None:
        others = np.setdiff1d(np.arange(len(is_class)), channels)
        is_class[others] = is_not[others] = 0
    counts = is_class.copy()
    for channel in np.flatnonzero(is_not).tolist():
        rest = is_class.copy()
        rest[channel] = 0
        counts += is_not[channel] * rest / max(1.0, rest.sum())
    shares: NDArray[np.float64] = counts / max(1.0, counts.sum())
    return shares


def log_ratios(shares: NDArray[np.float64], config: TrainConfig) -> NDArray[np.float64]:
    """Return log(prior / share) for each class (C,), 0 for those without a prior or without a pixel in crops.

    The prior is scaled to the sum of the shares of its classes: others keep theirs.
    """
    prior = np.zeros(len(shares))
    for name, share in (config.prior or {}).items():
        prior[config.channel_of(name)] = share
    moved = (prior > 0) & (shares > 0)
    ratios = np.zeros(len(shares))
    if moved.any():
        prior *= shares[moved].sum() / prior[moved].sum()
        ratios[moved] = np.log(prior[moved] / shares[moved])
    return ratios


def move_logits(network: nn.Module, added: NDArray[np.float64]) -> None:
    """Add numbers (C,) to the logits of a network of segmentation-models-pytorch, by the bias of its head."""
    bias = network.get_parameter(f"{HEAD}.0.bias")
    with torch.no_grad():
        bias.add_(torch.from_numpy(added).to(bias))
