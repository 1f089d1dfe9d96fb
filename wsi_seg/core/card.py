"""The model card: what a segmentation model is, as data. Free of torch, so that planning is too.

A model is a folder with `model.safetensors` and `card.json`; this module reads and checks the latter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from wsi_seg.core.classes import BCSS, BCSS_GROUPS, ClassGroup, TissueClass, canonical_name, traced_by_default
from wsi_seg.core.concepts import Concept
from wsi_seg.core.errors import ModelError
from wsi_seg.core.files import reading

CARD_NAME = "card.json"
WEIGHTS_NAME = "model.safetensors"

# `segmentation` is the main job; `tissue` and `artifacts` look at a slide at low power, before it is planned.
Task = Literal["segmentation", "tissue", "artifacts"]


class _CardPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CardClass(_CardPart):
    """One class; channel i of the network is `classes[i]`."""

    code: int = Field(ge=1, le=255)
    name: str
    color: tuple[int, int, int]
    concept: Concept | None = None
    """Its meaning as a coded concept, for DICOM; None: see `wsi_seg.core.concepts.concept_of`."""

    @field_validator("code", mode="before")
    @classmethod
    def _zero_is_taken(cls, code: object) -> object:
        if code == 0:
            raise ValueError(
                "0 means not analyzed in maps; count from 1, and map the 0 of masks by class_names"
            )
        return code


class CardGroup(_CardPart):
    """Classes reported together."""

    name: str
    codes: tuple[int, ...] = Field(min_length=1)
    color: tuple[int, int, int]
    concept: Concept | None = None
    """As that of a class."""


class Normalization(_CardPart):
    """Input = (RGB / scale - mean) / std, channel by channel, after `chroma_box`."""

    scale: float = Field(default=255, gt=0)
    """Value of a channel that counts as 1; 1 for networks that take 0 … 255."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """Order of the channels of the input, and of `mean` and `std`."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    chroma_box: int = Field(default=1, ge=1)
    """Side in pixels, odd, of the box over which color is averaged first; brightness stays sharp. Fine
    color is mostly what an encoder made of it: JPEG keeps it at half the resolution. 1: no averaging."""

    jpeg_quality: int | None = Field(default=None, ge=1, le=100)
    """Each tile is first compressed as JPEG of this quality, colors at half the resolution, where the network
    was trained on such. None: it is not."""

    @model_validator(mode="after")
    def _odd(self) -> Normalization:
        if self.chroma_box % 2 == 0:
            raise ValueError(f"chroma_box {self.chroma_box} must be odd")
        return self


class OutputGeometry(_CardPart):
    """Where the pixels of the network's output lie in its input, of side stride × output + 2 × margin."""

    margin: int = Field(default=0, ge=0)
    """Pixels of the input at each side that have no output, as with convolutions without padding."""
    stride: int = Field(default=1, ge=1)
    """Pixels of the input along one of the output, which is enlarged to the resolution of the input."""
    interpolation: Literal["bilinear", "nearest"] = "bilinear"
    """How it is enlarged; bilinear: centers of pixels as torch has them without `align_corners`."""
    of: Literal["probabilities", "logits"] = "probabilities"
    """Values that are enlarged: probabilities, or the logits that they are made of."""

    @property
    def plain(self) -> bool:
        """True where the output has the size of the input."""
        return self.margin == 0 and self.stride == 1


Head = Literal["softmax", "sigmoid", "argmin", "none"]


class StainRange(_CardPart):
    """A measure of stain in the training data."""

    low: float
    """Least mean of a patient."""
    high: float
    """Largest mean of a patient."""
    spread: float = Field(gt=0)
    """Standard deviation of tiles of 64 µm within a patient, and between the means of patients, together."""


class Domain(_CardPart):
    """Look of the training data, with which slides are compared; see `wsi_seg.tissue.domain`."""

    method: Literal["stain"] = "stain"
    """Optical density of stained pixels, and the shares of red and blue in it."""
    patients: int = Field(ge=3)
    """Patients measured; where they are unknown, images."""
    tiles: int = Field(ge=1)
    """Training tiles measured."""
    density: StainRange
    """Sum of the optical densities of red, green and blue."""
    red: StainRange
    """Share of red in it."""
    blue: StainRange
    """Share of blue in it."""
    left_out: tuple[float, ...] = ()
    """Score of each patient against all others, ascending."""
    threshold: float = Field(default=3.0, gt=0)
    """Spreads beyond low or high of any measure at which a slide is marked as unlike: three standard
    deviations, a convention, not fitted."""


