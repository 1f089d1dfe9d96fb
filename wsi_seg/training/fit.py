"""The training run itself, on Lightning."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from wsi_seg.card import WEIGHTS_NAME
from wsi_seg.errors import MissingExtraError, OutputError
from wsi_seg.models.network import build_network, load_encoder, load_weights, read_weights, save_network
from wsi_seg.models.registry import find_model
from wsi_seg.training.config import TrainConfig, resolved
from wsi_seg.training.datasets import Crops, Dataset, load_dataset
from wsi_seg.training.holdout import describe_holdout, evaluate_holdout

CONFIG_NAME = "train.yaml"


def train(config: TrainConfig, out: Path) -> Path:
    """Train a model and write it as a model folder.

    Args:
        config: see `read_train_config`.
        out: folder that receives `model.safetensors`, `card.json` with held-out metrics, `train.yaml`,
            `checkpoints/` and `log/`.

    Returns:
        `out`.

    Raises:
        MissingExtraError: Lightning is not installed.
        DataError: training data are missing or inconsistent.
        ModelError: the network cannot be built or the encoder's weights do not fit.
        OutputError: `out` cannot be written.
    """
    if importlib.util.find_spec("lightning") is None:
        raise MissingExtraError("training needs Lightning; install it with: pip install 'wsi-seg[train]'")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    datasets = [load_dataset(d, config) for d in config.datasets]
    network = build_network(config.model)
    if config.encoder_weights is not None:
        load_encoder(network, config.data_dir / config.encoder_weights)
    if config.start_from is not None:
        weights = find_model(config.start_from) / WEIGHTS_NAME
        load_weights(network, config.model, read_weights(weights), weights)
    _start_folder(out, config)
    started = time.monotonic()
    fit(network, datasets, config, out)
    seconds = time.monotonic() - started
    training = {"steps": config.max_steps, "batch": config.batch, "seconds": round(seconds)}
    metrics = {**config.model.metrics, "training": training}
    # Saved before it is evaluated: whatever goes wrong from here on, the training is not lost.
    save_network(network, config.model.model_copy(update={"metrics": metrics}), out)
    metrics["holdout"] = evaluate_holdout(network, datasets, config)
    held_out = "; ".join(filter(None, (config.model.held_out, describe_holdout(metrics["holdout"]))))
    config.model.model_copy(update={"metrics": metrics, "held_out": held_out}).write(out)
    return out


def fit(network: nn.Module, datasets: list[Dataset], config: TrainConfig, out: Path) -> None:
    """Fit `network` in place."""
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    from wsi_seg.training.task import SegmentationTask

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no notes on hardware, no tips
    checkpoint = ModelCheckpoint(
        dirpath=out / "checkpoints",
        every_n_train_steps=config.checkpoint_steps,
        filename="{step}",
        save_last=True,
    )
    trainer = lightning.Trainer(
        accelerator=config.accelerator,
        devices=1,
        precision=cast(Any, config.precision),
        max_steps=config.max_steps,
        logger=CSVLogger(out, name="log", version=""),
        callbacks=[checkpoint],
        log_every_n_steps=10,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(SegmentationTask(network, config), _loader(datasets, config))


def _start_folder(out: Path, config: TrainConfig) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / CONFIG_NAME).write_text(yaml.safe_dump(resolved(config), sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{out}: cannot write there ({error.strerror})") from error


class _CropDataset(IterableDataset[tuple[Any, Any]]):
    def __init__(self, crops: Crops) -> None:
        self._crops = crops

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return iter(self._crops)


def _loader(datasets: list[Dataset], config: TrainConfig) -> DataLoader[tuple[Any, Any]]:
    crops = Crops(datasets, config.crop, config.augmentation.scale, config.seed)
    return DataLoader(_CropDataset(crops), batch_size=config.batch, collate_fn=_collate)


def _collate(items: list[tuple[Any, Any]]) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(np.stack([image for image, _ in items]))
    targets = torch.from_numpy(np.stack([target for _, target in items]))
    return images.permute(0, 3, 1, 2), targets.long()
