"""The training run itself, on Lightning."""

from __future__ import annotations

import csv
import importlib.util
import logging
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from wsi_seg.core.card import WEIGHTS_NAME, ModelCard, read_card
from wsi_seg.core.errors import MissingExtraError, ModelError, UsageError
from wsi_seg.core.files import atomic_path
from wsi_seg.inference.models.network import (
    build_smp,
    load_encoder,
    load_weights,
    read_weights,
    save_network,
)
from wsi_seg.inference.models.registry import find_model
from wsi_seg.training.assessed import card_of_data, not_assessed
from wsi_seg.training.config import TrainConfig
from wsi_seg.training.crops import training_loader, validation_loader
from wsi_seg.training.data import TrainingData, class_weights, load_data
from wsi_seg.training.depthwise import depthwise_in_float32
from wsi_seg.training.folder import BEST, CHECKPOINTS, LAST, TrainingFolder
from wsi_seg.training.prior import PriorShift, log_ratios, move_logits, prior_shift
from wsi_seg.training.progress import LEAST_WRITES, LOG, METRICS

log = logging.getLogger(__name__)


Report = Callable[[str], None]
"""Called with a line on what is trained on, and without a terminal with a line after each epoch."""


def train(
    config: TrainConfig,
    out: Path,
    resume: bool = False,
    overwrite: bool = False,
    report: Report = log.info,
) -> Path:
    """Train a model and write it as a model folder.

    Args:
        config: see `read_train_config`.
        out: folder that receives `model.safetensors` and `card.json`; `train.yaml`, `data.json` and
            `environment.json`, from which the run can be repeated; `checkpoints/` and `log/`.
        resume: resume after the last whole epoch of an interrupted run of the same configuration and data;
            the weights come out as if it had not been interrupted (on the CPU, with one process and as many
            threads).
        overwrite: replace what is in `out`.
        report: see `Report`.

    Returns:
        `out`.

    Raises:
        MissingExtraError: Lightning is not installed.
        DataError: training data are missing or inconsistent.
        ModelError: the network cannot be built or the encoder's weights do not fit.
        OutputError: `out` cannot be written, or holds another run.
        ClaimedError: another training is at work there.
    """
    if importlib.util.find_spec("lightning") is None:
        raise MissingExtraError("training needs Lightning; install it with: pip install 'wsi-seg[train]'")
    from lightning.pytorch.utilities import rank_zero_only

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    data = load_data(config)
    card = card_of_data(data, config)
    torch.manual_seed(config.seed)
    network = start_network(config)
    folder = TrainingFolder(out, writes=getattr(rank_zero_only, "rank", 0) == 0)
    with folder.held():
        checkpoint = folder.begin(config, data, resume, overwrite)
        if folder.finished:
            log.info("%s: the training is finished", out)
        else:
            _train(network, data, config, folder, checkpoint, card, report)
    return out


def _train(
    network: nn.Module,
    data: TrainingData,
    config: TrainConfig,
    folder: TrainingFolder,
    checkpoint: Path | None,
    card: ModelCard,
    report: Report,
) -> None:
    """Fit the network, and write it with its card; see `fit`."""
    for note in (*data.notes, *not_assessed(card, config)) if folder.writes else ():
        report(note)
    started = time.monotonic()
    channels = card.assessed_channels
    shift = None if config.prior is None else prior_shift(data.crops, config, channels)
    trainer, temperature = fit(network, data, config, folder, checkpoint, report, channels, shift)
    done = {"epochs": trainer.current_epoch, "steps": trainer.global_step, "batch": config.batch}
    training = {**done, "devices": trainer.world_size, "seconds": round(time.monotonic() - started)}
    if trainer.is_global_zero:
        chosen = config.temperature or temperature or card.temperature
        if shift is not None:
            move_logits(network, shift.added)
            training["crop_shares"] = shift.crop_shares
        made = {"metrics": {**card.metrics, "training": training}, "temperature": chosen}
        folder.confirm()
        save_network(network, card.model_copy(update=made), folder.path)
        folder.finish()


