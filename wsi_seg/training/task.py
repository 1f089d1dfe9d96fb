"""One optimisation step as a Lightning module. Imported on use, since Lightning is an optional dependency."""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from wsi_seg.card import Normalization
from wsi_seg.training.augment import Augmentation
from wsi_seg.training.config import TrainConfig
from wsi_seg.training.datasets import IGNORED, not_class
from wsi_seg.training.losses import partial_cross_entropy, soft_dice_loss, squared_difference


class SegmentationTask(lightning.LightningModule):
    """Takes batches of uint8 RGB (N, 3, H, W) and int64 targets (N, H, W)."""

    def __init__(self, network: nn.Module, config: TrainConfig) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self._config = config
        self._augment = Augmentation(config.augmentation, blank_target(config), config.seed)

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        """Return the loss of one batch."""
        kind = batch[0].device.type
        with torch.autocast(kind, enabled=False):
            images, targets = self._augment.blank(batch[0].float() / 255, batch[1])
            if self._config.consistency:
                images, targets = _twice(images), _twice(targets)
            images = _standardized(self._augment.recolour(images), self._config.model.normalization)
        logits = self.network(images.contiguous(memory_format=torch.channels_last))
        with torch.autocast(kind, enabled=False):
            cross_entropy = partial_cross_entropy(logits, targets)
            dice = soft_dice_loss(logits, targets)
            difference = squared_difference(logits) if self._config.consistency else logits.new_zeros(())
        self.log_dict({"cross_entropy": cross_entropy, "dice": dice, "difference": difference})
        return cross_entropy + self._config.dice_weight * dice + self._config.consistency * difference

    def configure_optimizers(self) -> Any:
        """Return AdamW with one learning-rate cycle over the run."""
        config = self._config
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: one_cycle(s, config.max_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _twice(batch: Tensor) -> Tensor:
    """Return the first half of a batch followed by itself."""
    half = batch[: max(1, len(batch) // 2)]
    return torch.cat([half, half])


def blank_target(config: TrainConfig) -> int:
    """Return the target of blank glass."""
    if config.blank_is_not is None:
        return IGNORED
    return not_class(config.model.codes.index(config.code_of(config.blank_is_not)))


def one_cycle(step: int, max_steps: int) -> float:
    """Return the factor of the peak learning rate: linear rise over a tenth, then a cosine to zero."""
    rise = max(1, max_steps // 10)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, max_steps - rise))))


def _standardized(images: Tensor, normalization: Normalization) -> Tensor:
    mean, std = torch.tensor(normalization.mean), torch.tensor(normalization.std)
    return (images - mean.to(images)[:, None, None]) / std.to(images)[:, None, None]
