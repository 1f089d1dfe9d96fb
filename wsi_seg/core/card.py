"""The model card: what a segmentation model is, as data. Free of torch, so that planning is too.

A model is a folder with `model.safetensors` and `card.json`; this module reads and checks the latter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wsi_seg.core.classes import BCSS, BCSS_GROUPS, ClassGroup, TissueClass, canonical_name, traced_by_default
from wsi_seg.core.errors import ModelError
from wsi_seg.core.files import reading

CARD_NAME = "card.json"
WEIGHTS_NAME = "model.safetensors"


class _CardPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CardClass(_CardPart):
    """One output channel; channel i of the network is `classes[i]`."""

    code: int = Field(ge=1, le=255)
    name: str
    color: tuple[int, int, int]


class CardGroup(_CardPart):
    """Classes reported together."""

    name: str
    codes: tuple[int, ...] = Field(min_length=1)
    color: tuple[int, int, int]


class Normalization(_CardPart):
    """Input = (RGB / 255 - mean) / std, channel by channel, after `chroma_box`."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    chroma_box: int = Field(default=1, ge=1)
    """Side in pixels, odd, of the box over which color is averaged first; brightness stays sharp. Fine
    color is mostly what an encoder made of it: JPEG keeps it at half the resolution. 1: no averaging."""

    @model_validator(mode="after")
    def _odd(self) -> Normalization:
        if self.chroma_box % 2 == 0:
            raise ValueError(f"chroma_box {self.chroma_box} must be odd")
        return self


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
    architecture: str = "Unet"
    """Name of a segmentation-models-pytorch architecture."""
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
    """Side of a square input tile in map pixels; a multiple of 32."""
    overlap: int | None = Field(default=None, ge=0, multiple_of=2)
    """Pixels that neighboring tiles share; should reach as far as the network looks. None: 3/8 of a tile."""
    normalization: Normalization = Field(default_factory=Normalization)
    training_data: str = ""
    metrics: dict[str, Any] = Field(default_factory=dict)
    """Held-out metrics, with a sentence that says on what; see `held_out`."""
    held_out: str = ""
    """The metrics in one line, printed once per run."""

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
        if self.tile % 32:
            raise ValueError(f"tile {self.tile} is not a multiple of 32")
        return self

    @property
    def codes(self) -> tuple[int, ...]:
        """Label value of each output channel."""
        return tuple(c.code for c in self.classes)

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
        single = (ClassGroup(c.name, (c.code,), c.color) for c in self.classes)
        return tuple(group.name for group in traced_by_default(self.class_groups or single))

    def write(self, folder: Path) -> None:
        """Write `card.json` into the model folder."""
        (folder / CARD_NAME).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_card(path: Path) -> ModelCard:
    """Read a card from a `card.json` file or from the model folder that holds it.

    Raises:
        ModelError: the card is missing, is no JSON, or a value in it is wrong.
    """
    path = path / CARD_NAME if path.is_dir() else path
    try:
        with reading(path, ModelError):
            return ModelCard.model_validate_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: the model card is not UTF-8 text") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "card"
        raise ModelError(f"{path}: {where}: {first['msg']} (got {first['input']!r:.80})") from error
