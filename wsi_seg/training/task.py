"""One optimization step as a Lightning module. Imported on use, since Lightning is an optional dependency."""

from __future__ import annotations

import math
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from wsi_seg.datasets.region import IGNORED
from wsi_seg.evaluation.calibration import STEP, TEMPERATURES
from wsi_seg.inference.models.network import forward, normalized
from wsi_seg.training.config import OptimizerConfig, TrainConfig
from wsi_seg.training.crops import CropBatch
from wsi_seg.training.losses import (
    cross_entropy,
    focal_loss,
    known_log_probability,
    losses_by_temperature,
    soft_dice_loss,
    squared_difference,
    weighted_mean,
)

BETAS = (0.9, 0.999)
MOMENTUM = 0.9


class SegmentationTask(lightning.LightningModule):
    """Fits a network to batches; logs the terms of the loss, and Dice, accuracy and loss of validation."""

    _channels: Tensor
    """int64 (K,): output channels that take part."""
    _positions: Tensor
    """int64 (C,): where each channel stands among them, IGNORED for the others."""
    _added: Tensor
    """float32 (C, 1, 1): what the finished model adds to its logits."""

    def __init__(
        self,
        network: nn.Module,
        config: TrainConfig,
        class_weights: Tensor | None,
        total_steps: int,
        assessed: tuple[int, ...] | None = None,
        added: NDArray[np.float64] | None = None,
    ) -> None:
        """Take the weights (C,) of pixels by class, and the steps of the whole run for the schedule.

        `assessed` names the output channels that take part, None: all. `added` (C,) is what the finished
        model adds to its logits: validation measures that model, and the temperature is its own.
        """
        super().__init__()
        moved = torch.zeros(len(config.model.classes)) if added is None else torch.from_numpy(added).float()
        self.register_buffer("_added", moved[:, None, None], persistent=False)
        channels = tuple(range(len(config.model.classes))) if assessed is None else assessed
        positions = torch.full((len(config.model.classes),), IGNORED)
        positions[list(channels)] = torch.arange(len(channels))
        self.register_buffer("_channels", torch.tensor(channels), persistent=False)
        self.register_buffer("_positions", positions, persistent=False)
        if class_weights is not None:
            class_weights = class_weights[list(channels)]
        self.network = network.to(memory_format=torch.channels_last)
        self._config = config
        self._class_weights = class_weights
        self._total_steps = total_steps
        self.temperature: float | None = None
        """Of `TEMPERATURES`, the one of the least loss on the validation part; None before there is one."""

    # --- training -------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Freeze or unfreeze, and seed dropout by the epoch, so that a run can be resumed."""
        config = self._config
        torch.manual_seed(config.seed * 100_003 + self.current_epoch)
        if config.freeze_encoder:
            unfrozen = config.unfreeze_epoch is not None and self.current_epoch >= config.unfreeze_epoch
            self._encoder.requires_grad_(unfrozen)

    def on_train_batch_start(self, _batch: Any, _index: int) -> None:
        """Keep the statistics of a frozen encoder; Lightning puts all modules into training mode."""
        frozen = self._config.freeze_encoder and not next(self._encoder.parameters()).requires_grad
        self._encoder.train(not frozen)

    def on_train_epoch_end(self) -> None:
        """Write the logs before the checkpoint of this epoch is written."""
        for logger in self.loggers:
            logger.save()

    @property
    def _encoder(self) -> nn.Module:
        return self.network.get_submodule("encoder")

    def training_step(self, batch: CropBatch, _index: int) -> Tensor:
        """Return the loss of one batch."""
        logits, label_logits = forward(self.network, self._inputs(batch))
        logits, batch = self._assessed(logits, batch)
        terms = self._terms(logits, label_logits, batch)
        if self._config.loss.consistency:
            logits = terms.pop("logits")
            terms["consistency"] = self._config.loss.consistency * squared_difference(logits)
        terms.pop("logits", None)
        loss = torch.stack(list(terms.values())).sum()
        self.log_dict({"loss": loss, **terms})
        return loss

    def _inputs(self, batch: CropBatch) -> Tensor:
        return normalized(batch.images.permute(0, 2, 3, 1), self._config.model.normalization)

    def _assessed(self, logits: Tensor, batch: CropBatch) -> tuple[Tensor, CropBatch]:
        """Return the logits of the channels that take part, and targets that number them."""
        if len(self._channels) == logits.shape[1]:
            return logits, batch
        targets = batch.targets
        partial = self._positions[(-2 - targets).clamp(min=0)]
        partial = torch.where(partial == IGNORED, IGNORED, -2 - partial)
        known = torch.where(targets >= 0, self._positions[targets.clamp(min=0)], IGNORED)
        return logits[:, self._channels], batch._replace(targets=torch.where(targets <= -2, partial, known))

    def _terms(self, logits: Tensor, label_logits: Tensor | None, batch: CropBatch) -> dict[str, Tensor]:
        """Return the weighted terms of the loss, and the logits."""
        weights = self._config.loss
        terms = {"logits": logits}
        with torch.autocast(logits.device.type, enabled=False):
            log_p = known_log_probability(logits, batch.targets)
            if weights.cross_entropy:
                term = cross_entropy(log_p, batch.targets, self._class_weights)
                terms["cross_entropy"] = weights.cross_entropy * term
            if weights.focal:
                term = focal_loss(log_p, batch.targets, weights.focal_gamma, self._class_weights)
                terms["focal"] = weights.focal * term
            if weights.dice:
                terms["dice"] = weights.dice * soft_dice_loss(logits, batch.targets)
            if weights.image_label and label_logits is not None and bool((batch.labels >= 0).any()):
                term = functional.cross_entropy(label_logits.float(), batch.labels, ignore_index=-1)
                terms["image_label"] = weights.image_label * term
        return terms

    # --- validation -----------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Start counting."""
        # True positives, false positives and false negatives per channel, the four sums of a step, and the
        # loss at each temperature.
        length = 3 * len(self._channels) + 4
        length += len(TEMPERATURES)
        self._validation_counts = torch.zeros(length, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: CropBatch, _index: int) -> None:
        """Count what is right and wrong; nothing is averaged over batches."""
        logits, label_logits = forward(self.network, self._inputs(batch))
        logits, batch = self._assessed(logits.float() + self._added, batch)
        known = batch.targets != -1
        loss = -known_log_probability(logits, batch.targets)
        loss_sum = weighted_mean(loss, batch.targets) * known.sum()
        right_labels = labels = torch.zeros((), device=logits.device)
        if label_logits is not None:
            has_label = batch.labels >= 0
            labels = has_label.sum()
            right_labels = ((label_logits.argmax(1) == batch.labels) & has_label).sum()
        sums = torch.stack([loss_sum.double(), known.sum().double(), right_labels.double(), labels.double()])
        counts = _count(logits.argmax(1), batch.targets, logits.shape[1])
        losses = losses_by_temperature(logits, batch.targets, TEMPERATURES, STEP)
        self._validation_counts += torch.cat([counts, sums, losses.double()])

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of all validation pixels together."""
        counts = self.trainer.strategy.reduce(self._validation_counts.clone(), reduce_op="sum")
        channels = len(self._channels)
        tp, fp, fn = counts[: 3 * channels].view(3, channels)
        loss, known, right_labels, labels, *losses = counts[3 * channels :]
        self.temperature = TEMPERATURES[int(torch.stack(losses).argmin())]
        support = tp + fn > 0
        dice = 2 * tp[support] / (2 * tp + fp + fn)[support]
        metrics = {"validation_loss": loss / known.clamp(min=1)}
        if bool(support.any()):
            metrics["validation_dice"] = dice.mean()
        if labels > 0:
            metrics["validation_label_accuracy"] = right_labels / labels
        self.log_dict(metrics)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the temperature with the weights that it belongs to."""
        checkpoint["temperature"] = self.temperature

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the temperature back."""
        self.temperature = checkpoint["temperature"]

    # --- optimization ---------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Return the optimizer and a schedule of its learning rate over the run."""
        config = self._config.optimizer
        encoder = list(self._encoder.parameters())
        inside = {id(p) for p in encoder}
        rest = [p for p in self.network.parameters() if id(p) not in inside]
        groups = [
            {"params": rest, "lr": config.learning_rate},
            {"params": encoder, "lr": config.learning_rate * config.encoder_factor},
        ]
        optimizer = _optimizer(config, groups)
        total, kind = self._total_steps, config.schedule
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(kind, step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _optimizer(config: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if config.name == "adamw":
        return torch.optim.AdamW(groups, betas=BETAS, weight_decay=config.weight_decay)
    if config.name == "adam":
        return torch.optim.Adam(groups, betas=BETAS, weight_decay=config.weight_decay)
    return torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True, weight_decay=config.weight_decay)


def rate_factor(kind: str, step: int, total_steps: int) -> float:
    """Return the factor of the peak learning rate at a step, see `OptimizerConfig.schedule`."""
    if kind == "constant":
        return 1.0
    rise = max(1, total_steps // 10) if kind == "one_cycle" else 0
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, total_steps - rise))))


def _count(predicted: Tensor, target: Tensor, channels: int) -> Tensor:
    """Return true positives, false positives and false negatives of each channel, float64 (3 · channels,).

    Of a pixel that is only known not to be c, a prediction of c is a false positive; any other is nothing.
    """
    complete = target >= 0
    right = complete & (predicted == target)
    wrong = complete & ~right
    partly = (target <= -2) & (predicted == -2 - target)
    counts = [
        torch.bincount(values, minlength=channels)
        for values in (target[right], torch.cat([predicted[wrong], predicted[partly]]), target[wrong])
    ]
    return torch.cat(counts).double()