def _bcss_classes() -> tuple[CardClass, ...]:
    return tuple(CardClass(code=c.code, name=c.name, color=c.color) for c in BCSS)


def _bcss_groups() -> tuple[CardGroup, ...]:
    return tuple(CardGroup(name=g.name, codes=g.codes, color=g.color) for g in BCSS_GROUPS)


class ModelCard(_CardPart):
    """Everything about a model but its weights."""

    name: str
    version: str = "1"
    description: str = ""
    license: str = ""
    notice: str = ""
    """One sentence printed once per run, such as "demonstration, not for clinical use"."""
    task: Task = "segmentation"
    """Kind of model: classes of tissue; where there is tissue (`--tissue`); or artifacts (`--qc`)."""
    format: str = "smp"
    """How the network is stored, see `formats`; smp: by segmentation-models-pytorch, with safetensors."""
    architecture: str = "Unet"
    """Name of an architecture of the format, for smp one of segmentation-models-pytorch."""
    encoder: str = "resnet34"
    """Name of a segmentation-models-pytorch encoder."""
    architecture_options: dict[str, Any] = Field(default_factory=dict)
    """Further keyword arguments of the architecture, such as decoder_attention_type."""
    classes: tuple[CardClass, ...] = Field(default_factory=_bcss_classes)
    groups: tuple[CardGroup, ...] = Field(default_factory=_bcss_groups)
    traced: tuple[str, ...] | None = None
    """Groups, or classes where no group has the name, that a run traces unless it is asked for others. None:
    see `traced_by_default`, of the groups or, without any, of the classes. Training names them."""
    image_labels: tuple[str, ...] = ()
    """Classes of a whole image, predicted by a second output of the network; empty: it has none."""
    mpp: float = Field(default=0.5, gt=0)
    """Microns per pixel of the network's input."""
    tile: int = Field(default=512, ge=32)
    """Side of a square input tile in map pixels; a multiple of `input_multiple`."""
    input_multiple: int = Field(default=32, ge=1)
    """The network takes inputs of which the sides are multiples of this; `tile` where it takes no other."""
    batch: int | None = Field(default=None, ge=1)
    """Tiles of a forward pass where the network takes no other number; None: any."""
    output: OutputGeometry = Field(default_factory=OutputGeometry)
    head: Head = "softmax"
    """How the output becomes probabilities. softmax: over the channels. sigmoid: of each channel, and the
    last class, which has no channel, gets 1 - the largest. argmin: (1 - softmax) / (channels - 1), of a
    network whose least channel is the class. none: the network returns probabilities."""
    temperature: float = Field(default=1, gt=0)
    """The logits are divided by it (Guo et al. 2017, arXiv:1706.04599)."""
    overlap: int | None = Field(default=None, ge=0, multiple_of=2)
    """Pixels that neighboring tiles share; should reach as far as the network looks. None: 3/8 of a tile."""
    normalization: Normalization = Field(default_factory=Normalization)
    training_data: str = ""
    trained_pixels: dict[str, int] | None = None
    """Pixels of each class that it was trained on, at its resolution; None: not known."""
    assessed: tuple[str, ...] | None = None
    """Names of the classes that are predicted; others get no probability. None: all are."""
    metrics: dict[str, Any] = Field(default_factory=dict)
    """Held-out metrics, with a sentence that says on what; see `held_out`."""
    held_out: str = ""
    """The metrics in one line, printed once per run."""
    domain: Domain | None = None
    """Look of the training data; slides unlike it are marked. None: nothing is said. Training writes it."""

    @model_validator(mode="after")
    def _check(self) -> ModelCard:
        codes = [c.code for c in self.classes]
        if len(set(codes)) != len(codes) or not codes:
            raise ValueError("classes need at least one entry and distinct codes")
        if len(self.image_labels) == 1 or len(set(self.image_labels)) != len(self.image_labels):
            raise ValueError("image_labels need two entries or more, all distinct")
        unknown = {code for g in self.groups for code in g.codes} - set(codes)
        if unknown:
            raise ValueError(f"groups name codes without a class: {sorted(unknown)}")
        if self.traced == ():
            raise ValueError("traced names nothing; leave it out, or name a group")
        known = {canonical_name(n) for n in (*(g.name for g in self.groups), *(c.name for c in self.classes))}
        for name in self.traced or ():
            if canonical_name(name) not in known:
                raise ValueError(f"traced names {name!r}, which is no group and no class of the model")
        if self.tile % self.input_multiple:
            raise ValueError(f"tile {self.tile} is not a multiple of {self.input_multiple}")
        self._check_output()
        return self

    def _check_output(self) -> None:
        inside = self.tile - 2 * self.output.margin
        if inside <= 0 or inside % self.output.stride:
            raise ValueError(
                f"output: tile {self.tile} less a margin of {self.output.margin} on each side is no multiple "
                f"of the stride {self.output.stride}"
            )
        if self.head in ("sigmoid", "argmin") and len(self.classes) < 2:
            raise ValueError(
                f"head {self.head} needs two classes or more; the last one of sigmoid is the rest"
            )
        if self.output.of == "logits" and self.head == "none":
            raise ValueError("output.of: the head none has no logits; use probabilities")
        names = [c.name for c in self.classes]
        for field in ("assessed", "trained_pixels"):
            unknown = set(getattr(self, field) or ()) - set(names)
            if unknown:
                raise ValueError(f"{field} names what is no class of the model: {', '.join(sorted(unknown))}")
        if self.assessed is not None and self.head != "softmax":
            raise ValueError(
                f"assessed: classes can be left out of a softmax only, not with head {self.head}"
            )
        if self.assessed == ():
            raise ValueError("assessed names nothing; leave it out, or name a class")

    @property
    def codes(self) -> tuple[int, ...]:
        """Label value of each output channel."""
        return tuple(c.code for c in self.classes)

    @property
    def channels(self) -> int:
        """Channels of the network's output."""
        return len(self.classes) - (self.head == "sigmoid")

    @property
    def assessed_channels(self) -> tuple[int, ...] | None:
        """Channels of the classes that are predicted, in order; None: all are."""
        if self.assessed is None:
            return None
        return tuple(i for i, c in enumerate(self.classes) if c.name in self.assessed)

    @property
    def tissue_classes(self) -> tuple[TissueClass, ...]:
        return tuple(TissueClass(c.code, c.name, c.color) for c in self.classes)

    @property
    def class_groups(self) -> tuple[ClassGroup, ...]:
        return tuple(ClassGroup(g.name, g.codes, g.color) for g in self.groups)

    @property
    def traced_names(self) -> tuple[str, ...]:
        """Names of the groups, else classes, that a run traces by default."""
        if self.traced is not None:
            return self.traced
        single = (c.alone for c in self.tissue_classes)
        return tuple(group.name for group in traced_by_default(self.class_groups or single))

    def write(self, folder: Path) -> None:
        """Write `card.json` into the model folder."""
        (folder / CARD_NAME).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


# Fields that a card in a file has to state: a wrong guess would go unnoticed.
STATED = ("classes", "groups", "mpp")


def read_card(path: Path) -> ModelCard:
    """Read a card from a `card.json` file or from the model folder that holds it.

    Raises:
        ModelError: the card is missing, is no JSON, a value in it is wrong, or it does not state its classes,
            groups and resolution.
    """
    path = path / CARD_NAME if path.is_dir() else path
    try:
        with reading(path, ModelError):
            card = ModelCard.model_validate_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: the model card is not UTF-8 text") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "card"
        raise ModelError(f"{path}: {where}: {first['msg']} (got {first['input']!r:.80})") from error
    missing = [name for name in STATED if name not in card.model_fields_set]
    if missing:
        raise ModelError(
            f"{path}: lacks {', '.join(missing)}; there is no default for them (groups may be an empty list)"
        )
    return card
