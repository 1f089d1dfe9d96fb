"""Configuration of a training run, read from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from wsi_seg.core.card import ModelCard
from wsi_seg.core.classes import canonical_name
from wsi_seg.core.yaml_config import expanded_path, read_yaml, validated
from wsi_seg.datasets.kinds import AnyDataset
from wsi_seg.datasets.labels import LabelScheme


class _ConfigPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AugmentationConfig(_ConfigPart):
    """Strengths of random changes; 0 turns one off."""

    flip: bool = True
    """Mirror and turn by right angles; an H&E slide has no upper side."""
    angle: float = Field(default=0.0, ge=0, le=180)
    """Crops are turned by up to ± this many degrees."""
    scale: float = Field(default=0.2, ge=0, lt=1)
    """Crops are magnified by a factor in [1 - scale, 1 / (1 - scale)]."""
    elastic: float = Field(default=0.0, ge=0)
    """Standard deviation of a smooth random deformation, in pixels (Ronneberger et al. 2015)."""
    stain: float = Field(default=0.25, ge=0)
    """Gain of each stain's optical density is drawn from 1 ± stain, its offset from ± stain / 10."""
    color: float = Field(default=0.1, ge=0)
    """Brightness and contrast, each drawn from 1 ± color."""
    blur: float = Field(default=0.2, ge=0, le=1)
    """Share of crops that are slightly blurred."""
    chroma: float = Field(default=0.5, ge=0, le=1)
    """Share of crops whose color, not brightness, is averaged over 2, 4 or 8 pixels."""
    jpeg: float = Field(default=0.5, ge=0, le=1)
    """Share of crops that are encoded as JPEG again, with and without subsampled color."""
    blank: float = Field(default=0.1, ge=0, le=1)
    """Share of crops of which a part is replaced by blank glass."""


class GlassConfig(_ConfigPart):
    """A class for glass that shows through tissue; see `wsi_seg.training.glass`."""

    class_name: str
    """Class of the model that glass gets."""
    brightness: float = Field(default=215.0, ge=0, le=255)
    """Gray level from which the darkest of the three colors of a pixel counts as glass."""
    narrow: float = Field(default=0.75, ge=0)
    """Radius in micrometers; narrower bright ground stays as annotated."""
    wide: float = Field(default=7.0, gt=0)
    """Radius in micrometers. Wider bright ground may be a fat cell, so it is not called glass."""
    wide_classes: tuple[str, ...] = ()
    """Classes that wide bright ground keeps, such as fat; with any other annotation it is ignored."""


class LossConfig(_ConfigPart):
    """The loss is the sum of these terms, each times its weight; 0 leaves one out."""

    cross_entropy: float = Field(default=1.0, ge=0)
    dice: float = Field(default=0.5, ge=0)
    focal: float = Field(default=0.0, ge=0)
    focal_gamma: float = Field(default=2.0, ge=0)
    class_weights: Literal["equal", "balanced"] | dict[str, float] = "equal"
    """Weight of a pixel in cross-entropy and focal loss by its class. balanced: the median frequency of a
    class divided by that of this one; or a table by class name, 1 for those that it leaves out."""
    image_label: float = Field(default=1.0, ge=0)
    """Cross-entropy of the class of the whole image, for models with image labels."""
    consistency: float = Field(default=0.0, ge=0)
    """Squared difference between the predictions for two recolored copies of a crop; above 0 the network
    sees each crop of a batch twice."""


class OptimizerConfig(_ConfigPart):
    """How the weights follow the loss."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak of the schedule."""
    encoder_factor: float = Field(default=1.0, gt=0)
    """Learning rate of the encoder relative to the rest."""
    weight_decay: float = Field(default=1e-2, ge=0)
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    """one_cycle: a linear rise over the first tenth, then a cosine to zero; cosine: the latter alone."""


