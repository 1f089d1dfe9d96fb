"""Metrics on the parts of the data that were held out of training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wsi_seg.card import ModelCard
from wsi_seg.geometry import Box
from wsi_seg.metrics import Counts, count_classes, mean_score, rounded
from wsi_seg.models.network import normalized
from wsi_seg.plan import choose_grid
from wsi_seg.training.config import DatasetConfig, TrainConfig
from wsi_seg.training.datasets import Dataset, Region

IGNORED_CODE = 255


def evaluate_holdout(network: nn.Module, datasets: Sequence[Dataset], config: TrainConfig) -> dict[str, Any]:
    """Return the metrics of every data set with held-out pixels, as JSON values, by its name.

    Each has a `note`, the sentence that says what was held out.
    """
    network.eval()
    scores = {}
    for source, dataset in zip(config.datasets, datasets, strict=True):
        if dataset.heldout:
            counts = reduce(add, (count_region(network, r, dataset, config) for r in dataset.heldout))
            scores[dataset.name] = {"note": holdout_note(source), **score(counts)}
    return scores


def describe_holdout(scores: dict[str, Any]) -> str:
    """Return the Dice of every class in one line, "" where nothing was held out."""
    parts = [
        f"{name}: " + ", ".join(f"{c} {s['dice']:.2f}" for c, s in score["classes"].items())
        for name, score in scores.items()
    ]
    return f"held-out Dice {'; '.join(parts)}" if parts else ""


def holdout_note(source: DatasetConfig) -> str:
    """Return the sentence that says what was held out of a data set."""
    known = "" if source.known_class is None else f"; its masks know only {source.known_class} and the rest"
    if source.holdout == 1 or source.weight == 0:
        return f"no part of this data set was trained on{known}"
    return (
        f"the right-most {source.holdout:.0%} of each image, never trained on; the rest of the same images, "
        f"and so of the same patients, was, which makes this optimistic{known}"
    )


def count_region(network: nn.Module, region: Region, dataset: Dataset, config: TrainConfig) -> Counts:
    """Count the pixels of one region by true and predicted class.

    Where only one class is known the two rows are this class and everything else.
    """
    card = config.model
    predicted = predict_channels(network, card, region.image)
    if dataset.known_class is None:
        truth = np.where(region.target >= 0, region.target, IGNORED_CODE).astype(np.uint8)
        channels = tuple(range(len(card.classes)))
        return count_classes(truth, predicted, channels, tuple(c.name for c in card.classes))
    channel = card.codes.index(config.code_of(dataset.known_class))
    truth = (region.target == channel).astype(np.uint8)
    name = dataset.known_class
    return count_classes(truth, (predicted == channel).astype(np.uint8), (1, 0), (name, f"not {name}"))


def predict_channels(network: nn.Module, card: ModelCard, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the most probable output channel of every pixel.

    Args:
        network: in evaluation mode.
        card: its card.
        image: uint8 RGB (H, W, 3) at the model's resolution. It is cut into tiles as for
            a slide, their overlap serving as context only; beyond the image it is mirrored.

    Returns:
        uint8 (H, W).
    """
    grid = choose_grid(card)
    height, width = image.shape[:2]
    box = Box(0, 0, width, height)
    cover = [tile.input for tile in grid.tiles_with_core_in(box)]
    bottom, right = max(b.y1 for b in cover) - height, max(b.x1 for b in cover) - width
    padded = np.pad(image, ((grid.halo, bottom), (grid.halo, right), (0, 0)), mode="symmetric")
    out = np.empty((height, width), np.uint8)
    device = next(network.parameters()).device
    for tile in grid.tiles_with_core_in(box):
        crop = padded[tile.input.shifted(grid.halo, grid.halo).within(Box(0, 0, *padded.shape[1::-1]))]
        with torch.inference_mode():
            logits = network(normalized(torch.from_numpy(crop[None]).to(device), card.normalization))
        channels = logits[0].argmax(0).to(torch.uint8).cpu().numpy()
        core = tile.core.intersect(box)
        out[core.within(box)] = channels[core.within(tile.input)]
    return out


def score(counts: Counts) -> dict[str, Any]:
    """Return the metrics of `counts` as JSON values; classes without truth have none."""
    kept = [i for i, support in enumerate(counts.support) if support > 0]
    classes = {
        counts.names[i]: {
            "dice": rounded(counts.dice[i]),
            "iou": rounded(counts.iou[i]),
            "precision": rounded(counts.precision[i]),
            "recall": rounded(counts.recall[i]),
            "mcc": rounded(counts.mcc[i]),
            "pixels": int(counts.support[i]),
        }
        for i in kept
    }
    return {
        "accuracy": rounded(counts.accuracy),
        "mean_dice": rounded(mean_score(counts.dice)),
        "mean_iou": rounded(mean_score(counts.iou)),
        "classes": classes,
    }
