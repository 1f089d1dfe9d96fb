"""What a training run is, as data read from YAML."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from wsi_seg.card import ModelCard
from wsi_seg.classes import canonical_name
from wsi_seg.errors import UsageError
from wsi_seg.yaml_config import read_yaml, validated


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetConfig(_Section):
    """A folder of images (`rgbs*/`) and masks of the same names (`masks/`)."""

    name: str
    folder: Path
    """Relative to `data_dir`."""
    mpp: float = Field(gt=0)
    """Microns per pixel of its images and masks."""
    known_class: str | None = None
    """None: masks hold class codes. A class name: masks are 1 on this class and 0 on anything else,
    of which no more is known."""
    weight: float = Field(default=1.0, ge=0)
    """Share of the training crops, relative to the other data sets; 0 for evaluation only."""
    holdout: float = Field(default=0.0, ge=0, le=1)
    """Share of each image, its right-most columns, that is never trained on and evaluated at the end."""


class AugmentationConfig(_Section):
    """Strengths of random changes; 0 turns one off."""

    scale: float = Field(default=0.2, ge=0, lt=1)
    """Crops are magnified by a factor in [1 - scale, 1 / (1 - scale)]."""
    stain: float = Field(default=0.25, ge=0)
    """Gain of each stain's optical density is drawn from 1 ± stain, its offset from ± stain / 10."""
    color: float = Field(default=0.1, ge=0)
    """Brightness and contrast, each drawn from 1 ± color."""
    blur: float = Field(default=0.2, ge=0, le=1)
    """Share of crops that are slightly blurred."""
    chroma: float = Field(default=0.5, ge=0, le=1)
    """Share of crops whose colour, not brightness, is averaged over 2, 4 or 8 pixels."""
    jpeg: float = Field(default=0.5, ge=0, le=1)
    """Share of crops that are encoded as JPEG once more, with and without subsampled colour."""
    blank: float = Field(default=0.1, ge=0, le=1)
    """Share of crops of which a part is replaced by blank glass."""


class TrainConfig(_Section):
    """One training run."""

    model: ModelCard
    """The card of the model to be made; its metrics are completed by the run."""
    data_dir: Path = Path()
    """Folder under which data and encoder weights lie; relative to the configuration file."""
    encoder_weights: Path | None = None
    """Safetensors file of encoder weights to start from, relative to `data_dir`; None: random."""
    start_from: str | None = None
    """Model of the same architecture to start from: a bundled name or a model folder."""
    datasets: tuple[DatasetConfig, ...] = Field(min_length=1)
    ignored_codes: tuple[int, ...] = (0, 7, 15)
    """Mask codes of zero weight: BCSS outside_roi, exclude, undetermined."""
    blank_is_not: str | None = None
    """Class that blank glass surely is not; the loss knows no more about it. None: it knows nothing."""
    augmentation: AugmentationConfig = AugmentationConfig()
    crop: int = Field(default=256, ge=32, multiple_of=32)
    """Side of a training crop, in pixels at the model's resolution."""
    batch: int = Field(default=8, ge=2)
    max_steps: int = Field(default=1000, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak of a one-cycle schedule."""
    weight_decay: float = Field(default=1e-2, ge=0)
    dice_weight: float = Field(default=0.5, ge=0)
    """Weight of the soft Dice loss beside the cross-entropy's 1."""
    consistency: float = Field(default=0.0, ge=0)
    """Weight of the squared difference between the predictions for two recoloured copies of a crop. Above 0,
    a batch holds each of its crops twice, and so half as many different ones."""
    precision: str = Field(default="bf16-mixed", pattern="^(bf16-mixed|16-mixed|32-true)$")
    accelerator: str = "auto"
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of the network; None: torch's own choice."""
    checkpoint_steps: int = Field(default=100, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        known = {canonical_name(c.name) for c in self.model.classes}
        for name in (*(d.known_class for d in self.datasets), self.blank_is_not):
            if name is not None and canonical_name(name) not in known:
                raise ValueError(f"class {name!r} is none of the model's classes")
        if not any(d.weight > 0 and d.holdout < 1 for d in self.datasets):
            raise ValueError("no data set is left to train on")
        return self

    def code_of(self, name: str) -> int:
        """Return the code of a class of the model."""
        return next(c.code for c in self.model.classes if canonical_name(c.name) == canonical_name(name))


def read_train_config(path: Path) -> TrainConfig:
    """Read a training configuration; `$NAME` and `${NAME}` in paths stand for environment variables.

    Raises:
        UsageError: the file cannot be read, or a key or value in it is wrong.
    """
    values = read_yaml(path)
    if "data_dir" in values:
        values["data_dir"] = str(_expand(path, str(values["data_dir"])))
    return validated(TrainConfig, values, str(path))


def _expand(config: Path, text: str) -> Path:
    expanded = os.path.expandvars(text)
    unset = re.search(r"\$\{?(\w+)", expanded)
    if unset:
        name = unset.group(1)
        raise UsageError(f"{config}: data_dir {text!r}: environment variable {name} is not set")
    return config.parent / Path(expanded).expanduser()


def resolved(config: TrainConfig) -> dict[str, Any]:
    """Return the configuration as plain values for storing beside the result."""
    return config.model_dump(mode="json")
