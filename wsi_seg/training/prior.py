"""Prior shift: from the shares of classes in training crops to those in the tissue that a model is for.

Crops are drawn evenly over classes, so a network expects rare classes too often. With p the network's
probabilities, those for other shares are p · prior / share, scaled to add up to 1 (Saerens, Latinne and
Decaestecker 2002, doi:10.1162/089976602753284446). For a softmax that adds log(prior / share) to the logits.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wsi_seg.inference.models.network import HEAD
from wsi_seg.training.config import TrainConfig
from wsi_seg.training.crops import TrainingCrops
from wsi_seg.training.sampling import CropSource

CROPS = 256  # looked at to find the shares: those that the first epoch begins with


def move_to_prior(
    network: nn.Module, source: CropSource, config: TrainConfig, channels: tuple[int, ...] | None
) -> dict[str, float]:
    """Move the logits of a trained network to `config.prior`, and return the shares in crops by class name.

    Args:
        network: of segmentation-models-pytorch; changed in place.
        source: of the crops.
        config: of the run.
        channels: output channels that take part; None: all.
    """
    shares = crop_shares(source, config, channels)
    move_logits(network, log_ratios(shares, config))
    names = [c.name for c in config.model.classes]
    return {name: round(share, 4) for name, share in zip(names, shares.tolist(), strict=True) if share}


def crop_shares(
    source: CropSource, config: TrainConfig, channels: tuple[int, ...] | None
) -> NDArray[np.float64]:
    """Return the share (C,) of each class in the known pixels of training crops.

    Args:
        source: of the crops.
        config: of the run.
        channels: output channels that take part; None: all. Others have a share of 0.
    """
    counts: NDArray[np.float64] = np.zeros(len(config.model.classes))
    crops = TrainingCrops(source, config)
    for index in range(CROPS):
        targets = crops[0, index].targets[0].numpy()
        counts += np.bincount(targets[targets >= 0], minlength=len(counts))
    if channels is not None:
        counts[np.setdiff1d(np.arange(len(counts)), channels)] = 0
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