class TrainConfig(_ConfigPart):
    """One training run."""

    model: ModelCard
    """The card of the model to be made; its metrics are completed by the run."""
    data_dir: Path = Path()
    """Folder under which data and encoder weights lie; relative to the configuration file."""
    encoder_weights: str | None = None
    """Where the encoder starts: a safetensors file relative to `data_dir`; a name that
    segmentation-models-pytorch downloads, such as imagenet; None: random."""
    start_from: str | None = None
    """Model of the same architecture to start from: a bundled name or a model folder."""
    datasets: tuple[AnyDataset, ...] = Field(min_length=1)
    ignored_codes: tuple[int, ...] = (0, 7, 15)
    """Mask codes of zero weight: BCSS outside_roi, exclude, undetermined."""
    allow_missing_classes: bool = Field(
        default=False, validation_alias=AliasChoices("allow_missing_classes", "untaught_classes")
    )
    """Accept classes of the model without a single training pixel; otherwise they are an error."""
    blank_excludes: str | None = Field(
        default=None, validation_alias=AliasChoices("blank_excludes", "blank_is_not")
    )
    """Class that blank glass cannot be; the loss knows no more about it. None: it knows nothing."""
    glass: GlassConfig | None = None
    """A class of its own for glass within tissue, and for pasted glass. None: there is none."""
    assessed_pixels: int = Field(default=1000, ge=0)
    """Fewest training pixels, at the model's resolution, of a class that the model may predict. Classes with
    fewer are "not assessed": they take no part in training and get no probability."""
    keep_assessed: bool = False
    """Classes that the card given as `model` predicts stay assessed, however few training pixels these data
    have of them: for a training that starts from that model."""
    prior: dict[str, Annotated[float, Field(gt=0)]] | None = None
    """Shares of classes, by name, in the tissue that the model is for, in any unit. Crops show rare classes
    more often; the finished model's logits are moved by the difference, see
    `wsi_seg.training.prior`. A model of `start_from` whose card tells the shares in its crops is taken to
    have been moved to the same prior, and starts as it was before. None: they are not moved."""
    crop_shares: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = None
    """Shares of classes, by name, in the crops, which `prior` is set against. None: counted in crops of this
    training. A short training from another model keeps the shares of that one: a few steps hardly teach a
    network how frequent classes are in other crops, so that without a step nothing moves."""
    temperature: float | None = Field(default=None, gt=0)
    """Number by which the model divides its logits. None: fitted on the validation part; 1 without one."""
    sampling: Literal["classes", "regions"] = "classes"
    """classes: random crops, balanced over data sets by weight and over the classes in each.
    regions: one crop of every region in each epoch; of a tile as large as the crop, the whole."""
    augmentation: AugmentationConfig = AugmentationConfig()
    crop: int = Field(default=256, ge=32, multiple_of=32)
    """Side of a training crop, in pixels at the model's resolution."""
    batch: int = Field(default=8, ge=2)
    """Crops per step on each device."""
    epochs: int = Field(default=10, ge=1)
    steps_per_epoch: int | None = Field(default=None, ge=1)
    """None, with sampling by regions: as many as it takes to see every region once."""
    patience: int | None = Field(default=None, ge=1)
    """Early stopping: epochs without a better monitored value after which training ends."""
    monitor: Literal["validation_loss", "validation_dice"] = "validation_loss"
    """Decides which epoch's weights are kept; needs a validation part."""
    keep: Literal["best", "last"] = "best"
    """Weights of the best epoch (without a validation part: the last), or of the last one."""
    freeze_encoder: bool = False
    """Keep the encoder as it starts, its normalization statistics too."""
    unfreeze_epoch: int | None = Field(
        default=None, ge=1, validation_alias=AliasChoices("unfreeze_epoch", "thaw_epoch")
    )
    """Epoch, counted from 0, from which a frozen encoder is trained as well; None: never."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Keep an exponential moving average of the weights, with this decay per step. None: do not."""
    average_epochs: int | None = Field(default=None, ge=2)
    """Take the mean of the weights at the ends of the last so many epochs (stochastic weight averaging,
    Izmailov et al. 2018); goes with short epochs and a constant learning rate. None: do not."""
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: Literal["bf16-mixed", "16-mixed", "32-true"] = "bf16-mixed"
    accelerator: str = "auto"
    devices: int | Literal["auto"] = 1
    """GPUs, or processes on the CPU."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of the network; None: torch's own choice."""
    loader_workers: int = Field(default=0, ge=0)
    """Processes that cut and augment crops; 0: the training process itself."""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        known = {canonical_name(c.name) for c in self.model.classes}
        tables = self.loss.class_weights if isinstance(self.loss.class_weights, dict) else ()
        glass = () if self.glass is None else (self.glass.class_name, *self.glass.wide_classes)
        named = (*glass, *tables, *(self.prior or ()), *(self.crop_shares or ()))
        for name in (*(d.known_class for d in self.datasets), self.blank_excludes, *named):
            if name is not None and canonical_name(name) not in known:
                raise ValueError(f"class {name!r} is none of the model's classes")
        if self.glass is not None and self.blank_excludes is not None:
            raise ValueError("glass has a class of its own; give glass or blank_excludes, not both")
        names = [d.name for d in self.datasets]
        if len(set(names)) != len(names):
            raise ValueError(f"data sets need distinct names, got {', '.join(names)}")
        if not any(d.weight > 0 for d in self.datasets):
            raise ValueError("no data set is left to train on: all have weight 0")
        if self.sampling == "classes" and self.steps_per_epoch is None:
            raise ValueError("sampling by classes has no end of its own; give steps_per_epoch")
        if self.average_epochs is not None and self.ema_decay is not None:
            raise ValueError("average_epochs and ema_decay both average the weights; give one of them")
        if self.average_epochs is not None and self.average_epochs > self.epochs:
            raise ValueError(f"average_epochs is {self.average_epochs}, but there are {self.epochs} epochs")
        if self.unfreeze_epoch is not None and not self.freeze_encoder:
            raise ValueError("unfreeze_epoch needs freeze_encoder: true")
        if self.unfreeze_epoch is not None and self.devices != 1:
            raise ValueError("unfreeze_epoch works on one device only; set devices: 1")
        return self

    @property
    def scheme(self) -> LabelScheme:
        """Meaning of the targets in this run."""
        card = self.model
        return LabelScheme(card.tissue_classes, card.mpp, self.ignored_codes, card.image_labels)

    def channel_of(self, name: str) -> int:
        """Return the output channel of a class of the model."""
        names = [canonical_name(c.name) for c in self.model.classes]
        return names.index(canonical_name(name))


def read_train_config(path: Path) -> TrainConfig:
    """Read a training configuration; `$NAME` and `${NAME}` in `data_dir` stand for environment variables.

    Raises:
        UsageError: the file cannot be read, or a key or value in it is wrong.
    """
    values = read_yaml(path)
    if "data_dir" in values:
        values["data_dir"] = str(expanded_path(str(values["data_dir"]), path).resolve())
    return validated(TrainConfig, values, str(path))


def resolved(config: TrainConfig) -> dict[str, Any]:
    """Return the configuration as plain values for storing next to the result."""
    return config.model_dump(mode="json")