def start_network(config: TrainConfig) -> nn.Module:
    """Build the network with the weights that the configuration starts from; raises as `train`."""
    weights = config.encoder_weights
    from_file = weights is not None and weights.endswith(".safetensors")
    try:
        network = build_smp(config.model, None if from_file else weights)
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"encoder_weights {weights!r}: cannot be downloaded ({reason})") from error
    if from_file:
        load_encoder(network, config.data_dir / str(weights))
    if config.start_from is not None:
        folder = find_model(config.start_from)
        path = folder / WEIGHTS_NAME
        load_weights(network, config.model, read_weights(path), path)
        shares = read_card(folder).metrics.get("training", {}).get("crop_shares")
        if config.prior is not None and shares:
            names = [c.name for c in config.model.classes]
            move_logits(network, -log_ratios(np.array([shares.get(name, 0.0) for name in names]), config))
    return network


def fit(
    network: nn.Module,
    data: TrainingData,
    config: TrainConfig,
    folder: TrainingFolder,
    checkpoint: Path | None,
    report: Report = log.info,
    assessed: tuple[int, ...] | None = None,
    shift: PriorShift | None = None,
) -> tuple[Any, float | None]:
    """Fit `network` in place; return the trainer, and the temperature of the validation part if there is one.

    Args:
        network: from `start_network`.
        data: from `load_data`.
        config: the run.
        folder: receives `checkpoints/` and `log/`; held by this process.
        checkpoint: the state to resume from; None: from the start.
        report: see `Report`.
        assessed: output channels that take part, from the card; None: all.
        shift: of the finished model, so that validation measures with it, too.
    """
    from lightning.pytorch.loggers import CSVLogger

    from wsi_seg.training.task import SegmentationTask

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no notes on hardware, no tips
    out = folder.path
    earlier = [] if checkpoint is None else logged_until(out / LOG, checkpoint)
    # Starts a new table, which is written often enough to be watched.
    batches = config.epochs * data.crops_per_epoch // config.batch
    table = CSVLogger(out, LOG, version="", flush_logs_every_n_steps=max(1, batches // LEAST_WRITES))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The `srun` command is available", module="lightning")  # not meant
        warnings.filterwarnings(
            "ignore", "Experiment logs directory", module="lightning"
        )  # its rows are kept
        trainer = _trainer(config, folder, table, _callbacks(config, out, bool(data.validation), report))
        if trainer.is_global_zero:
            table.experiment.metrics.extend(earlier)
    if config.unfreeze_epoch is not None and trainer.world_size > 1:
        raise UsageError("unfreeze_epoch works on one device only; set devices: 1")
    # Steps are those of each device; regions are shared out among the devices.
    length = data.crops_per_epoch * (trainer.world_size if config.steps_per_epoch is not None else 1)
    steps = -(-length // (config.batch * trainer.world_size)) * config.epochs
    if trainer.strategy.root_device.type == "cpu" and config.precision == "bf16-mixed":
        depthwise_in_float32(network)
    weights = class_weights(data, config)
    by_class = None if weights is None else torch.from_numpy(weights)
    added = None if shift is None else shift.added
    task = SegmentationTask(network, config, by_class, steps, assessed, added)
    validation = validation_loader(data.validation, config) if data.validation else None
    with warnings.catch_warnings():
        # Advice on what is meant so: no validation part, few loader workers.
        warnings.filterwarnings("ignore", module="lightning")
        path = None if checkpoint is None else str(checkpoint)
        trainer.fit(task, training_loader(data.crops, config, length), validation, ckpt_path=path)
    if config.keep == "best" and data.validation:
        _take_best(task, out / CHECKPOINTS / BEST)
    return trainer, task.temperature


def _take_best(task: Any, best: Path) -> None:
    """Load the weights and the temperature of the best epoch, if there is one."""
    if best.is_file():
        state = torch.load(best, map_location="cpu", weights_only=True)
        task.load_state_dict(state["state_dict"])
        task.on_load_checkpoint(state)


def _trainer(config: TrainConfig, folder: TrainingFolder, table: Any, callbacks: list[Any]) -> Any:
    """Return the trainer of a run, which logs to a CSV table and to TensorBoard.

    Raises:
        UsageError: the device is not there.
    """
    import lightning
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.loggers import TensorBoardLogger

    new_trainer = partial(
        lightning.Trainer,
        accelerator=config.accelerator,
        devices=config.devices,
        # Encoders hold layers that a shallow decoder leaves unused.
        strategy="auto" if config.devices == 1 else "ddp_find_unused_parameters_true",
        precision=cast(Any, config.precision),
        max_epochs=config.epochs,
        logger=[table, TensorBoardLogger(folder.path, LOG, version="tensorboard")],
        callbacks=callbacks,
        plugins=[_atomic_checkpoints(folder)],
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
    )
    try:
        return new_trainer()
    except (MisconfigurationException, ValueError, ModuleNotFoundError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".!")
        raise UsageError(
            f"accelerator {config.accelerator!r}, devices {config.devices!r}: {reason}; "
            "set accelerator: auto and devices: 1"
        ) from error


def logged_until(folder: Path, checkpoint: Path) -> list[dict[str, Any]]:
    """Return the rows of an interrupted run's `metrics.csv` up to a checkpoint."""
    path = folder / METRICS
    if not path.is_file():
        return []
    last = int(torch.load(checkpoint, map_location="cpu", weights_only=True)["epoch"])
    with path.open(encoding="utf-8", newline="") as file:
        rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [row for row in rows if int(row["epoch"]) <= last]


def _callbacks(config: TrainConfig, out: Path, validated: bool, report: Report) -> list[Any]:
    from lightning.pytorch.callbacks import (
        EarlyStopping,
        EMAWeightAveraging,
        ModelCheckpoint,
        RichProgressBar,
    )

    mode = "min" if config.monitor == "validation_loss" else "max"
    callbacks: list[Any] = []
    if sys.stderr.isatty():
        callbacks.append(RichProgressBar(leave=True, console_kwargs={"stderr": True}))
    else:
        callbacks.append(_epoch_lines(config.epochs, report))
    if config.ema_decay is not None:
        callbacks.append(EMAWeightAveraging(decay=config.ema_decay))
    if config.average_epochs is not None:
        callbacks.append(_epoch_average(config.epochs - config.average_epochs))
    if validated and config.patience is not None:
        callbacks.append(EarlyStopping(config.monitor, patience=config.patience, mode=mode))
    # The best before the last: a run killed in between repeats the epoch, and so finds its best again.
    monitored = [config.monitor] if validated and config.keep == "best" else []
    for name, monitor in [*((BEST, m) for m in monitored), (LAST, None)]:
        checkpoint = ModelCheckpoint(
            out / CHECKPOINTS,
            Path(name).stem,
            monitor=monitor,
            mode=mode,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        callbacks.append(checkpoint)
    return callbacks


def _epoch_average(first: int) -> Any:
    """Return a callback that keeps the mean of the weights at the ends of all epochs from `first` on.

    Before that it keeps the weights themselves, so that validation always judges what would be the result.
    """
    from lightning.pytorch.callbacks import WeightAveraging

    def mean(kept: torch.Tensor, current: torch.Tensor, epoch: torch.Tensor) -> torch.Tensor:
        return kept + (current - kept) / (epoch - first + 1).clamp(min=1)

    class EpochAverage(WeightAveraging):
        """Takes the weights after the last step of each epoch, before they are validated."""

        def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
            return step_idx is not None and self._last_of_epoch

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            self._last_of_epoch = trainer.is_last_batch
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    return EpochAverage(avg_fn=mean)


def _epoch_lines(epochs: int, report: Report) -> Any:
    from lightning.pytorch.callbacks import Callback

    class EpochLines(Callback):
        """Reports a line after each epoch: mean loss, scores of the validation part, seconds."""

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            self._started = time.monotonic()
            self._losses: list[torch.Tensor] = []

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            self._losses.append(outputs["loss"].detach())

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.is_global_zero:
                return
            loss = float(torch.stack(self._losses).mean())
            scores = [
                f"{name.replace('_', ' ')} {float(value):.4f}"
                for name, value in trainer.callback_metrics.items()
                if name.startswith("validation_")
            ]
            seconds = time.monotonic() - self._started
            line = ", ".join([f"loss {loss:.4f}", *scores, f"{seconds:.1f} s"])
            report(f"epoch {trainer.current_epoch + 1} of {epochs}: {line}")

    return EpochLines()


def _atomic_checkpoints(folder: TrainingFolder) -> Any:
    from lightning.pytorch.plugins.io import TorchCheckpointIO

    class AtomicCheckpointIO(TorchCheckpointIO):
        """Checkpoints written whole, while the folder is ours: a kill leaves the old or the new one."""

        def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
            folder.confirm()
            with atomic_path(Path(path)) as temporary:
                super().save_checkpoint(checkpoint, temporary, storage_options)

    return AtomicCheckpointIO()
